"""Train a small vision transformer without labels, to be UniFusion's backbone.

A student learns to say what its own running average, the teacher, says of the same patches, of other crops and, where
there are aligned pairs, of the other sensor's image; see ``backbone_views`` and ``backbone_loss``. The recipe follows
the idea of DINO and iBOT; windows with a random place in the teacher's view, centres for every place and the edge
targets that come first are ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.backbone_files import save_backbone
from training.backbone_loss import Centres, collapse, edge_loss, teacher_losses, teacher_targets
from training.backbone_matching import Rates, centre_multiple, match, shifted_parts, usual_shift
from training.backbone_recipe import BackboneRecipe
from training.backbone_student import Scores, Student
from training.backbone_views import Views, ViewSampler, shared_side
from training.config import load_recipe
from training.data.pairs import ImagePairs
from training.run import cosine_lr
from training.trainer import Trainer, add_run_arguments


class BackboneTrainer(Trainer):
    """Trains student and teacher."""

    kind = "backbone"

    def __init__(self, recipe: BackboneRecipe, data: Path, out: Path, *, devices: int = 1) -> None:
        super().__init__(recipe, out, devices=devices)
        self.recipe = recipe
        self.sampler = ViewSampler(
            data, recipe.sources, recipe.views, self.fabric.device, max_cache_mb=recipe.max_cache_mb
        )
        self.pairs = ImagePairs(data, recipe.validation.pairs, max_cache_mb=recipe.max_cache_mb)
        self.module: Student = Student(recipe)
        optim = recipe.optim
        optimizer = torch.optim.AdamW(parameter_groups(self.module, optim.weight_decay), lr=optim.lr, betas=optim.betas)
        self.student, self.optimizer = self.fabric.setup(self.module, optimizer)
        self.average: Student = deepcopy(self.module).eval().requires_grad_(False)
        self.centres = Centres(recipe.loss.centre, self._mean)
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
        """The centres of what the teacher says."""
        return {"centres": self.centres.state_dict()}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        """Take back the centres."""
        self.centres.load_state_dict(state["centres"], self.fabric.device)

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss, its terms, and what tells of a collapse."""
        self._set_learning_rate()
        with self.clock.part("data"):
            views = self.sampler.draw(shared_side(self.recipe.views.sides, self.recipe.seed, self.step))
        with self.clock.part("forward"):
            student: Scores = self.student(views.window, views.mask)
            terms = edge_loss(student, views, self.recipe.loss)
        with self.clock.part("teacher"):
            followed, watched = self._follow(student, views)
        terms |= followed
        loss = self.finite(torch.stack([*terms.values()]).sum())
        self.optimizer.zero_grad(set_to_none=True)
        with self.clock.part("backward"):
            self.fabric.backward(loss)
        with self.clock.part("step"):
            self.clip_gradients(self.module.parameters(), self.recipe.optim.clip)
            self.optimizer.step()
            self.update_average(self.recipe.optim.ema)
        return {name: value.detach() for name, value in {"loss": loss, **terms, **watched}.items()}

    def _follow(self, student: Scores, views: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms of what the teacher says, and what tells of a collapse; nothing while edges are all that counts."""
        config = self.recipe.loss
        share = config.teacher_share(self.step)
        if not share:
            return {}, {}
        scores = self.teach(views)
        targets = teacher_targets(scores, self.centres, config.teacher_temperature)
        terms = teacher_losses(student, targets, views, config)
        return {name: share * term for name, term in terms.items()}, collapse(targets.patches, scores.features)

    @torch.no_grad()
    def teach(self, views: Views) -> Scores:
        """What the teacher says about the canvases."""
        with self.fabric.autocast():
            scores: Scores = self.average(views.canvas)
        return scores

    def _set_learning_rate(self) -> None:
        optim = self.recipe.optim
        rate = cosine_lr(self.step, self.steps, peak=optim.lr, warmup=optim.warmup_steps, min_ratio=optim.min_lr_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """How often the teacher finds a patch of the first image again in the second; no pictures."""
        found = []
        for row in range(len(self.pairs)):
            a, b = (centre_multiple(image, self.recipe.validation.side) for image in self.pairs.full(row))
            shift = usual_shift(a)
            parts = torch.cat(shifted_parts(a, b, shift)).to(self.fabric.device)
            with self.fabric.autocast():
                tap = self.average.vit(parts.expand(-1, 3, -1, -1))[-1]
            found.append(match(tap[0], tap[1], shift))
        rates = Rates.of(found)
        return {"val/hit": rates.hit, "val/near": rates.near, "val/distance": rates.distance}, {}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights of linear layers, which decay, and everything else, which does not."""

    def chosen(wanted: bool) -> Iterator[nn.Parameter]:
        for name, parameter in model.named_parameters():
            # prototypes are used without their length, and tokens are vectors in the residual stream
            decays = parameter.ndim > 1 and not name.endswith(("prefix", "prototypes"))
            if decays == wanted:
                yield parameter

    return [
        {"params": list(chosen(True)), "weight_decay": weight_decay},
        {"params": list(chosen(False)), "weight_decay": 0.0},
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training backbone``."""
    add_run_arguments(parser, "backbone")


def run(args: argparse.Namespace) -> None:
    """Train or go on training, then write the teacher's transformer beside the checkpoint."""
    recipe = load_recipe(args.recipe, BackboneRecipe, args.set)
    trainer = BackboneTrainer(recipe, args.data, args.out, devices=args.devices)
    trainer.resume()
    trainer.fit()
    if trainer.fabric.is_global_zero:
        print(f"written: {save_backbone(args.out, args.out)}")
