"""The command ``ablate unifusion``: rows that differ in nothing else, measured on three sets of pairs, in one table."""

import json
from collections import Counter

import numpy as np
import pytest
import yaml

from models.registry import UNIFUSION_CONFIGS
from tests.training.tiny_backbone_runs import backbone_words
from tests.training.tiny_runs import command, load
from tests.training.tiny_tita_runs import MADE, PAIRS
from tests.training.tiny_unifusion_runs import recipe
from training.ablation.measured import Measured
from training.ablation.report import Outcome, Row, Setting
from training.ablation.unifusion_tables import CHANGES, SETS, TABLES
from training.config import load_recipe
from training.evaluation.metrics import METRICS
from training.unifusion_network import network_config
from training.unifusion_recipe import UniFusionRecipe

TABLE = TABLES[0]
TASKS = [
    {"name": "infrared-visible", "pairs": PAIRS},
    {"name": "multi-exposure", "pairs": [{"a": "ivf/val/visible", "b": "ivf/val/infrared"}]},
    {"name": "multi-focus", "made": MADE},
]
EXAMPLES = {"every": 2, "pairs": 1, "side": 64, "tasks": TASKS}


@pytest.fixture
def words(data_root, tmp_path):
    """A command line with a tiny recipe; ``changes`` are of the recipe."""

    def make(*argv, **changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(recipe(**{"steps": 1, "validation": EXAMPLES, **changes})))
        start = ("ablate", "unifusion", "--data", data_root, "--recipe", path, "--out", tmp_path / "out")
        return [*start, "--size", 48, *argv]

    return make


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out" / "ablation"


def table_of(folder):
    return json.loads((folder / "table.json").read_text())


# the paper's table


def test_the_table_holds_the_papers_values():
    printed = TABLE.paper["M3FD, MEFB, MFIF"]
    columns = list(TABLE.metrics)
    assert columns[:3] == ["MI infrared-visible", "VIF infrared-visible", "MI multi-exposure"]
    assert printed["full"][columns.index("Qabf multi-focus")] == 0.685
    assert printed["no-adapter"][columns.index("VIF multi-exposure")] == 1.232
    assert all(len(values) == len(columns) for values in printed.values())
    assert {name.partition(" ")[0] for name in columns} <= METRICS.keys()
    assert CHANGES.keys() == TABLE.rows.keys() >= printed.keys()
    assert next(iter(TABLE.rows)) == "full"


def test_rows_of_the_shipped_recipe_change_one_thing_each():
    base = load_recipe("unifusion-ablation", UniFusionRecipe)
    assert base.steps < load_recipe("unifusion-short", UniFusionRecipe).steps
    assert {task.name for task in base.examples.tasks} == SETS.keys()
    before = network_config(base.profile, base.network)
    for row, changes in CHANGES.items():
        changed = load_recipe("unifusion-ablation", UniFusionRecipe, list(changes))
        parts = {name for name in UniFusionRecipe.model_fields if getattr(changed, name) != getattr(base, name)}
        assert parts == {change.partition(".")[0] for change in changes}, row
        config = network_config(changed.profile, changed.network)
        assert (config == before) == (parts <= {"levels", "backbone"}), row


def test_rows_are_the_networks_of_the_registry():
    for row, changes in CHANGES.items():
        if (name := f"unifusion-{row}") in UNIFUSION_CONFIGS:
            built = load_recipe("unifusion-paper", UniFusionRecipe, ["profile=unifusion-code", *changes])
            assert network_config(built.profile, built.network) == UNIFUSION_CONFIGS[name]


def test_every_row_of_the_papers_recipe_is_valid():
    recipes = {row: load_recipe("unifusion-paper", UniFusionRecipe, list(changes)) for row, changes in CHANGES.items()}
    different = {recipe.model_dump_json() for recipe in recipes.values()}
    assert len(different) == len(recipes) > 1
    assert recipes["full"].profile == "unifusion-paper"


def test_notes_are_those_of_the_recipe(words, folder):
    made = {"levels": {"fuse_grad_to_adapter": 0.0, "skip_drop": 0.25}}
    command(*words("--rows", "full", **made))
    notes = " ".join(table_of(folder)["notes"])
    assert "adapters also take" not in notes
    assert "25% of the samples are rebuilt without the image skip" in notes


def test_each_set_of_pairs_has_its_own_intervals():
    pairs = tuple(f"{name}/{i}" for name in SETS for i in range(20))
    rng, nothing = np.random.default_rng(0), [np.nan] * 20

    def measured(shift):
        values = {}
        for place, (name, metrics) in enumerate(SETS.items()):
            for metric in metrics:
                own = (rng.normal(0, 0.1, 20) + shift * (name == "multi-focus")).tolist()
                values[f"{metric} {name}"] = [*nothing * place, *own, *nothing * (2 - place)]
        return Measured(1, 1.0, values)

    rows = (Row("full", measured=measured(0.0)), Row("no-bilevel", measured=measured(1.0)))
    found = Outcome(TABLE, Setting("", (), 0, "", "native", pairs), rows).differences["no-bilevel"]
    assert list(found) == list(TABLE.metrics)
    for column, difference in found.items():
        assert difference.better is (True if "multi-focus" in column else None)
        assert np.isfinite(difference.interval.low)


# runs


