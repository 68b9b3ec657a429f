"""Train TITA: one network for all tasks at once, the same number of crops of each in every step."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.registry import TITA_CONFIGS
from models.tita import TITA
from training.config import load_recipe
from training.conflict import gradient_angles
from training.data.images import DataError
from training.data.tasks import TaskBatch, TaskSampler
from training.famo import make_weighting, replayed
from training.record import run_records
from training.run import CHECKPOINT, cosine_lr, load_checkpoint, rng_state
from training.tita_loss import task_loss
from training.tita_recipe import TITARecipe
from training.tita_validation import TaskExamples
from training.trainer import Trainer, add_run_arguments


class Unclamped(nn.Module):
    """The network without its final clamp, which would kill gradients, as one call for data-parallel training."""

    def __init__(self, network: TITA) -> None:
        super().__init__()
        self.network = network

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two sources -> fused, (N, 1, R, R) each; float32."""
        nothing = a.new_zeros(a.shape[0], 0)
        code = self.network.encode(a)
        return self.network.fuse_unclamped(a, b, code, code, nothing).float()


class TITATrainer(Trainer):
    """Trains the shared network on all tasks, their losses weighted by FAMO or equally."""

    kind = "tita"

    def __init__(self, recipe: TITARecipe, data: Path, out: Path, *, devices: int = 1) -> None:
        super().__init__(recipe, out, devices=devices)
        self.recipe = recipe
        self.sampler = TaskSampler(
            data, recipe.tasks, recipe.sampling, self.fabric.device, max_cache_mb=recipe.max_cache_mb
        )
        self.examples = TaskExamples(data, recipe.validation, max_cache_mb=recipe.max_cache_mb)
        self.module: TITA = build_network(recipe.profile, recipe.network)
        optim = recipe.optim
        adam = torch.optim.AdamW if optim.weight_decay else torch.optim.Adam
        optimizer = adam(parameter_groups(self.module), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
        self.model, self.optimizer = self.fabric.setup(Unclamped(self.module), optimizer)
        self.average: TITA = deepcopy(self.module).requires_grad_(False)
        self.weighting = make_weighting(recipe.weighting, self.sampler.names, self.fabric.device, self._mean)
        self._angles: dict[str, float] = {}
        self.ready()

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.steps

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return self.recipe.validation.every

    def data_counts(self) -> dict[str, int]:
        """Training pairs and single images per folder."""
        return self.sampler.counts

    def extra_state(self) -> dict[str, Any]:
        """The network's configuration, and what the weighting has learned."""
        return {
            "profile": self.recipe.profile,
            "network": self.recipe.network,
            "weighting": self.weighting.state_dict(),
        }

    def load_extra(self, state: Mapping[str, Any]) -> None:
        """Take back the state of the weighting."""
        self.weighting.load_state_dict(state["weighting"])

    def start_from(self, run_folder: Path) -> None:
        """Take the averaged weights of a finished run; its record goes into this run's checkpoints.

        Raises:
            DataError: The run is of another kind or network.
        """
        model, _ = load_trained(run_folder)
        if model.config != self.module.config:
            raise DataError(f"{run_folder} holds another network than the recipe's {self.recipe.profile}")
        self.module.load_state_dict(model.state_dict())
        self.average.load_state_dict(model.state_dict())
        self.earlier = run_records(run_folder, self.kind)

    def losses(self, batches: Mapping[str, TaskBatch], model: nn.Module | None = None) -> Tensor:
        """Loss of every task with the network as it is, (M,), by one forward pass over all crops.

        Args:
            batches: By task.
            model: What to call instead of the network as Fabric wraps it.
        """
        a, b = (torch.cat([getattr(batch, name) for batch in batches.values()]) for name in ("a", "b"))
        fused = (model or self.model)(a, b).split(self.recipe.sampling.batch)
        tasks = zip(batches.values(), fused, self.recipe.tasks, strict=True)
        return torch.stack([task_loss(batch, image, task.objective) for batch, image, task in tasks])

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step, and one of the weighting; returns loss, weight and conflict of the tasks."""
        self._set_learning_rate()
        with self.clock.part("data"):
            batches = self.sampler.draw()
        drawn = rng_state()
        with self.clock.part("forward"):
            losses = self.losses(batches)
            self.finite(losses.sum())
            objective = self.weighting.objective(losses)
        values = {
            "loss": losses.mean(),
            **self._by_task("loss", losses),
            **self._by_task("weight", self.weighting.weights),
        }
        self._angles = self._measure_angles(batches, drawn) if self._angles_due() else {}
        self.optimizer.zero_grad(set_to_none=True)
        with self.clock.part("backward"):
            self.fabric.backward(objective)
        with self.clock.part("step"):
            self.clip_gradients(self.module.parameters(), self.recipe.optim.clip)
            self.optimizer.step()
            self.update_average(self.recipe.optim.ema)
        if self.weighting.measures_again:
            with self.clock.part("weighting"):
                self._measure_again(batches, drawn)
        return {name: value.detach() for name, value in values.items()}

    def _set_learning_rate(self) -> None:
        optim = self.recipe.optim
        rate = cosine_lr(self.step, self.steps, peak=optim.lr, warmup=optim.warmup_steps, min_ratio=optim.min_lr_ratio)
        for group, ratio in zip(self.optimizer.param_groups, (self.recipe.body_lr_ratio, 1.0), strict=True):
            group["lr"] = ratio * rate

    @torch.no_grad()
    def _measure_again(self, batches: Mapping[str, TaskBatch], drawn: Mapping[str, Any]) -> None:
        if self.recipe.weighting.same_masks:
            with replayed(drawn):
                self.weighting.update(self.losses(batches))
        else:
            self.weighting.update(self.losses(batches))

    def _angles_due(self) -> bool:
        every = self.recipe.validation.angles_every
        return every > 0 and self.step % every == 0 and len(self.sampler.names) > 1

    def _measure_angles(self, batches: Mapping[str, TaskBatch], drawn: Mapping[str, Any]) -> dict[str, float]:
        """Angle in degrees between the gradients of each two tasks."""
        # Fabric refuses gradients that it does not take itself, so this is a forward pass of its own
        with replayed(drawn), self.fabric.autocast():
            losses = self.losses(batches, Unclamped(self.module))
        angles = gradient_angles(list(losses), self.module.parameters()).tolist()
        names = self.sampler.names
        return {f"angle/{names[i]}/{names[j]}": angles[i][j] for i, j in combinations(range(len(names)), 2)}

    def measurements(self) -> dict[str, float]:
        """Angles between the gradients of the tasks, if the last step measured them."""
        return self._angles

    def _by_task(self, what: str, values: Tensor) -> dict[str, Tensor]:
        return {f"{what}/{name}": value for name, value in zip(self.sampler.names, values, strict=True)}

    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores and pictures of the averaged network."""
        return self.examples.scores(self.average)


def parameter_groups(model: TITA) -> list[dict[str, Any]]:
    """The body of the network, then what says last how the image is made: the last convolution and the blend's own."""
    last = [*model.head[4].parameters(), *model.output.parameters()]
    chosen = {id(parameter) for parameter in last}
    return [{"params": [p for p in model.parameters() if id(p) not in chosen]}, {"params": last}]


def build_network(profile: str, changes: Mapping[str, Any]) -> TITA:
    """An untrained network.

    Args:
        profile: Its name in ``models.registry``.
        changes: Values of its configuration that differ.

    Raises:
        DataError: No such profile, or no such value.
    """
    if profile not in TITA_CONFIGS:
        raise DataError(f"no TITA profile {profile!r}; known: {', '.join(TITA_CONFIGS)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    try:
        return TITA(replace(TITA_CONFIGS[profile], **values))
    except (TypeError, ValueError) as error:
        raise DataError(f"network: {error}") from error


def load_trained(run_folder: Path, *, checkpoint: str = CHECKPOINT) -> tuple[TITA, dict[str, Any]]:
    """The averaged network of a run folder in eval mode, and its checkpoint's record.

    Raises:
        DataError: The folder holds another kind of run.
    """
    state = load_checkpoint(run_folder / checkpoint)
    if state.get("kind") != TITATrainer.kind:
        raise DataError(f"{run_folder} is a {state.get('kind')} run: give the folder of a tita run")
    model = build_network(state["profile"], state["network"])
    model.load_state_dict(state["average"])
    return model.eval(), state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training tita``."""
    add_run_arguments(parser, "tita")
    parser.add_argument("--start-from", type=Path, help="run folder whose averaged weights to begin with")


def run(args: argparse.Namespace) -> None:
    """Train or go on training."""
    recipe = load_recipe(args.recipe, TITARecipe, args.set)
    trainer = TITATrainer(recipe, args.data, args.out, devices=args.devices)
    if args.start_from is not None:
        trainer.start_from(args.start_from)
    trainer.resume()
    trainer.fit()
