"""Train TiTok+STE by Algorithm 1: stage I reconstruction warm-up, stage II fusion with token editing."""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from models.registry import build
from models.ste import SlotSpec
from models.token_fusion import TokenFusionModel
from models.tokenizer import Tokenizer
from training.config import load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.data.tone import augment_tone
from training.record import run_records
from training.run import (
    CHECKPOINT,
    Run,
    check_same_recipe,
    cosine_lr,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_atomically,
    seed_everything,
    source_commit,
)
from training.titok_ste_loss import stage_one_loss, stage_two_loss
from training.titok_ste_recipe import FusionRecipe, Schedule, StrengthDraw
from training.titok_ste_validation import validate
from training.tokenizer import load_tokenizer


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


class FusionTrainer:
    """Holds the state of a run between steps."""

    def __init__(self, recipe: FusionRecipe, tokenizer: Tokenizer, slots: SlotSpec, data: Path, out: Path) -> None:
        self.recipe, self.folder, self.slots = recipe, out, slots
        self.fabric = Fabric(accelerator="auto", devices=1, precision=recipe.precision)
        self.train, self.val = ImagePairs(data, recipe.train), ImagePairs(data, recipe.val)
        seed_everything(recipe.seed)
        try:
            slots.check_tokenizer(tokenizer.tokenizer_id)
        except ValueError as error:
            raise DataError(str(error)) from error
        model = build(recipe.profile, tokenizer, slots)
        if not isinstance(model, TokenFusionModel):
            raise DataError(f"profile {recipe.profile!r} is no TiTok+STE model")
        if recipe.schedule.edit_start == "probe":
            start_edit_(model, slots, recipe.schedule.edit_norm)
        self.module = model
        self.groups = [model.stage1_parameters(), model.fusion_parameters(), model.edit_parameters()]
        schedule = recipe.schedule
        groups = [{"params": group} for group in self.groups]
        optimizer = torch.optim.Adam(groups, lr=schedule.lr, betas=schedule.betas)
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        for method in ("features", "decode_pair", "decode_single"):
            self.model.mark_forward_method(method)
        self.average = deepcopy(model).requires_grad_(False)
        self.step, self.seconds, self.commit = 0, 0.0, source_commit()
        self.earlier: list[dict[str, Any]] = []

    @property
    def stage2_start(self) -> int:
        """First step of stage II."""
        return self.recipe.schedule.stage1_epochs * self.recipe.schedule.steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        schedule = self.recipe.schedule
        return (schedule.stage1_epochs + schedule.stage2_epochs) * schedule.steps_per_epoch

    def resume(self) -> None:
        """Go on from the folder's last checkpoint, if there is one.

        Raises:
            DataError: It was begun with another recipe.
            ValueError: It belongs to another tokenizer.
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        state = load_checkpoint(path)
        check_same_recipe(state, self.recipe, self.folder)
        SlotSpec.from_dict(json.loads(state["slots"])).check_tokenizer(self.module.tokenizer.tokenizer_id)
        self.module.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.commit = state["step"], state["seconds"], state["commit"]
        self.earlier = state["earlier"]
        restore_rng(state["rng"])

    def start_from(self, run_folder: Path) -> None:
        """Take the averaged weights of a finished run; its record goes into this run's checkpoints.

        Raises:
            DataError: The run is of another kind or profile.
        """
        model, state = load_trained(run_folder, self.module.tokenizer)
        if state["profile"] != self.recipe.profile:
            raise DataError(f"{run_folder} holds a {state['profile']}, the recipe wants a {self.recipe.profile}")
        self.module.load_state_dict(model.state_dict())
        self.average.load_state_dict(model.state_dict())
        self.earlier = run_records(run_folder, "titok-ste")

    def checkpoint(self, seconds: float) -> None:
        """Write everything that an exact resume needs; the tokenizer only by its identity."""
        state: dict[str, Any] = {
            "kind": "titok-ste",
            "profile": self.recipe.profile,
            "model": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": seconds,
            "rng": rng_state(),
            "slots": json.dumps(self.slots.to_dict()),
            "recipe": self.recipe.model_dump_json(),
            "commit": self.commit,
            "date": time.strftime("%Y-%m-%d"),
            "device": self.fabric.device.type,
            "data": self.train.counts,
            "earlier": self.earlier,
        }
        save_atomically(state, self.folder / CHECKPOINT)

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A batch of targets a, b and of inputs, which may carry extra sensor noise."""
        s = self.recipe.sampling
        rows = torch.randint(len(self.train), (s.batch,)).tolist()
        side = s.sides[int(torch.randint(len(s.sides), ()))]
        a, b = (self.fabric.to_device(x) for x in self.train.batch(rows, side, crop_share=s.crop_share, zoom=s.zoom))
        a, b = augment_tone(a, s.tone_a), augment_tone(b, s.tone_b)
        noisy = [self._noise(x) for x in (a, b)]
        return a, b, noisy[0], noisy[1]

    def _noise(self, x: Tensor) -> Tensor:
        s = self.recipe.sampling
        level = torch.rand(len(x), 1, 1, 1, device=x.device) * s.noise_sigma
        level = level * (torch.rand(len(x), 1, 1, 1, device=x.device) < s.noise_probability)
        return (x + level * torch.randn_like(x)).clamp(0, 1)

    def stage_one(self) -> dict[str, Tensor]:
        """Loss terms of one reconstruction step (eq. 14-16)."""
        a, b, noisy_a, noisy_b = self.batch()
        features = [self.model.features(x, self.module.encode(x)) for x in (noisy_a, noisy_b)]
        mixed = float(torch.rand(()) < self.recipe.stage1_mix)
        keep = {"input": 1.0, "zero": 0.0, "mix": mixed}[self.recipe.stage1_reference]
        outs = [self.model.decode_single(f, keep * x) for f, x in zip(features, (noisy_a, noisy_b), strict=True)]
        return stage_one_loss((a, b), (outs[0], outs[1]), features[0], features[1], self.recipe.stage1)

    def stage_two(self) -> dict[str, Tensor]:
        """Loss terms of one fusion step (eq. 17-18)."""
        a, b, noisy_a, noisy_b = self.batch()
        edit = self.fabric.to_device(draw_strength(len(a), len(self.module.slots), self.recipe.strength))
        fa, fb = (self.model.features(x, self.module.encode(x), edit=edit) for x in (noisy_a, noisy_b))
        fused = self.model.decode_pair(noisy_a, noisy_b, fa, fb).float()
        return stage_two_loss(a, b, fused, fa, fb, edit, self.recipe.stage2, self.recipe.target)

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms."""
        schedule, second = self.recipe.schedule, self.step >= self.stage2_start
        firsts = (0, self.stage2_start, self.stage2_start)
        ratios = (1.0, 1.0, schedule.edit_lr_ratio)
        for group, first, ratio in zip(self.optimizer.param_groups, firsts, ratios, strict=True):
            group["lr"] = ratio * learning_rate(self.step, schedule, first_step=first)
        terms = self.stage_two() if second else self.stage_one()
        loss = torch.stack(list(terms.values())).sum()
        if not bool(torch.isfinite(loss)):
            raise RuntimeError(f"loss is not finite at step {self.step}: lower the learning rate or use float32")
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        torch.nn.utils.clip_grad_norm_([*self.groups[0], *self.groups[1]], schedule.clip)
        self.optimizer.step()
        self.module.ste.project_norm_(schedule.edit_norm)
        self._average()
        values = {"loss": loss, **terms, "lr": torch.tensor(self.optimizer.param_groups[0]["lr"])}
        return {name: value.detach() for name, value in values.items()}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.schedule.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.module.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def fit(self) -> None:
        """Run to the recipe's last step, validating and saving on the way."""
        every = self.recipe.validate_epochs * self.recipe.schedule.steps_per_epoch
        with Run(self.folder, self.recipe, steps=self.steps, start=self.step, seconds=self.seconds) as run:
            while self.step < self.steps:
                values = self.train_step()
                run.record(self.step, values)
                self.step += 1
                if self.step % every == 0 or self.step == self.steps:
                    self.checkpoint(run.seconds)
                    if self.step > self.stage2_start:
                        scores, picture = validate(self.average, self.val)
                        run.write(self.step, scores)
                        run.image("val/a, b, strength 0 1 2", picture, self.step)


