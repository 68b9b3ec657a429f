"""``operations``: the weights of a network's operations by task, their table, and whether tasks differ."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.models.tiny_tita import SMALL, lively
from training import operations, operations_report
from training.__main__ import main
from training.data.images import DataError
from training.operations_report import OperationReport, TaskWeights, to_json, to_markdown, variance_ratio

PAIRS = ["--pairs", "mef=bright/a,bright/b", "--pairs", "other=dark/a,dark/b"]


@pytest.fixture
def data(tmp_path):
    """Two tasks of four pairs that a network can tell apart: bright and smooth, dark and busy."""
    noise = np.random.default_rng(0)
    for task, low, high in (("bright", 200, 230), ("dark", 0, 90)):
        for side in "ab":
            (tmp_path / task / side).mkdir(parents=True)
            for i in range(4):
                image = noise.integers(low, high, (40, 56), np.uint8)
                Image.fromarray(image).save(tmp_path / task / side / f"p{i}.png")
    return tmp_path


def bundle(folder, model, profile="tita-code", **changes):
    """A released bundle as far as the command reads it; ``changes`` are made to the small network of its card."""
    folder.mkdir()
    save_file(model.state_dict(), folder / "fusion.safetensors")
    extra = {"profile": profile, "network": {**SMALL, **changes}}
    (folder / "card.json").write_text(json.dumps({"name": folder.name, "extra": extra}))
    return folder


def network(**changes):
    torch.manual_seed(5)
    return lively(**changes)


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["operations", *map(str, words)])
    message = str(stopped.value)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def weights_of(model, folder, name):
    a, b = (np.asarray(Image.open(folder / side / f"{name}.png")) for side in "ab")
    tensors = (torch.from_numpy(x.astype(np.float32))[None, None] / 255 for x in (a, b))
    with torch.no_grad():
        return model.operation_weights(*tensors)[0].numpy()


def test_the_table_holds_means_and_spreads_of_the_networks_own_weights(data, tmp_path, capsys):
    model, out = network(), tmp_path / "out"
    words = ["--weights", bundle(tmp_path / "net", model), "--data", data, *PAIRS, "--out", out]
    assert main(["operations", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "operations.json").read_text())
    assert found["operations"] == ["hpf", "add", "mul"]
    for task, folder in (("mef", "bright"), ("other", "dark")):
        expected = np.stack([weights_of(model, data / folder, f"p{i}") for i in range(4)])
        entry = found["tasks"][task]
        for name, values in (("mean", expected.mean(axis=0)), ("std", expected.std(axis=0))):
            got = [list(entry[name][stream].values()) for stream in "ab"]
            np.testing.assert_allclose(got, values, atol=1e-6)
        assert sum(sum(entry["mean"][stream].values()) for stream in "ab") == pytest.approx(1.0)
    first = found["tasks"]["mef"]["mean"]["a"]["hpf"]
    assert f"| mef | 4 | {first:.4f} ± " in printed
    assert printed.startswith((out / "operations.md").read_text())
    assert Image.open(out / "operations.png").width > 500


def test_the_papers_values_stand_below_its_tasks(data, tmp_path, capsys):
    folder = bundle(tmp_path / "net", network())
    tasks = ["infrared-visible", "MFF", "mine"]
    pairs = [word for task in tasks for word in ("--pairs", f"{task}=dark/a,dark/b")]
    assert main(["operations", "--weights", str(folder), "--data", str(data), *pairs, "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    paper = [line for line in printed.splitlines() if line.startswith("| the paper")]
    assert paper == [
        "| the paper: IVF, visible and infrared | | 0.0291 | 0.2456 | 0.2054 | 0.0243 | 0.2226 | 0.2729 |",
        "| the paper: MFF, far and near | | 0.0159 | 0.2480 | 0.2323 | 0.0133 | 0.2231 | 0.2675 |",
    ]
    assert "(in the paper's values of these tasks: 0.0269). With one pair of each task there is no spread" in printed


def test_a_network_without_an_operation_has_no_column_of_it(data, tmp_path, capsys):
    folder = bundle(tmp_path / "net", network(operations=("hpf", "mul")), operations=["hpf", "mul"])
    assert main(["operations", "--weights", str(folder), "--data", str(data), *PAIRS]) == 0
    printed = capsys.readouterr().out
    assert "| task | pairs | A hpf | A mul | B hpf | B mul |" in printed
    assert "| the paper: MEF, over and under | | 0.0286 | 0.3054 | 0.0313 | 0.1809 |" in printed


def test_only_the_centre_and_only_some_pairs_are_looked_at(data, tmp_path):
    model = network()
    for side in "ab":
        image = np.array(Image.open(data / "dark" / side / "p0.png"))
        image[:4], image[:, :12] = 255, 255  # outside the central 32 × 32
        Image.fromarray(image).save(data / "bright" / side / "p0.png")
    words = ["--weights", bundle(tmp_path / "net", model), "--data", data, *PAIRS, "--limit", 2, "--size", 32]
    assert main(["operations", *map(str, words), "--out", str(tmp_path)]) == 0
    tasks = json.loads((tmp_path / "operations.json").read_text())["tasks"]
    assert list(tasks["mef"]["per_pair"]) == ["p0", "p3"]
    assert tasks["mef"]["per_pair"]["p0"] == tasks["other"]["per_pair"]["p0"]
    assert main(["operations", *map(str, words), "--size", "native", "--out", str(tmp_path)]) == 0
    tasks = json.loads((tmp_path / "operations.json").read_text())["tasks"]
    assert tasks["mef"]["per_pair"]["p0"] != tasks["other"]["per_pair"]["p0"]


def test_a_run_folder_is_as_good_as_a_bundle(data, tmp_path, monkeypatch, capsys):
    model = network()
    monkeypatch.setattr(operations, "load_trained", lambda folder: (model, {}) if folder.name == "run" else None)
    outputs = []
    for words in (["--weights", str(bundle(tmp_path / "net", model))], ["--run", str(tmp_path / "run")]):
        assert main(["operations", *words, "--data", str(data), *PAIRS]) == 0
        outputs.append(capsys.readouterr().out.split(":", 1))
    assert [name for name, _ in outputs] == ["net", "run"]
    assert outputs[0][1] == outputs[1][1]


def report(*tasks, count=8, seed=3):
    """Tasks given by their mean weights; the pairs scatter around them by 0.01."""
    noise = np.random.default_rng(seed)
    made = [np.asarray(mean) + noise.normal(0, 0.01, (count, 2, 3)) for mean in tasks]
    names = tuple(f"p{i}" for i in range(count))
    return OperationReport("net", "256", ("hpf", "add", "mul"), tuple(
        TaskWeights(f"task{i}", "a", "b", names, weights) for i, weights in enumerate(made)
    ))  # fmt: skip


EVEN = np.full((2, 3), 1 / 6)
SHIFTED = np.add(EVEN, [[0, 0.03, -0.03], [0, 0, 0]])


def test_tasks_that_differ_are_told_from_those_that_do_not():
    apart, alike = report(EVEN, EVEN, SHIFTED), report(EVEN, EVEN, EVEN)
    assert apart.test.probability < 0.001
    assert apart.contrast.difference == pytest.approx(0.03, abs=0.012)
    assert (apart.contrast.stream, apart.contrast.operation in (1, 2)) == (0, True)
    assert "task2" in (apart.contrast.high, apart.contrast.low)
    assert apart.contrast.spread == pytest.approx(0.01, rel=0.4)
    assert "**The weights differ between these tasks**" in to_markdown(apart)
    assert alike.test.probability > 0.05
    assert "**The weights do not differ clearly between these tasks**" in to_markdown(alike)


def test_chance_differs_as_often_as_p_says(monkeypatch):
    monkeypatch.setattr(operations_report, "DRAWS", 59)
    found = [report(EVEN, EVEN, seed=seed).test.probability for seed in range(150)]
    assert 0.08 < np.mean(np.array(found) <= 0.2) < 0.34
    assert min(found) >= 1 / 60


def test_the_variance_ratio_is_that_of_an_analysis_of_variance():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).normal(size=(9, 1))
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    expected = stats.f_oneway(*(values[labels == i, 0] for i in range(3))).statistic
    assert variance_ratio(values, labels) == pytest.approx(expected)


def test_constant_weights_do_not_differ(data, tmp_path, capsys):
    folder = bundle(tmp_path / "net", network(dynamic_weights=False), dynamic_weights=False)
    assert main(["operations", "--weights", str(folder), "--data", str(data), *PAIRS]) == 0
    printed = capsys.readouterr().out
    assert printed.count("0.1667 ± 0.0000") == 12
    assert re.search(r"do not differ clearly .* F = 0, p = 1 ", printed)


def test_too_few_pairs_are_not_taken_for_a_finding():
    few, enough = (report(EVEN, SHIFTED, count=count) for count in (3, 4))
    assert few.test.least == pytest.approx(2 / 20)  # 20 ways to choose 3 of 6 pairs, and both names
    assert few.test.probability == pytest.approx(few.test.least, abs=0.03)
    assert "**Too few pairs to tell (p cannot be below 0.1)" in to_markdown(few)
    assert enough.test.least == pytest.approx(2 / 70)
    assert "Too few" not in to_markdown(enough)


def test_one_task_and_one_pair_of_each_are_not_compared():
    one = report(EVEN)
    assert one.contrast is None
    assert one.test is None
    assert "One task: nothing to compare it with." in to_markdown(one)
    single = report(EVEN, SHIFTED, count=1)
    assert single.test is None
    json.dumps(to_json(single), allow_nan=False)
    equal = replace(
        single, tasks=tuple(replace(t, weights=np.repeat(t.weights, 2, 0), pairs=("p", "q")) for t in single.tasks)
    )
    assert equal.test.ratio == float("inf")
    json.dumps(to_json(equal), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairs", "mef"], "--pairs takes TASK=FOLDER_A,FOLDER_B, not 'mef'"),
        (["--pairs", "mef=dark/a"], "--pairs takes TASK=FOLDER_A,FOLDER_B"),
        ([*PAIRS, "--pairs", "mef=dark/a,dark/b"], "the task 'mef' twice"),
        (["--pairs", "mef=dark/a,dark/c"], "no folder"),
        ([*PAIRS, "--limit", "0"], "--limit must be 1 or more"),
        ([*PAIRS, "--size", "31"], "--size must be native or a side of at least 32"),
    ],
)
def test_wrong_options_are_one_line(data, tmp_path, capsys, options, message):
    folder = bundle(tmp_path / "net", network())
    assert message in fails(capsys, "--weights", folder, "--data", data, *options)


def test_a_pair_of_two_sizes_is_named_before_anything_is_measured(data, tmp_path, capsys, monkeypatch):
    Image.new("L", (40, 40)).save(data / "dark" / "b" / "p3.png")
    monkeypatch.setattr(operations, "weigh", lambda *args: pytest.fail("it went on"))
    folder = bundle(tmp_path / "net", network())
    assert "dark/b/p3.png is 40×40" in fails(capsys, "--weights", folder, "--data", data, *PAIRS)


def test_wrong_weights_are_one_line(data, tmp_path, capsys):
    def said(folder):
        return fails(capsys, "--weights", folder, "--data", data, *PAIRS)

    assert "card.json" in said(tmp_path / "nothing")
    assert "no TITA profile 'titok-ste-lite'" in said(bundle(tmp_path / "other", network(), "titok-ste-lite"))
    assert "the checkpoint is not a tita-code" in said(bundle(tmp_path / "narrow", network(dim=24)))
    assert "has no operations to weigh" in said(
        bundle(tmp_path / "conv", network(fusion_head="conv"), fusion_head="conv")
    )
    assert "network: " in said(bundle(tmp_path / "odd", network(), heads=5))
    bare = bundle(tmp_path / "bare", network())
    (bare / "card.json").write_text('{"name": "bare", "extra": {}}')
    assert "does not tell which TITA network the bundle holds" in said(bare)
    damaged = bundle(tmp_path / "damaged", network())
    (damaged / "fusion.safetensors").write_bytes(b"none")
    assert "cannot load" in said(damaged)
    (damaged / "fusion.safetensors").unlink()
    assert "cannot load" in said(damaged)
    assert "not allowed with" in _usage(capsys, "--weights", damaged, "--run", damaged, "--data", data, *PAIRS)


def _usage(capsys, *words):
    with pytest.raises(SystemExit):
        main(["operations", *map(str, words)])
    return capsys.readouterr().err


def test_a_run_of_something_else_is_refused(data, tmp_path):
    with pytest.raises(SystemExit, match=str(tmp_path / "run")):
        main(["operations", "--run", str(tmp_path / "run"), "--data", str(data), *PAIRS])
    with pytest.raises(DataError):
        operations.find_tasks(data, ["mef=dark/a,bright/c"])
