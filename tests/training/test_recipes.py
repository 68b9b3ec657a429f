"""Every shipped recipe and card text can be read, and the paper's numbers stand in the paper's recipe."""

from importlib import resources
from pathlib import Path

import pytest

from models.registry import PROFILES
from models.tokenizer import TOKENIZERS
from training.card_text import load_card_text
from training.config import load_recipe
from training.titok_ste import learning_rate
from training.titok_ste_recipe import FusionRecipe
from training.tokenizer import TokenizerRecipe

CONFIGS = sorted(Path(str(entry)).stem for entry in (resources.files("training") / "configs").iterdir())
CARDS = sorted(Path(str(entry)).stem for entry in (resources.files("training") / "cards").iterdir())


@pytest.mark.parametrize("name", CONFIGS)
def test_recipe_is_valid_and_names_an_existing_model(name):
    if name.startswith("t32"):
        assert load_recipe(name, TokenizerRecipe).tokenizer in TOKENIZERS
    else:
        assert load_recipe(name, FusionRecipe).profile in PROFILES


@pytest.mark.parametrize("name", CARDS)
def test_card_text_explains_every_slot(name):
    assert {"sharpen", "smooth"} <= load_card_text(name).slots.keys()


def test_paper_recipe_halves_its_rate_every_twenty_epochs():
    schedule = load_recipe("titok-ste-paper", FusionRecipe).schedule
    epoch = schedule.steps_per_epoch
    rates = [learning_rate(e * epoch, schedule, first_step=0) for e in (0, 19, 20, 119)]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 3.125e-6])
    assert learning_rate(60 * epoch, schedule, first_step=40 * epoch) == pytest.approx(5e-5)
    assert (schedule.stage1_epochs, schedule.stage2_epochs, schedule.clip) == (40, 80, 0.01)
