"""What all trainers share: device and precision, checkpoints, exact resume, averaged weights, the loop.

A trainer supplies one optimiser step and one validation. Multi-GPU runs are data parallel: every process has the
same weights and draws its own batches, so the effective batch is ``batch`` times the number of devices.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from training.clock import Clock
from training.config import Recipe
from training.data.images import DataError
from training.devices import make_fabric
from training.run import (
    BEST,
    CHECKPOINT,
    Run,
    check_same_recipe,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_atomically,
    seed_everything,
    source_commit,
)

SAVE_SECONDS = 600.0
"""A checkpoint is written at least this often, however rare validations are."""

RESUMED = ("model", "average", "optimizer", "precision", "step", "seconds", "rng", "recipe", "earlier", "history")
"""What a checkpoint must hold for a run to go on."""


class Trainer(ABC):
    """State of a run between steps.

    A subclass sets ``module`` (what is trained and saved), ``average`` (its running mean) and ``optimizer`` in its
    constructor, after this one.

    Args:
        recipe: Everything that decides the run.
        folder: Run folder.
        devices: Processes to train with.

    Attributes:
        step: Steps done.
        clock: Splits the time of a step into parts when a profile asks for it.
    """

    kind: ClassVar[str]
    best_by: ClassVar[tuple[str, ...]] = ()
    module: nn.Module
    average: nn.Module
    optimizer: Any

    def __init__(self, recipe: Recipe, folder: Path, *, devices: int = 1) -> None:
        self.recipe_base, self.folder = recipe, folder
        self.fabric = make_fabric(recipe.precision, devices)
        seed_everything(recipe.seed)
        self.step, self.seconds, self.commit = 0, 0.0, source_commit()
        self.earlier: list[dict[str, Any]] = []
        self.history: list[list[float]] = []
        self.clock = Clock(self.fabric.device)

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of the whole run."""

    @property
    @abstractmethod
    def validate_every(self) -> int:
        """Steps between validations."""

    @abstractmethod
    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and its terms."""

    def measurements(self) -> dict[str, float]:
        """What the last step measured beside its losses; recorded as it is, where losses are smoothed."""
        return {}

    @abstractmethod
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores of the averaged model and pictures (H, W) in [0, 1], by name."""

    def extra_state(self) -> dict[str, Any]:
        """What else a checkpoint of this kind holds."""
        return {}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        """Take back what ``extra_state`` returned, and check what must agree with it."""
        del state

    @abstractmethod
    def data_counts(self) -> dict[str, int]:
        """Training images per folder, for the card."""

    def ready(self) -> None:
        """Give every process random numbers of its own; call at the end of the constructor."""
        torch.manual_seed(self.recipe_base.seed + 1_000_003 * self.fabric.global_rank)

    def resume(self) -> None:
        """Go on from the folder's last checkpoint, if there is one.

        Raises:
            DataError: It is damaged, or of another kind, recipe or number of devices.
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        state = load_checkpoint(path)
        if state.get("kind") != self.kind:
            raise DataError(f"{self.folder} holds a {state.get('kind')} run, not a {self.kind} run: give another --out")
        if missing := [name for name in RESUMED if name not in state]:
            raise DataError(f"{path} is of another version, it lacks {', '.join(missing)}: give another --out")
        check_same_recipe(state, self.recipe_base, self.folder)
        if len(state["rng"]) != self.fabric.world_size:
            raise DataError(
                f"the run in {self.folder} was begun on {len(state['rng'])} device(s): give --devices "
                f"{len(state['rng'])}, or another --out"
            )
        self.load_extra(state)
        self.module.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.step, self.seconds, self.commit = state["step"], state["seconds"], state["commit"]
        self.earlier, self.history = state["earlier"], state["history"]
        restore_rng(state["rng"][self.fabric.global_rank])

    def state(self, seconds: float) -> dict[str, Any]:
        """Everything that an exact resume needs, with the random state of every process."""
        return {
            "kind": self.kind,
            "model": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "step": self.step,
            "seconds": seconds,
            "rng": self._all_rng(),
            "recipe": self.recipe_base.model_dump_json(),
            "commit": self.commit,
            "date": time.strftime("%Y-%m-%d"),
            "device": self.fabric.device.type,
            "data": self.data_counts(),
            "earlier": self.earlier,
            "history": self.history,
            **self.extra_state(),
        }

    def _all_rng(self) -> list[dict[str, Tensor]]:
        if self.fabric.world_size == 1:
            return [rng_state()]
        states: list[dict[str, Tensor]] = [{}] * self.fabric.world_size
        torch.distributed.all_gather_object(states, rng_state())
        return states

    def checkpoint(self, seconds: float, *, best: bool = False) -> None:
        """Write the checkpoint; with ``best`` a second one that later steps do not replace.

        Raises:
            DataError: The disk is full or not writable; the checkpoint before stays whole.
        """
        state = self.state(seconds)  # on every process: it gathers their random states
        failure = ""
        if self.fabric.is_global_zero:
            try:
                # the best one first: a run that is cut between the two does this step again, and saves it again
                for name in (BEST, CHECKPOINT) if best else (CHECKPOINT,):
                    save_atomically(state, self.folder / name)
            except DataError as error:
                failure = str(error)
        if self._anyone(bool(failure)):  # also makes all wait until the file is whole
            self._fail(failure)

    def finite(self, loss: Tensor) -> Tensor:
        """The loss itself.

        Raises:
            DataError: It is not finite in some process.
        """
        if self._anyone(not bool(torch.isfinite(loss))):
            self._fail_not_finite("loss")
        return loss

    def clip_gradients(self, parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
        """Scale the gradients down to a global norm; call between backward and the optimiser's step.

        Args:
            parameters: Whose gradients.
            limit: The norm; 0 leaves them as they are.

        Returns:
            Their norm before.

        Raises:
            DataError: They are not finite. With ``16-mixed`` this only means that the loss was scaled too much; the
                optimiser then skips the step, and the scale falls.
        """
        precision = self.fabric.strategy.precision
        # fp16 gradients carry the loss scale: clipping before dividing by it would clip everything
        precision.unscale_gradients(self.optimizer.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
        scaled = getattr(precision, "scaler", None) is not None
        if not scaled and not bool(torch.isfinite(norm)):  # the same in all processes, as their gradients are
            self._fail_not_finite("gradient")
        return norm

    def _mean(self, value: Tensor) -> Tensor:
        """Mean over the processes of a parallel run; call in all of them, with one shape."""
        if self.fabric.world_size == 1:
            return value
        mean = self.fabric.all_reduce(value, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _fail_not_finite(self, what: str) -> NoReturn:
        self._fail(
            f"the {what} is not finite at step {self.step}: lower the learning rate or use precision=32-true; "
            "the last checkpoint is whole"
        )

    def _fail(self, reason: str) -> NoReturn:
        """End the run in every process; call in all of them. The first says why."""
        if self.fabric.is_global_zero:
            raise DataError(reason)
        sys.exit(0)  # the launcher kills the first process, maybe before it spoke, when it sees another status

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the averaged weights towards the current ones."""
        # early averages would remember the random initial weights, hence the ramp
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for mean, value in self.averaged():
            mean.lerp_(value, 1 - decay)

    def averaged(self) -> Iterable[tuple[Tensor, Tensor]]:
        """The averaged weights, each with the current one."""
        return zip(self.average.parameters(), self.module.parameters(), strict=True)

    def is_best(self, scores: Mapping[str, float]) -> bool:
        """Whether these scores have the best mean rank over ``best_by`` among all validations of the run so far."""
        if not self.best_by or not all(name in scores for name in self.best_by):
            return False
        self.history.append([scores[name] for name in self.best_by])
        values = torch.tensor(self.history).nan_to_num(nan=-torch.inf)  # (V, M)
        better = (values[None] > values[:, None]).sum(dim=(1, 2))  # (V,) how often another validation beats this one
        return bool(better[-1] == better.min())

    def fit(self) -> None:
        """Run to the recipe's last step, validating and saving on the way.

        An interruption (Ctrl-C, SIGTERM) ends the run after the current step, and its validation if one is due, with
        a checkpoint.

        Raises:
            Stopped: The run was interrupted.
            DataError: The loss is no longer finite, or a checkpoint cannot be written.
        """
        first = self.fabric.is_global_zero
        with Run(
            self.folder, self.recipe_base, steps=self.steps, start=self.step, seconds=self.seconds, enabled=first
        ) as run:
            saved = run.seconds
            while self.step < self.steps:
                values = self.train_step()
                run.record(self.step, values)
                if measured := self.measurements():
                    run.write(self.step, measured)
                self.step += 1
                stop = self._anyone(run.stop_requested)
                due = self.step % self.validate_every == 0 or self.step == self.steps
                # a run that goes on begins with the next step, so what is due at this one cannot wait
                best = due and self._validate(run)
                if due or stop or self._anyone(run.seconds - saved > SAVE_SECONDS):
                    self.checkpoint(run.seconds, best=best)
                    saved = run.seconds
                if stop and self.step < self.steps:
                    self._stop(run)

    def _stop(self, run: Run) -> NoReturn:
        if self.fabric.is_global_zero:
            run.say_stopped(self.step)
        sys.exit(0)  # as in _fail

    def _anyone(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.fabric.world_size == 1:
            return flag
        total = self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return bool(total > 0)

    def _validate(self, run: Run) -> bool:
        """Validate; returns whether this was the best so far."""
        # every process validates: cheaper than a barrier that may time out, and random numbers stay untouched
        scores, pictures = self.validate()
        best = self.is_best(scores)
        run.write(self.step, scores)
        for name, rows in pictures.items():
            run.image(name, rows, self.step)
        return best


def add_run_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    """Options that the command of every trainer has; ``recipe`` is its default."""
    parser.add_argument("--recipe", default=recipe, help="recipe name or .yaml path")
    parser.add_argument("--data", type=Path, required=True, help="data root that the recipe's folders lie in")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an interrupted run there goes on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")
    parser.add_argument("--devices", type=int, default=1, help="train data parallel on so many GPUs (or CPU processes)")
