"""Weights of several tasks' losses: FAMO, which lets all of them fall at the same rate, and the plain mean.

FAMO (Liu and others, "Fast Adaptive Multitask Optimization", NeurIPS 2023) as TITA uses it. One iteration, in order::

    losses = each task's loss on its own batch                   # (M,), train mode
    backward(weighting.objective(losses))
    clip the gradients, if at all                                # after backward: before it there is nothing to clip
    optimizer.step()
    if weighting.measures_again:
        weighting.update(the same batches' losses, no gradient)  # with the new weights of the network
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from training.config import Strict
from training.data.images import DataError
from training.run import restore_rng, rng_state

EPSILON = 1e-8
"""Added to every loss before its logarithm."""

Average = Callable[[Tensor], Tensor]
"""Mean of a tensor (M,) over the processes of a parallel run."""


class WeightingConfig(Strict):
    """How the losses of the tasks become one.

    Attributes:
        kind: ``famo``, or the ``mean`` of all losses.
        lr: Learning rate of FAMO's logits.
        decay: Pull of the logits towards 0 (γ), an L2 penalty; it forgets what was learned about earlier losses.
        same_masks: Measure again with the drop-path masks of the first time. Masks of its own, as in the paper's code,
            change a loss by about as much as one step does.
        min_losses: Smallest possible loss of each task; 0 for all by default.
    """

    kind: Literal["famo", "mean"] = "famo"
    lr: float = Field(default=0.025, gt=0)
    decay: float = Field(default=1e-3, ge=0)
    same_masks: bool = False
    min_losses: tuple[float, ...] = ()


class TaskWeighting(ABC):
    """Turns the losses of all tasks into the scalar that is minimised.

    Args:
        tasks: Their names, in the order of the losses.
        device: Of the losses.

    Attributes:
        measures_again: Whether ``update`` is to be called after the optimiser's step.
    """

    kind: ClassVar[str]
    measures_again: ClassVar[bool]

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        if not tasks or len(set(tasks)) < len(tasks):
            raise DataError(f"tasks must have names of their own, got {', '.join(tasks) or 'none'}")
        self.tasks, self.device = tuple(tasks), device

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """Weight of each task, (M,), sum 1, without gradient."""

    @abstractmethod
    def objective(self, losses: Tensor) -> Tensor:
        """The scalar to minimise.

        Args:
            losses: (M,) in the order of the tasks, with gradient.

        Raises:
            DataError: A loss is not finite, or so small that its logarithm does not exist; the message names the task.
            ValueError: There is not one loss for each task.
        """

    @abstractmethod
    def update(self, losses: Tensor) -> None:
        """Learn from the losses of the same batches after the optimiser's step, (M,).

        Raises:
            DataError: As ``objective``.
            ValueError: As ``objective``.
        """

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs; take it between iterations."""
        return {"kind": self.kind, "tasks": list(self.tasks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``.

        Raises:
            DataError: The state is of another kind or of other tasks.
        """
        theirs = f"{state.get('kind')} of {', '.join(state.get('tasks', []))}"
        if theirs != (ours := f"{self.kind} of {', '.join(self.tasks)}"):
            raise DataError(f"the checkpoint weights tasks by {theirs}, the recipe by {ours}: give another --out")

    def _checked(self, losses: Tensor) -> Tensor:
        if losses.shape != (len(self.tasks),):
            raise ValueError(
                f"expected {len(self.tasks)} losses, one for each of {', '.join(self.tasks)}, got shape "
                f"{tuple(losses.shape)}: stack the losses in the order of the tasks"
            )
        for task, finite in zip(self.tasks, torch.isfinite(losses).tolist(), strict=True):
            if not finite:
                raise DataError(
                    f"the loss of {task} is not finite: lower the learning rate or use precision=32-true, and look at "
                    "the images of this task"
                )
        return losses.float()


class PlainMean(TaskWeighting):
    """Every task counts the same: the mean of the losses."""

    kind = "mean"
    measures_again = False

    @property
    def weights(self) -> Tensor:
        """1/M each."""
        return torch.full((len(self.tasks),), 1.0 / len(self.tasks), device=self.device)

    def objective(self, losses: Tensor) -> Tensor:
        """The mean."""
        return self._checked(losses).mean()

    def update(self, losses: Tensor) -> None:
        """Nothing to learn."""
        self._checked(losses)


class Famo(TaskWeighting):
    """Weights that follow from logits ξ; a task whose loss fell more than the others' loses weight.

    Args:
        tasks: Their names, in the order of the losses.
        device: Of the losses.
        config: Numbers of FAMO.
        average: Mean of losses over the processes of a parallel run, so that all have the same logits.
    """

    kind = "famo"
    measures_again = True

    def __init__(
        self, tasks: Sequence[str], device: torch.device, config: WeightingConfig, average: Average | None = None
    ) -> None:
        super().__init__(tasks, device)
        self._average = average or (lambda losses: losses)
        least = config.min_losses or (0.0,) * len(tasks)
        if len(least) != len(tasks):
            raise DataError(f"min_losses has {len(least)} values for {len(tasks)} tasks: give one for each, or none")
        self.min_losses = torch.tensor(least, device=device)
        self.logits = torch.zeros(len(tasks), device=device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=config.lr, weight_decay=config.decay)
        self._before: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """Z = softmax(ξ)."""
        return self.logits.detach().softmax(dim=0)

    def objective(self, losses: Tensor) -> Tensor:
        """Σ (Z / c) · log ℓ with c = Σ Z / ℓ held fixed, whose gradient is Σ (Z / ℓ) · ∇ℓ / c (eq. 7)."""
        excess = self._excess(losses)
        self._before = self._average(excess.detach())
        c = (self.weights / excess.detach()).sum()
        return (self.weights / c * excess.log()).sum()

    @torch.no_grad()
    def update(self, losses: Tensor) -> None:
        """Move ξ along the gradient δ = Jᵀ Δ of the slowest decrease, Δ = log ℓ - log ℓ' (eq. 8), with Adam."""
        after = self._average(self._excess(losses))
        if self._before is None:
            raise ValueError("call objective before update: the decrease is measured from it")
        decrease, z = self._before.log() - after.log(), self.weights
        self.logits.grad = z * (decrease - (z * decrease).sum())
        self.optimizer.step()
        self._before = None

    def state_dict(self) -> dict[str, Any]:
        """With the logits and the state of their optimiser."""
        own = {"logits": self.logits.detach(), "optimizer": self.optimizer.state_dict()}
        return {**super().state_dict(), **deepcopy(own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """With the logits and the state of their optimiser."""
        super().load_state_dict(state)
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._before = None

    def _excess(self, losses: Tensor) -> Tensor:
        """How far each loss is above its smallest possible value, checked."""
        excess = self._checked(losses) - self.min_losses
        for task, value, least in zip(self.tasks, excess.tolist(), self.min_losses.tolist(), strict=True):
            if value <= 0:
                raise DataError(
                    f"the loss of {task} is {value + least:.3g}, not above {least:g}: FAMO takes its logarithm; "
                    "lower `min_losses`, or weight the tasks by `kind: mean`"
                )
        return excess + EPSILON


def make_weighting(
    config: WeightingConfig, tasks: Sequence[str], device: torch.device, average: Average | None = None
) -> TaskWeighting:
    """The weighting that a recipe asks for.

    Args:
        config: Its part of the recipe.
        tasks: Their names, in the order of the losses.
        device: Of the losses.
        average: Mean over the processes of a parallel run.

    Raises:
        DataError: Task names repeat, or ``min_losses`` has not one value for each task.
    """
    return Famo(tasks, device, config, average) if config.kind == "famo" else PlainMean(tasks, device)


@contextmanager
def replayed(state: Mapping[str, Any]) -> Iterator[None]:
    """Draw again the random numbers that followed ``rng_state()``, then go on as if nothing had been drawn.

    With it the second measurement meets the drop-path masks of the first (``same_masks``).
    """
    now = rng_state()
    restore_rng(state)
    try:
        yield
    finally:
        restore_rng(now)