def test_two_rows_and_the_papers_values_stand_in_one_table(words, folder, monkeypatch):
    asked = words("--rows", "full", "no-bilevel", "random")
    command(*asked)
    table = table_of(folder)
    assert [row["status"] for row in table["rows"].values()] == ["finished", "finished", "skipped"]
    assert "--set backbone.path=PATH" in table["rows"]["random"]["reason"]
    assert (table["model"], table["reference"], table["metrics"]) == ("unifusion", "full", list(TABLE.metrics))
    counts = Counter(pair.partition("/")[0] for pair in table["pairs"])
    assert counts == {"infrared-visible": 4, "multi-exposure": 2, "multi-focus": 4}
    for row in ("full", "no-bilevel"):
        assert all(np.isfinite(value) for value in table["rows"][row]["mean"].values())
    assert set(table["rows"]["no-bilevel"]["difference"]) == set(TABLE.metrics)

    assert any("Of multi-focus, pairs are made of single images" in note for note in table["notes"])
    assert any("adapters also take 0.1 of the fusion loss's gradient" in note for note in table["notes"])
    assert not any("skip_drop" in note for note in table["notes"])

    recipes = {row: json.loads(load(folder / row / "seed3")["recipe"]) for row in ("full", "no-bilevel")}
    assert [recipes[row].pop("levels")["joint"] for row in recipes] == [False, True]
    assert recipes["full"] == recipes["no-bilevel"]

    text = (folder / "table.md").read_text()
    assert text.startswith("# Ablation of unifusion: parts of the network")
    assert "| row | values | MI infrared-visible ↑ | VIF infrared-visible ↑ |" in text
    assert "|  | paper, M3FD, MEFB, MFIF | 3.924 | 0.876 | 6.374 | 1.424 | 6.021 | 0.583 |" in text
    assert "| random | ours: the backbone of all rows is random already" in text

    # a finished row is neither trained nor measured again
    monkeypatch.setattr("training.ablation.unifusion.UniFusionTrainer.fit", None)
    monkeypatch.setattr("training.ablation.unifusion.metric_values", None)
    command(*asked)
    assert table_of(folder) == table


@pytest.mark.parametrize("row", ["no-adapter", "no-dinov3", "no-reconstruction"])
def test_other_rows_build_their_networks(words, folder, row):
    command(*words("--rows", row, "--seeds", 2 if row == "no-adapter" else 1))
    found = table_of(folder)["rows"][row]
    assert found["backbone"] == ("none" if row == "no-dinov3" else "small-vit-random")
    assert found["set"] == list(CHANGES[row])
    weights = {name.split(".")[1] for name in load(folder / row / "seed3")["average"]}
    assert ("encoder" in weights) == (row == "no-dinov3")
    if row == "no-adapter":
        runs = [json.loads((folder / row / f"seed{seed}" / "values.json").read_text()) for seed in (3, 4)]
        own = [run["values"]["Qabf multi-focus"] for run in runs]
        means = [np.mean([value for value in values if value is not None]) for values in own]
        assert means[0] != means[1]
        assert found["seeds"] == 2
        assert found["mean"]["Qabf multi-focus"] == pytest.approx(np.mean(means))
        assert found["spread"]["Qabf multi-focus"] == pytest.approx(np.std(means, ddof=1))
        text = (folder / "table.md").read_text()
        assert "|  | standard deviation over 2 seeds | 0." in text
        assert ", seeds 3 to 4. Ours: " in text
    else:
        assert ", seed 3. Ours: " in (folder / "table.md").read_text()


def test_the_random_row_has_the_architecture_of_the_others(words, folder, data_root, tmp_path):
    command(*backbone_words(data_root, tmp_path, tmp_path / "backbone", steps=1))
    command(*words("--rows", "full", "random", backbone={"path": str(tmp_path / "backbone")}))
    rows = table_of(folder)["rows"]
    assert [rows[row]["backbone"] for row in ("full", "random")] == ["small-vit", "small-vit-random"]
    first, second = (load(folder / row / "seed3")["backbone"] for row in ("full", "random"))
    assert {key for key in first if first[key] != second[key]} == {"name", "sha256"}


# bad input


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--table", 1), "unifusion has one table: leave out --table"),
        (("--rows", "tita"), "ablation has no row 'tita'; known: full, no-adapter"),
        (("--controls",), "unifusion has no tokens: leave out --controls"),
        (("--seeds", 0), "--seeds must be 1 or more, not 0"),
        (("--set", "levels.joint=true"), "the row full would not be it with the recipe's levels.joint"),
        (("--set", "network.adapter=none"), "recipe's network.adapter"),
        (("--set", "network.depth=3"), "network: .*unexpected keyword argument 'depth'"),
        (("--set", "backbone.path=nowhere"), "ablation, row full: backbone.path: there is no nowhere"),
        (("--set", "validation.tasks=[{name: infrared-visible, pairs: [{a: x, b: y}]}]"), "it has no multi-exposure"),
    ],
)
def test_bad_options_end_with_one_line(words, argv, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        command(*words(*argv))


def test_other_models_have_numbers_and_one_seed(data_root, tmp_path):
    start = ("ablate", "tita", "--data", data_root, "--out", tmp_path)
    with pytest.raises(SystemExit, match="give --table; known: 4, 5, 6"):
        command(*start)
    with pytest.raises(SystemExit, match="rows of tita are run with one seed: leave out --seeds"):
        command(*start, "--table", 4, "--seeds", 2)
