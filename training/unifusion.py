"""Train UniFusion: adapters to rebuild their images (lower level, φ), the fusion network to fuse (upper level, θ).

One step, in the order of the paper: taps of the frozen backbone, once; φ moves along the reconstruction loss; features
are computed anew, and θ moves along the fusion loss; the average of θ follows. No gradient goes through the step of φ.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from models.unifusion import UniFusion
from models.unifusion.backbone import VisionBackbone
from training.config import load_recipe
from training.data.images import DataError
from training.data.tasks import TaskBatch, TaskSampler
from training.record import run_records
from training.run import CHECKPOINT, cosine_lr, load_checkpoint
from training.tita_loss import task_loss
from training.tita_validation import TaskExamples
from training.trainer import Trainer, add_run_arguments
from training.unifusion_levels import Codes, Outcome, TwoLevels, averages_kept, fuses, parameter_groups
from training.unifusion_loss import reconstruction_loss
from training.unifusion_network import check_backbone_of, load_network
from training.unifusion_recipe import RebuiltTask, UniFusionRecipe
from training.unifusion_validation import backbone_use


@dataclass(frozen=True)
class Drawn:
    """What one step sees.

    Attributes:
        tasks: Whose crops, in order.
        batches: Of each task.
        a: First sources of all, (M · N, 1, R, R).
        b: Second sources of all.
        codes: Their taps; None where the encoder is trained.
    """

    tasks: tuple[RebuiltTask, ...]
    batches: tuple[TaskBatch, ...]
    a: Tensor
    b: Tensor
    codes: Codes | None


class UniFusionTrainer(Trainer):
    """Trains both levels alternately, or all at once.

    Attributes:
        optimizer: Of the upper level, and in a joint run of everything.
        adapter_optimizer: Of the lower level; None where there are no two.
    """

    kind = "unifusion"

    def __init__(self, recipe: UniFusionRecipe, data: Path, out: Path, *, devices: int = 1) -> None:
        super().__init__(recipe, out, devices=devices)
        self.recipe, self.tasks = recipe, recipe.trained_tasks
        self.samplers = {
            task.name: TaskSampler(data, [task], recipe.sampling, self.fabric.device, max_cache_mb=recipe.max_cache_mb)
            for task in self.tasks
        }
        self.examples = TaskExamples(data, recipe.examples, max_cache_mb=recipe.max_cache_mb)
        self.network = load_network(recipe)
        self.module: TwoLevels = TwoLevels(self.network)
        self._set_up_optimizers()
        backbone = self.network.backbone
        self.average: TwoLevels = deepcopy(self.module, {id(backbone): backbone})  # one backbone for both
        self.average.requires_grad_(False)
        self._shrunk: float | Tensor = 1.0
        self.ready()

    def _set_up_optimizers(self) -> None:
        upper, lower = parameter_groups(self.module, self.recipe)
        optim = self.recipe.optim

        def adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            kind = torch.optim.AdamW if optim.weight_decay else torch.optim.Adam
            return kind(groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)

        self.adapter_optimizer: Any = None
        if lower and not self.recipe.levels.joint:
            optimizers = adam(upper), adam(lower)
            self.model, self.optimizer, self.adapter_optimizer = self.fabric.setup(self.module, *optimizers)
        else:
            self.model, self.optimizer = self.fabric.setup(self.module, adam(upper + lower))

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
        return {folder: count for sampler in self.samplers.values() for folder, count in sampler.counts.items()}

    def extra_state(self) -> dict[str, Any]:
        """The network's configuration, which backbone it is built around, and the optimiser of the adapters."""
        optimizer = self.adapter_optimizer
        return {
            "profile": self.recipe.profile,
            "network": self.recipe.network,
            "backbone": self.network.identity(),
            "adapter_optimizer": None if optimizer is None else optimizer.state_dict(),
        }

    def load_extra(self, state: Mapping[str, Any]) -> None:
        """Take back the state of the adapters' optimiser.

        Raises:
            DataError: The run was begun with another backbone.
        """
        check_backbone_of(self.network, state, self.folder)
        if self.adapter_optimizer is not None:
            self.adapter_optimizer.load_state_dict(state["adapter_optimizer"])

    def start_from(self, run_folder: Path) -> None:
        """Take the weights of a finished run, the averaged ones of its fusion network; its record goes into this run's.

        Raises:
            DataError: The run is of another kind, network or backbone.
        """
        other, state = load_trained(run_folder)
        check_backbone_of(self.network, state, run_folder)
        if other.config != self.network.config:
            raise DataError(f"{run_folder} holds another network than the recipe's {self.recipe.profile}")
        for model in (self.module, self.average):
            model.load_state_dict(state["average"])
        self.earlier = run_records(run_folder, self.kind)

    def train_step(self) -> dict[str, Tensor]:
        """One step of the upper level, and those of the lower that belong to it; returns the losses of the tasks."""
        self._set_learning_rates()
        self.module.train()
        with self.clock.part("data"):
            drawn = self.draw()
        if self.adapter_optimizer is None:
            values = self.joint_step(drawn)
        else:
            for index in range(self.recipe.levels.inner_steps):
                with nullcontext() if index == 0 else averages_kept(self.module):
                    rebuilt = self.lower_step(drawn)
            with averages_kept(self.module):
                values = self.upper_step(drawn) | rebuilt
        with self.clock.part("average"):
            self.update_average(self.recipe.optim.ema)
        return {name: value.detach() for name, value in values.items()}

    def draw(self) -> Drawn:
        """Random crops of the tasks that are due, with their taps."""
        every = self.recipe.schedule == "all"
        tasks = self.tasks if every else (self.tasks[self.step % len(self.tasks)],)
        batches = tuple(self.samplers[task.name].draw()[task.name] for task in tasks)
        a, b = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("a", "b"))
        if self.network.backbone is None:
            return Drawn(tasks, batches, a, b, None)
        code_a, code_b = self.network.encode(torch.cat([a, b])).chunk(2)
        return Drawn(tasks, batches, a, b, (code_a, code_b))

    def lower_step(self, drawn: Drawn) -> dict[str, Tensor]:
        """Move the adapters and their heads along the reconstruction loss; nothing else changes.

        By what clipping multiplied the gradient is kept for ``upper_step``.
        """
        outcome = self._forward(drawn, rebuild=True, keep_skip=self._kept_skips(len(drawn.a)))
        losses = self._reconstruction(drawn, outcome)
        self.adapter_optimizer.zero_grad(set_to_none=True)
        self._backward(self._weighted(drawn, losses))
        self._shrunk = self._move(self.adapter_optimizer)
        return _by_task("rec", drawn, losses)

    def upper_step(self, drawn: Drawn) -> dict[str, Tensor]:
        """Move the fusion network along the fusion loss, and the adapters only as far as the recipe lets them.

        Clipping multiplies the adapters' gradient by what the last ``lower_step`` multiplied theirs by. Each clipped to
        one norm, both gradients would have the same length, whatever the recipe says of their weights.
        """
        share = self.recipe.levels.fuse_grad_to_adapter
        losses = self._fusion(drawn, self._forward(drawn, fuse=True, to_adapters=share))
        for optimizer in (self.optimizer, self.adapter_optimizer) if share else (self.optimizer,):
            optimizer.zero_grad(set_to_none=True)
        self._backward(losses.mean())
        self._move(self.optimizer)
        if share:
            self._move(self.adapter_optimizer, shrink=self._shrunk)
        return _by_task("loss", drawn, losses)

    def joint_step(self, drawn: Drawn) -> dict[str, Tensor]:
        """Move everything along the sum of both losses, or along the fusion loss where nothing is rebuilt."""
        rebuild = self.module.heads is not None
        keep = self._kept_skips(len(drawn.a)) if rebuild else None
        outcome = self._forward(drawn, rebuild=rebuild, fuse=True, keep_skip=keep)
        losses = self._fusion(drawn, outcome)
        values, objective = _by_task("loss", drawn, losses), losses.mean()
        if rebuild:
            rebuilt = self._reconstruction(drawn, outcome)
            values |= _by_task("rec", drawn, rebuilt)
            objective = objective + self._weighted(drawn, rebuilt)
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(objective)
        self._move(self.optimizer)
        return values

    def _forward(self, drawn: Drawn, **options: Any) -> Outcome:
        with self.clock.part("forward"):
            return self.model(drawn.a, drawn.b, drawn.codes, **options)

    def _backward(self, objective: Tensor) -> None:
        with self.clock.part("backward"):
            self.fabric.backward(self.finite(objective))

    def _move(self, optimizer: Any, *, shrink: float | Tensor | None = None) -> float | Tensor:
        """One step of an optimiser; returns what its gradients were multiplied by: ``shrink``, or what clips them."""
        clip = self.recipe.optim.clip
        with self.clock.part("step"):
            parameters = [value for group in optimizer.param_groups for value in group["params"]]
            norm = self.clip_gradients(parameters, clip if shrink is None else 0.0)
            if shrink is None:
                shrink = (clip / (norm + 1e-6)).clamp_max(1.0) if clip else 1.0  # as torch clips
            else:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad *= shrink
            optimizer.step()
        return shrink

    def _fusion(self, drawn: Drawn, outcome: Outcome) -> Tensor:
        """Fusion loss of every task, (M,)."""
        assert outcome.fused is not None
        fused = outcome.fused.chunk(len(drawn.tasks))
        tasks = zip(drawn.batches, fused, drawn.tasks, strict=True)
        return torch.stack([task_loss(batch, image, task.objective) for batch, image, task in tasks])

    def _reconstruction(self, drawn: Drawn, outcome: Outcome) -> Tensor:
        """Reconstruction loss of every task, (M,), without weight."""
        assert outcome.rebuilt is not None
        rows = reconstruction_loss(outcome.rebuilt, (self.module.seen(drawn.a), self.module.seen(drawn.b)))
        return rows.reshape(len(drawn.tasks), -1).mean(dim=1)

    def _weighted(self, drawn: Drawn, losses: Tensor) -> Tensor:
        usual = self.recipe.levels.rec_weight
        weights = [task.rec_weight or usual for task in drawn.tasks]
        return (losses * losses.new_tensor(weights)).mean()

    def _kept_skips(self, count: int) -> Tensor | None:
        """1 for samples that keep the image skip, (count,); None if all do."""
        share = self.recipe.levels.skip_drop
        return (torch.rand(count) >= share).float().to(self.fabric.device) if share else None

    def _set_learning_rates(self) -> None:
        optim = self.recipe.optim
        rate = cosine_lr(self.step, self.steps, peak=optim.lr, warmup=optim.warmup_steps, min_ratio=optim.min_lr_ratio)
        for optimizer in (self.optimizer, self.adapter_optimizer):
            for group in () if optimizer is None else optimizer.param_groups:
                group["lr"] = group["ratio"] * rate

    def averaged(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Weights of the fusion network only, as in the paper."""
        return ((mean, value) for name, mean, value in self._both() if fuses(name))

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the averaged fusion network towards the current one; everything else is the current one's."""
        super().update_average(decay)
        # the statistics of batch norms belong to the adapters' current weights, not to an average of them
        for name, copy, value in self._both():
            if not fuses(name):
                copy.copy_(value)

    def _both(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each weight and statistic with its name in the network: averaged, and current."""
        values = self.module.state_dict()
        for name, mean in self.average.state_dict().items():
            yield name.removeprefix("network."), mean, values[name]

    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores and pictures of the averaged network, and what it makes of the taps."""
        scores, pictures = self.examples.scores(self.average.network)
        return scores | backbone_use(self.average, self.examples.examples), pictures


def _by_task(what: str, drawn: Drawn, losses: Tensor) -> dict[str, Tensor]:
    """Mean and single losses by the names that they are recorded under."""
    single = {f"{what}/{task.name}": loss for task, loss in zip(drawn.tasks, losses, strict=True)}
    return {what: losses.mean(), **single}


def load_trained(
    run_folder: Path, *, checkpoint: str = CHECKPOINT, backbone: VisionBackbone | None = None
) -> tuple[UniFusion, dict[str, Any]]:
    """The network of a run folder in eval mode, and its checkpoint's record.

    Its fusion network is the averaged one, its adapters are those of the last step.

    Args:
        run_folder: Of ``python -m training unifusion``.
        checkpoint: Name of the file in it.
        backbone: Used in place of that which the recipe names; a checkpoint holds none.

    Raises:
        DataError: The folder holds another kind of run or one of another version, or the backbone is missing or another
            one.
    """
    state = load_checkpoint(run_folder / checkpoint)
    if state.get("kind") != UniFusionTrainer.kind:
        raise DataError(f"{run_folder} is a {state.get('kind')} run: give the folder of a unifusion run")
    try:
        recipe = UniFusionRecipe.model_validate_json(state["recipe"])
    except ValidationError as error:
        raise DataError(
            f"{run_folder} holds a run of another version ({error}): use the version of its commit "
            f"{state.get('commit')}, or train it anew with `python -m training unifusion`"
        ) from error
    network = load_network(recipe, backbone)
    check_backbone_of(network, state, run_folder)
    levels = TwoLevels(network)
    levels.load_state_dict(state["average"])
    return network.eval(), state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training unifusion``."""
    add_run_arguments(parser, "unifusion")
    parser.add_argument("--start-from", type=Path, help="run folder whose averaged weights to begin with")


def run(args: argparse.Namespace) -> None:
    """Train or go on training."""
    recipe = load_recipe(args.recipe, UniFusionRecipe, args.set)
    trainer = UniFusionTrainer(recipe, args.data, args.out, devices=args.devices)
    if args.start_from is not None:
        trainer.start_from(args.start_from)
    trainer.resume()
    trainer.fit()
