"""Distance to the tone that a recipe asks for."""

import numpy as np
import pytest
import torch
from torch import nn

from training.ablation.asked import asked_columns, tone_errors
from training.config import load_recipe
from training.evaluation.pairs import Pair
from training.targets import make_target
from training.titok_ste_recipe import FusionRecipe

RECIPE = load_recipe("titok-ste-lite", FusionRecipe)


class Answers(nn.Module):
    """Gives the wanted tone of its one pair at every strength, off by a constant."""

    slots = ("sharpen", "smooth")

    def __init__(self, off):
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off))

    def encode(self, image):
        return image[:, 0, :1]

    def fuse(self, a, b, code_a, code_b, edit):
        return make_target(a, b, edit, RECIPE.target).tone + self.off * (1 + edit[0, 0])


@pytest.fixture
def pairs():
    rng = np.random.default_rng(1)
    return [Pair(str(i), *rng.integers(40, 200, (2, 48, 64), dtype=np.uint8)) for i in range(2)]


def test_the_error_is_the_distance_in_grey_levels_at_each_strength(pairs):
    errors = tone_errors(Answers(-0.02), pairs, RECIPE)
    assert list(errors) == ["tone_0", "tone_1"]
    assert errors["tone_0"] == pytest.approx([5.1, 5.1], abs=1e-3)
    assert errors["tone_1"] == pytest.approx([10.2, 10.2], abs=1e-3)


def test_a_recipe_without_a_tone_of_its_own_has_no_such_column():
    assert asked_columns(load_recipe("titok-ste-paper", FusionRecipe)) == ()
    steady = load_recipe("titok-ste-lite", FusionRecipe, ["target.conditioned=false"])
    assert asked_columns(steady) == ("tone_1",)
