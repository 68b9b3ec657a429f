"""The command ``ablate tita``: the paper's rows as runs that differ in nothing else, on drawn pairs."""

import json

import pytest
import torch
import yaml

from models.registry import TITA_CONFIGS
from models.tita.pixel_attention import TwoKeyAttention
from tests.training.tiny_runs import command, load
from tests.training.tiny_tita_runs import NETWORK, recipe
from training.ablation.tables import choose_rows
from training.ablation.tita import NetworkJob
from training.ablation.tita_tables import MISSING, PLANS, TABLES
from training.config import load_recipe
from training.evaluation.metrics import METRICS
from training.tita import build_network
from training.tita_recipe import TITARecipe

UNUSED = 8_430
"""Parameters of the paper's code that it never uses."""


@pytest.fixture
def words(data_root, tmp_path):
    """A command line with a tiny recipe; ``changes`` are of the recipe."""

    def make(*argv, out=tmp_path / "out", **changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(recipe(network={**NETWORK, "fold": 2}, steps=2, **changes)))
        start = ("ablate", "tita", "--data", data_root, "--recipe", path, "--out", out, "--size", 48)
        return [*start, *argv]

    return make


def table_of(folder, number):
    return json.loads((folder / f"table{number}" / "table.json").read_text())


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# the paper's tables


def test_tables_hold_the_papers_values():
    assert sorted(TABLES) == [4, 5, 6]
    fourth = TABLES[4].paper
    assert fourth["LLVIP"]["baseline"] == (2.9632, 0.8841, 0.4581, 0.7027)
    assert fourth["MEFB"]["ta+mo"] == (6.1557, 0.9002, 0.7235, 1.5274)
    assert fourth["MFF 63"]["full"] == (6.5463, 0.8847, 0.6973, 1.6371)
    assert TABLES[5].paper["LLVIP"]["ipa"] == (3.6778, 0.8895, 0.6515, 0.8558)
    assert TABLES[6].paper["LLVIP"]["no-dw"] == (3.7844, 0.8951, 0.6658, 0.8711)
    # the same networks under two names
    assert fourth["LLVIP"]["baseline-ts"] == TABLES[5].paper["LLVIP"]["sf"]
    assert fourth["LLVIP"]["full"] == TABLES[6].paper["LLVIP"]["full"]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: f"table {table.number}")
def test_every_row_has_values_and_a_plan(table):
    assert set(table.metrics) <= METRICS.keys()
    for rows in (*table.paper.values(), table.parameters):
        assert rows.keys() == table.rows.keys()
    assert all(len(values) == len(table.metrics) for rows in table.paper.values() for values in rows.values())
    assert PLANS[table.number].keys() == table.rows.keys() - MISSING.keys()
    assert choose_rows(table, None) == list(table.rows)


SIZES = sorted({(plan.profile, TABLES[n].parameters[row]) for n, plans in PLANS.items() for row, plan in plans.items()})


@pytest.mark.parametrize(("profile", "published"), SIZES)
def test_the_network_of_a_row_is_as_large_as_the_papers(profile, published):
    with torch.device("meta"):
        network = build_network(profile, {})
    biases = sum(m.query.out_features for m in network.modules() if isinstance(m, TwoKeyAttention))  # they cancel
    count = UNUSED + biases + sum(p.numel() for p in network.parameters())
    assert f"{count / 1e6:.2f}M" == published


def test_rows_of_the_first_table_are_all_combinations():
    plans = PLANS[4]
    assert len(set(plans.values())) == len(plans) == 8
    for row, plan in plans.items():
        config = TITA_CONFIGS[plan.profile]
        assert (plan.weighting == "famo") == ("mo" in row or row == "full")
        assert (config.fusion_head == "oaf") == ("ta" in row or row == "full")
        assert (config.pixel_attention == "ipa") == ("ti" in row or row == "full")
    assert {plan.weighting for plan in PLANS[5].values()} == {"mean"}
    assert {plan.weighting for plan in PLANS[6].values()} == {"famo"}


def test_the_shipped_recipe_is_affordable_and_right_for_every_row():
    base = load_recipe("tita-ablation", TITARecipe)
    assert base.network == {"fold": 4, "output": "blend"}
    assert base.steps < load_recipe("tita-short", TITARecipe).steps
    for number, plans in PLANS.items():
        for row, plan in plans.items():
            job = NetworkJob(plan, base.network, 1, "")
            changed = load_recipe("tita-ablation", TITARecipe, list(job.settings))
            assert (changed.profile, changed.weighting.kind) == (plan.profile, plan.weighting), (number, row)
            others = {"profile", "weighting"}
            assert changed.model_dump(exclude=others) == base.model_dump(exclude=others)
    assert load_recipe("tita-ablation", TITARecipe, ["network={}"]).network == {}


# runs