def load_trained(run_folder: Path, tokenizer: Tokenizer) -> tuple[TokenFusionModel, dict[str, Any]]:
    """The averaged model of a run folder in eval mode, and its checkpoint's record.

    Raises:
        DataError: The folder holds another kind of run.
        ValueError: The run used another tokenizer.
    """
    state = load_checkpoint(run_folder / CHECKPOINT)
    if state.get("kind") != "titok-ste":
        raise DataError(f"{run_folder} is a {state.get('kind')} run: give the folder of a titok-ste run")
    model = build(state["profile"], tokenizer, SlotSpec.from_dict(json.loads(state["slots"])))
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
    parser.add_argument("--recipe", default="titok-ste-lite", help="recipe name or .yaml path")
    parser.add_argument("--data", type=Path, required=True, help="data root that the recipe's folders lie in")
    parser.add_argument("--tokenizer", type=Path, required=True, help="run folder of the tokenizer, or a bundle")
    parser.add_argument("--slots", type=Path, required=True, help="slot file written by `python -m training probe`")
    parser.add_argument("--start-from", type=Path, help="run folder whose averaged weights to begin with")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an interrupted run there goes on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")


def run(args: argparse.Namespace) -> None:
    """Train or go on training."""
    recipe = load_recipe(args.recipe, FusionRecipe, args.set)
    tokenizer = load_tokenizer(args.tokenizer)
    trainer = FusionTrainer(recipe, tokenizer, read_slots(args.slots), args.data, args.out)
    if args.start_from is not None:
        trainer.start_from(args.start_from)
    trainer.resume()
    trainer.fit()
