"""How near a network comes to the tone that its recipe asks for, on whole images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.token_fusion import TokenFusionModel
from training.evaluation.methods import to_unit
from training.evaluation.pairs import Pair
from training.targets import make_target, target_strength
from training.titok_ste_recipe import FusionRecipe

TONES = {"tone_0": 0.0, "tone_1": 1.0}
"""Columns, and the strength of every slot at which the tone is compared."""

_SCALE = 8


def asked_columns(recipe: FusionRecipe) -> tuple[str, ...]:
    """The columns that a recipe allows: none if it asks for no tone of its own."""
    if recipe.stage2.intensity_target != "tone":
        return ()
    return tuple(TONES) if recipe.target.conditioned else ("tone_1",)


@torch.no_grad()
def tone_errors(model: TokenFusionModel, pairs: Sequence[Pair], recipe: FusionRecipe) -> dict[str, list[float]]:
    """Mean difference to the wanted tone at 1/8 size, grey levels: one number per pair for each column."""
    device = next(model.parameters()).device
    errors: dict[str, list[float]] = {column: [] for column in asked_columns(recipe)}
    for pair in pairs:
        a, b = (torch.from_numpy(to_unit(x))[None, None].to(device) for x in (pair.a, pair.b))
        code_a, code_b = model.encode(a), model.encode(b)
        for column, found in errors.items():
            edit = a.new_full((1, len(model.slots)), TONES[column])
            wanted = make_target(a, b, target_strength(edit, model.slots), recipe.target).tone
            fused = model.fuse(a, b, code_a, code_b, edit).float()
            found.append(float(_small(fused).sub(_small(wanted)).abs().mean()) * 255.0)
    return errors


def _small(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, _SCALE)
