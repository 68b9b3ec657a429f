"""Every shipped recipe and card text can be read, and the paper's numbers stand in the paper's recipe."""

from importlib import resources
from pathlib import Path

import pytest

from models.registry import PROFILES, TITA_CONFIGS, UNIFUSION_CONFIGS
from models.tokenizer import TOKENIZERS
from training.backbone_recipe import BackboneRecipe
from training.card_text import load_card_text
from training.config import OptimConfig, Strict, load_recipe
from training.data.images import DataError
from training.tita_recipe import TITARecipe
from training.titok_ste import learning_rate
from training.titok_ste_recipe import FusionRecipe
from training.tokenizer import TokenizerRecipe
from training.unifusion_recipe import UniFusionRecipe

CONFIGS = sorted(Path(str(entry)).stem for entry in (resources.files("training") / "configs").iterdir())
CARDS = sorted(Path(str(entry)).stem for entry in (resources.files("training") / "cards").iterdir())


@pytest.mark.parametrize("name", CONFIGS)
def test_recipe_is_valid_and_names_an_existing_model(name):
    if name.startswith("t32"):
        assert load_recipe(name, TokenizerRecipe).tokenizer in TOKENIZERS
    elif name.startswith("tita"):
        assert load_recipe(name, TITARecipe).profile in TITA_CONFIGS
    elif name.startswith("backbone"):
        assert load_recipe(name, BackboneRecipe).sources
    elif name.startswith("unifusion"):
        assert load_recipe(name, UniFusionRecipe).profile in UNIFUSION_CONFIGS
    else:
        assert load_recipe(name, FusionRecipe).profile in PROFILES


@pytest.mark.parametrize("name", CARDS)
def test_card_text_explains_every_slot(name):
    slots = load_card_text(name).slots.keys()
    assert {"sharpen", "smooth"} <= slots if name.startswith("titok") else not slots


def test_paper_recipe_halves_its_rate_every_twenty_epochs():
    schedule = load_recipe("titok-ste-paper", FusionRecipe).schedule
    epoch = schedule.steps_per_epoch
    rates = [learning_rate(e * epoch, schedule, first_step=0) for e in (0, 19, 20, 119)]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 3.125e-6])
    assert learning_rate(60 * epoch, schedule, first_step=40 * epoch) == pytest.approx(5e-5)
    assert (schedule.stage1_epochs, schedule.stage2_epochs, schedule.clip) == (40, 80, 0.01)


class Small(Strict):
    """A recipe of a few keys."""

    steps: int
    names: tuple[str, ...] = ()
    optim: OptimConfig


@pytest.fixture
def recipes(tmp_path):
    """Writes recipes and returns the last one's path."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return str(tmp_path / f"{name}.yaml")

    return write


def test_a_recipe_changes_what_it_extends_key_by_key(recipes):
    path = recipes(
        base="steps: 5\nnames: [a, b]\noptim: {lr: 1.0, clip: 3.0}",
        middle="extends: base.yaml\noptim: {lr: 0.5, ema: 0.9}",
        top="extends: middle.yaml\nnames: [c]\noptim: {ema: 0.8}",
    )
    found = load_recipe(path, Small)
    assert found == Small(steps=5, names=("c",), optim=OptimConfig(lr=0.5, clip=3.0, ema=0.8))


def test_overrides_come_last(recipes):
    path = recipes(base="steps: 5\noptim: {lr: 1.0, clip: 3.0}", top="extends: base.yaml\noptim: {lr: 0.5}")
    found = load_recipe(path, Small, ["optim.lr=0.25", "steps=7", "optim.lr=0.125", "names=[x]"])
    assert (found.optim.lr, found.optim.clip, found.steps, found.names) == (0.125, 3.0, 7, ("x",))


@pytest.mark.parametrize(
    ("texts", "chain"),
    [
        ({"own": "extends: own.yaml"}, "own.yaml > own.yaml"),
        ({"b": "extends: a.yaml", "a": "extends: b.yaml"}, "a.yaml > b.yaml > a.yaml"),
        ({"b": "extends: ./b.yaml", "a": "extends: b.yaml"}, "a.yaml > b.yaml > b.yaml"),
    ],
    ids=["itself", "each other", "a base that extends itself"],
)
def test_a_recipe_that_extends_itself_is_refused(recipes, texts, chain):
    with pytest.raises(DataError, match=f"extends itself: {chain}$"):
        load_recipe(recipes(**texts), Small)


@pytest.mark.parametrize(
    ("base", "message"), [("gone.yaml", "gone.yaml"), ("titok-ste-huge", "titok-ste-lite"), ("[a, b]", "no recipe")]
)
def test_a_base_that_does_not_exist_is_named(recipes, base, message):
    with pytest.raises(DataError, match=message):
        load_recipe(recipes(top=f"extends: {base}"), Small)


def test_a_recipe_of_ones_own_may_extend_a_shipped_one(recipes):
    mine = load_recipe(recipes(mine="extends: titok-ste-lite\nschedule: {lr: 1.0e-4}"), FusionRecipe)
    shipped = load_recipe("titok-ste-lite", FusionRecipe)
    assert mine.schedule.lr == 1e-4
    assert mine.model_copy(update={"schedule": shipped.schedule}) == shipped
