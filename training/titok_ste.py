"""Train TiTok+STE by Algorithm 1: stage I reconstruction warm-up, stage II fusion with token editing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.interface import TokenSource
from models.registry import build
from models.ste import SlotSpec
from models.token_fusion import Features, TokenFusionModel
from models.tone import mean_level
from training.config import load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.data.sampling import Batch, PairSampler
from training.record import run_records
from training.run import CHECKPOINT, cosine_lr, load_checkpoint
from training.targets import target_strength
from training.titok_ste_loss import stage_one_loss, stage_two_loss
from training.titok_ste_recipe import FusionRecipe, Schedule, StrengthDraw
from training.titok_ste_validation import validate
from training.tokenizer_files import load_tokenizer
from training.trainer import Trainer, add_run_arguments


def learning_rate(step: int, schedule: Schedule, *, first_step: int) -> float:
    """Learning rate at a step.

    Args:
        step: Global step.
        schedule: Kind and numbers.
        first_step: Step at which the parameter group joined; its decay counts from there (§9.1).
    """
    total = (schedule.stage1_epochs + schedule.stage2_epochs) * schedule.steps_per_epoch
    if schedule.kind == "cosine":
        return cosine_lr(
            step,
            total,
            peak=schedule.lr,
            warmup=schedule.warmup_steps,
            min_ratio=schedule.floor / schedule.lr,
        )
    decays = max(0, step - first_step) // (schedule.decay_epochs * schedule.steps_per_epoch)
    return max(schedule.floor, schedule.lr * schedule.decay**decays)


def draw_strength(batch: int, slots: int, draw: StrengthDraw) -> Tensor:
    """Random edit strengths, (N, S): off, on, or uniform, each slot by itself."""
    kind = torch.rand(batch, slots)
    uniform = torch.rand(batch, slots) * draw.maximum
    return torch.where(kind < draw.zero, 0.0, torch.where(kind < draw.zero + draw.one, 1.0, uniform))


@torch.no_grad()
def start_edit_(model: TokenFusionModel, slots: SlotSpec, norm: float) -> None:
    """Set each Δ to ``norm`` along the mean token shift that the probe measured.

    Raises:
        DataError: The slot file holds no such shift.
    """
    effects = slots.evidence.get("slot_effects", {})
    for row, name in enumerate(slots.names):
        if "mean_shift" not in effects.get(name, {}):
            raise DataError(f"the slot file has no mean shift for {name!r}: probe again, or set edit_start to zero")
        direction = torch.tensor(effects[name]["mean_shift"])
        model.ste.delta[row] = norm * F.normalize(direction, dim=0)


class StageStep(nn.Module):
    """One forward pass of a stage as one call, which is what data-parallel training needs."""

    def __init__(self, network: TokenFusionModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch, edit: Tensor | None, keep: float) -> tuple[list[Tensor], Features, Features]:
        """Stage II (fused image) with ``edit``, (N, S); stage I (both sources rebuilt) without.

        Args:
            batch: Sources and tokens.
            edit: Strength per slot, or None for stage I.
            keep: Stage I only: share of the source in the reference, 0 or 1.

        Returns:
            Un-clamped float32 images, and the features of both sources.
        """
        first = self.network.features(batch.input_a, batch.code_a, edit=edit, box=batch.frames.box)
        second = self.network.features(batch.input_b, batch.code_b, edit=edit, box=batch.frames.box)
        if edit is not None:
            centre = mean_level(batch.frames.a, batch.frames.b)
            fused = self.network.decode_pair(batch.input_a, batch.input_b, first, second, centre=centre)
            return [fused.float()], first, second
        pairs = ((first, batch.input_a), (second, batch.input_b))
        return [self.network.decode_single(f, keep * x).float() for f, x in pairs], first, second


class FusionTrainer(Trainer):
    """Trains stage I, then stage II."""

    kind = "titok-ste"
    best_by = ("val/EN", "val/SCD", "val/SSIM")

    def __init__(
        self, recipe: FusionRecipe, tokenizer: TokenSource, slots: SlotSpec, data: Path, out: Path, *, devices: int = 1
    ) -> None:
        super().__init__(recipe, out, devices=devices)
        self.recipe, self.slots = recipe, slots
        self.train, self.val = (
            ImagePairs(data, folders, max_cache_mb=recipe.max_cache_mb) for folders in (recipe.train, recipe.val)
        )
        self.module: TokenFusionModel = build_network(recipe, tokenizer, slots)
        schedule = recipe.schedule
        self.groups = [
            self.module.stage1_parameters(),
            self.module.fusion_parameters(),
            self.module.edit_parameters(),
        ]
        groups = [{"params": group} for group in self.groups]
        optimizer = torch.optim.Adam(groups, lr=schedule.lr, betas=schedule.betas)
        self.model, self.optimizer = self.fabric.setup(StageStep(self.module), optimizer)
        self.average: TokenFusionModel = deepcopy(self.module).requires_grad_(False)
        self.sampler = PairSampler(self.train, recipe.sampling, self.module.tokenizer, self.clock)
        self.ready()

    @property
    def stage2_start(self) -> int:
        """First step of stage II."""
        return self.recipe.schedule.stage1_epochs * self.recipe.schedule.steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        schedule = self.recipe.schedule
        return (schedule.stage1_epochs + schedule.stage2_epochs) * schedule.steps_per_epoch

    @property
    def validate_every(self) -> int:
        """Steps between validations."""
        return self.recipe.validate_epochs * self.recipe.schedule.steps_per_epoch

    def data_counts(self) -> dict[str, int]:
        """Training pairs per folder."""
        return self.train.counts

    def extra_state(self) -> dict[str, Any]:
        """Profile and slot file; the tokenizer only by its identity in the latter."""
        return {"profile": self.recipe.profile, "slots": json.dumps(self.slots.to_dict())}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another tokenizer, or with other edit slots.

        Raises:
            DataError: The message says which.
        """
        self._check_slots(state, self.folder)

    def _check_slots(self, state: Mapping[str, Any], folder: Path) -> None:
        before = SlotSpec.from_dict(json.loads(state["slots"]))
        check_tokenizer(before, self.module.tokenizer)
        if any(getattr(before, name) != getattr(self.slots, name) for name in ("positions", "channels", "names")):
            raise DataError(
                f"the run in {folder} was begun with other edit slots ({', '.join(before.names)} at tokens "
                f"{', '.join(map(str, before.positions))}): give its slot file, or another folder"
            )

    def start_from(self, run_folder: Path) -> None:
        """Take the averaged weights of a finished run; its record goes into this run's checkpoints.

        Raises:
            DataError: The run is of another kind or profile, or has other edit slots.
        """
        model, state = load_trained(run_folder, self.module.tokenizer)
        if state["profile"] != self.recipe.profile:
            raise DataError(f"{run_folder} holds a {state['profile']}, the recipe wants a {self.recipe.profile}")
        self._check_slots(state, run_folder)
        self.module.load_state_dict(model.state_dict())
        self.average.load_state_dict(model.state_dict())
        self.earlier = run_records(run_folder, "titok-ste")

    def stage_one(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one reconstruction step (eq. 14-16)."""
        mixed = float(torch.rand(()) < self.recipe.stage1_mix)
        keep = {"input": 1.0, "zero": 0.0, "mix": mixed}[self.recipe.stage1_reference]
        outs, first, second = self.model(batch, None, keep)
        return stage_one_loss((batch.a, batch.b), (outs[0], outs[1]), first, second, self.recipe.stage1)

    def stage_two(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of one fusion step (eq. 17-18)."""
        edit = draw_strength(len(batch.a), len(self.module.slots), self.recipe.strength).to(self.fabric.device)
        (fused,), first, second = self.model(batch, edit, 0.0)
        wanted = target_strength(edit, self.module.slots)
        stage2, target = self.recipe.stage2, self.recipe.target
        return stage_two_loss(batch.a, batch.b, fused, first, second, wanted, stage2, target, batch.frames)

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and its terms."""
        schedule, second = self.recipe.schedule, self.step >= self.stage2_start
        firsts = (0, self.stage2_start, self.stage2_start)
        ratios = (1.0, 1.0, schedule.edit_lr_ratio)
        for group, first, ratio in zip(self.optimizer.param_groups, firsts, ratios, strict=True):
            group["lr"] = ratio * learning_rate(self.step, schedule, first_step=first)
        with self.clock.part("data"):
            batch = self.sampler.draw()
        with self.clock.part("forward"):
            terms = self.stage_two(batch) if second else self.stage_one(batch)
            loss = self.finite(torch.stack(list(terms.values())).sum())
        self.optimizer.zero_grad(set_to_none=True)
        with self.clock.part("backward"):
            self.fabric.backward(loss)
        with self.clock.part("step"):
            self._apply()
        values = {"loss": loss, **terms, "lr": torch.tensor(self.optimizer.param_groups[0]["lr"])}
        return {name: value.detach() for name, value in values.items()}

    def _apply(self) -> None:
        """Clip, step, bound Δ, average."""
        schedule = self.recipe.schedule
        self.clip_gradients([*self.groups[0], *self.groups[1]], schedule.clip)
        self.optimizer.step()
        self.module.ste.project_norm_(schedule.edit_norm)
        self.update_average(schedule.ema)

    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores and pictures of stage II; nothing in stage I."""
        if self.step <= self.stage2_start:
            return {}, {}
        scores, picture = validate(self.average, self.val, limit=self.recipe.validate_pairs)
        return scores, {"val/a, b, strength 0 1 2": picture}


def check_tokenizer(slots: SlotSpec, tokenizer: TokenSource) -> None:
    """Refuse the slot file of another tokenizer.

    Raises:
        DataError: The message names both.
    """
    try:
        slots.check_tokenizer(tokenizer.tokenizer_id)
    except ValueError as error:
        raise DataError(str(error)) from error


def build_network(recipe: FusionRecipe, tokenizer: TokenSource, slots: SlotSpec) -> TokenFusionModel:
    """The recipe's network around a tokenizer, its edit at the recipe's start.

    Raises:
        DataError: The slots belong to another tokenizer, or the profile is no TiTok+STE model.
    """
    check_tokenizer(slots, tokenizer)
    try:
        model = build(recipe.profile, tokenizer, slots)
    except ValueError as error:
        raise DataError(str(error)) from error
    if not isinstance(model, TokenFusionModel):
        raise DataError(f"profile {recipe.profile!r} is no TiTok+STE model")
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.schedule.edit_start == "probe":
        start_edit_(model, slots, recipe.schedule.edit_norm)
    return model


def load_trained(
    run_folder: Path, tokenizer: TokenSource, *, checkpoint: str = CHECKPOINT
) -> tuple[TokenFusionModel, dict[str, Any]]:
    """The averaged model of a run folder in eval mode, and its checkpoint's record.

    Raises:
        DataError: The folder holds another kind of run, or the run used another tokenizer.
    """
    state = load_checkpoint(run_folder / checkpoint)
    if state.get("kind") != "titok-ste":
        raise DataError(f"{run_folder} is a {state.get('kind')} run: give the folder of a titok-ste run")
    slots = SlotSpec.from_dict(json.loads(state["slots"]))
    check_tokenizer(slots, tokenizer)
    model = build(state["profile"], tokenizer, slots)
    assert isinstance(model, TokenFusionModel)
    model.load_state_dict(state["average"])
    return model.eval(), state


def read_slots(path: Path) -> SlotSpec:
    """Read a slot file as ``probe`` writes it.

    Raises:
        DataError: It is missing or malformed.
    """
    try:
        return SlotSpec.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise DataError(f"slot file {path}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training titok-ste``."""
    add_run_arguments(parser, "titok-ste-lite")
    parser.add_argument("--tokenizer", type=Path, required=True, help="run folder of the tokenizer, or a bundle")
    parser.add_argument("--slots", type=Path, required=True, help="slot file written by `python -m training probe`")
    parser.add_argument("--start-from", type=Path, help="run folder whose averaged weights to begin with")


def run(args: argparse.Namespace) -> None:
    """Train or go on training."""
    recipe = load_recipe(args.recipe, FusionRecipe, args.set)
    tokenizer = load_tokenizer(args.tokenizer)
    trainer = FusionTrainer(recipe, tokenizer, read_slots(args.slots), args.data, args.out, devices=args.devices)
    if args.start_from is not None:
        trainer.start_from(args.start_from)
    trainer.resume()
    trainer.fit()