def test_rows_differ_in_what_the_table_is_about_only(words, tmp_path, monkeypatch):
    asked = words("--table", 4, "--rows", "baseline", "baseline-ts", "mo", "ta")
    command(*asked)
    folder = tmp_path / "out" / "table4"
    table = table_of(tmp_path / "out", 4)
    assert [row["status"] for row in table["rows"].values()] == ["skipped", "finished", "finished", "finished"]
    assert "VGG-19" in table["rows"]["baseline"]["reason"]
    assert (table["model"], table["reference"]) == ("tita", "baseline-ts")
    assert set(table["rows"]["mo"]["difference"]) == {"MI", "FMI", "Qabf", "VIF"}

    states = {row: load(folder / row) for row in ("baseline-ts", "mo", "ta")}
    recipes = {row: json.loads(state["recipe"]) for row, state in states.items()}
    assert [recipes[row]["profile"] for row in states] == ["tita-sf", "tita-sf", "tita-ta"]
    assert [state["weighting"]["kind"] for state in states.values()] == ["mean", "famo", "mean"]
    for values in recipes.values():
        del values["profile"], values["weighting"]
    assert recipes["baseline-ts"] == recipes["mo"] == recipes["ta"]
    # the same start and the same first batch: without FAMO's say the first losses are equal
    first = {row: lines(folder / row)[0] for row in states}
    assert first["mo"]["loss/multi-focus"] == first["baseline-ts"]["loss/multi-focus"]
    assert first["ta"]["loss/multi-focus"] != first["baseline-ts"]["loss/multi-focus"]

    text = (folder / "table.md").read_text()
    assert "| baseline | ours: its loss, one for all tasks" in text
    assert "|  | paper, MEFB | 5.9231 | 0.8998 | 0.7039 | 1.4994 |" in text
    assert "rows ti+ta and ti+mo look exchanged" in text
    assert "| losses |" in text
    assert "| FAMO |" in text
    with torch.device("meta"):
        count = sum(p.numel() for p in build_network("tita-ta", {**NETWORK, "fold": 2}).parameters())
    assert f"| {count:,} (1.06M) |" in text
    assert table["rows"]["ta"]["parameters"] == count

    # a finished row is neither trained nor measured again
    monkeypatch.setattr("training.ablation.tita.TITATrainer.fit", None)
    monkeypatch.setattr("training.ablation.measured.evaluate_methods", None)
    command(*asked)
    assert table_of(tmp_path / "out", 4) == table


def test_an_interrupted_row_goes_on_and_other_runs_are_refused(words, tmp_path):
    asked = words("--table", 5, "--rows", "irsf", validation={**recipe()["validation"], "every": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.tita.TITATrainer.validate", _power_cut_at_second())
        with pytest.raises(RuntimeError, match="power cut"):
            command(*asked)
    assert load(tmp_path / "out" / "table5" / "irsf")["step"] == 1
    command(*asked)
    assert load(tmp_path / "out" / "table5" / "irsf")["step"] == 2
    assert table_of(tmp_path / "out", 5)["rows"]["irsf"]["steps"] == 2
    with pytest.raises(SystemExit, match=r"row irsf: .* begun with another recipe \(seed differ\)"):
        command(*asked, "--set", "seed=4")
    other = tmp_path / "out" / "table5" / "sf"
    other.mkdir()
    torch.save({"kind": "titok-ste"}, other / "last.pt")
    with pytest.raises(SystemExit, match=r"row sf: .* holds a titok-ste run, not a tita run"):
        command(*words("--table", 5, "--rows", "sf"))


def _power_cut_at_second():
    calls = []

    def validate(self):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return {}, {}

    return validate


def test_a_row_that_fails_keeps_the_finished_ones(words, tmp_path):
    folder = tmp_path / "out" / "table6" / "no-dw"
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit, match=r"^error: table 6, row no-dw: .*finished rows are kept in .*table6$"):
        command(*words("--table", 6, "--rows", "no-mul", "no-dw"))
    rows = table_of(tmp_path / "out", 6)["rows"]
    assert [row["status"] for row in rows.values()] == ["finished", "not run"]
    assert load(tmp_path / "out" / "table6" / "no-mul")["profile"] == "tita-no-mul"


# bad input


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--table", 3), "tita has no table 3; known: 4, 5, 6"),
        (("--table", 4, "--rows", "tita"), "table 4 has no row 'tita'; known: baseline, baseline-ts"),
        (("--controls",), "tita has no tokens: leave out --controls"),
        (("--table", 4, "--tokenizer", "x"), "tita has no tokens: leave out --tokenizer"),
        (("--table", 6, "--backbone", "clip=x"), "tita has no tokens: leave out --backbone"),
        (("--table", 4, "--slots-for", "3=x"), "tita has no tokens: leave out --slots-for"),
        (("--table", 4, "--set", "profile=tita"), "--set profile: each row of the table has its own"),
        (("--table", 4, "--set", "weighting.kind=famo"), "--set weighting.kind: each row"),
        (("--table", 4, "--set", "network.fusion_head=conv"), "network: fusion_head differs from row to row"),
        (("--table", 4, "--set", "network.depth=3"), "row baseline-ts: network: .*unexpected keyword argument 'depth'"),
        (("--table", 4, "--set", "validation.tasks=[]"), "validation.tasks: "),
        (("--table", 4, "--size", "big"), "--size"),
        (("--table", 4, "--size", 36), "image a on .*: .*36"),
        (("--table", 4, "--recipe", "titok-ste-lite"), "recipe titok-ste-lite.yaml: "),
    ],
)
def test_bad_options_end_with_one_line(words, argv, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        command(*words(*argv))


def test_a_recipe_without_pairs_to_measure_is_refused(words):
    made = [task for task in recipe()["validation"]["tasks"] if "made" in task]
    with pytest.raises(SystemExit, match=r"measured on validation\.tasks infrared-visible of the recipe, which has no"):
        command(*words("--table", 4, validation={"every": 1, "side": 64, "tasks": made}))


def test_the_other_model_says_what_it_needs(data_root, tmp_path):
    start = ("ablate", "titok-ste", "--data", data_root, "--out", tmp_path)
    with pytest.raises(SystemExit, match="built around a tokenizer: give --tokenizer"):
        command(*start, "--table", 3)
    with pytest.raises(SystemExit, match="titok-ste has no table 5; known: 3, 4, 6, 7"):
        command(*start, "--table", 5)
