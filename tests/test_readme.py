"""The generated tables are what their generator makes of the cards, the benchmark files and the settings."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "docs/quality.md"]
METRICS = ["EN", "SSIM", "clip"]


def tables(root, *options):
    command = [sys.executable, str(root / "docs" / "tables.py"), *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True)


@pytest.fixture
def clone(tmp_path):
    """What the generator reads and writes."""
    benchmarks = ("docs/benchmarks/**/bench.json", "docs/benchmarks/serve/serve.json")
    patterns = ("README.md", "docs/*.py", "docs/quality.md", *benchmarks, "weights/*/card.json")
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


@pytest.fixture(scope="module")
def quality():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield import_module("quality")
        del sys.modules["quality"]


def card(name, own, baseline=(6.0, 1.0, 0.0), **changed):
    """A card with one evaluation of one baseline; values in the order of METRICS."""
    metrics = {method: dict(zip(METRICS, row, strict=True)) for method, row in {"average": baseline, name: own}.items()}
    rank = {"average": 2.0, name: 1.0}
    entry = {"dataset": "ivf/val", "pairs": 20, "size": "native", "ranked_by": METRICS}
    return {"name": name, "evaluation": [{**entry, "mean_rank": rank, "metrics": metrics, **changed}]}


def test_tables_are_up_to_date():
    done = tables(ROOT, "--check")
    assert done.returncode == 0, f"run: PYTHONPATH=. python docs/tables.py\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_check_finds_a_stale_document_and_the_command_repairs_it(clone, document):
    path = clone / document
    fresh = path.read_text()
    path.write_text(fresh.replace("| **titok-ste-lite** | ", "| **titok-ste-lite** | 0").replace("(1st of", "(2nd of"))
    assert path.read_text() != fresh
    done = tables(clone, "--check")
    assert done.returncode == 1
    assert done.stderr == f"out of date: {path.name}\n"
    assert tables(clone).returncode == 0
    assert path.read_text() == fresh


def test_a_new_bundle_appears_by_itself(clone):
    text = (clone / "weights/tita/card.json").read_text().replace('"tita":', '"newcomer":')
    content = json.loads(text) | {"name": "newcomer"}
    (clone / "weights/newcomer").mkdir()
    (clone / "weights/newcomer/card.json").write_text(json.dumps(content))
    assert tables(clone).returncode == 0
    readme, details = ((clone / document).read_text() for document in DOCUMENTS)
    assert "\n| `newcomer` | infrared-visible, multi-exposure" in readme
    rows = [[cell.strip() for cell in line.split("|")] for line in readme.splitlines()]
    first = next(i for i, cells in enumerate(rows) if cells[1:2] == ["validation pairs"])
    ours, copied = (rows[first].index(f"`{name}`") for name in ("newcomer", "tita"))
    standings = [(cells[ours], cells[copied]) for cells in rows[first + 2 :][: len(content["evaluation"])]]
    assert all(" of " in one and one == other for one, other in standings)
    assert details.count("| **newcomer** |") == len(content["evaluation"])


def test_the_newest_benchmark_counts_and_cuda_has_its_own_column(clone):
    old = json.loads((clone / "docs/benchmarks/bench.json").read_text())
    for folder, facts, milliseconds in (
        ("a", {"date": "9999-02-01", "threads of one run": "3"}, 40),
        ("b", {"date": "9999-01-01"}, 50),
        ("c", {"date": "9999-01-01", "device": "CUDA"}, 3),
    ):
        findings = {"fuse_ms": {"value": milliseconds}}
        model = {"name": "titok-ste-lite", "size": {"height": 480, "width": 640}, "findings": findings}
        content = {"machine": {**old["machine"], **facts}, "models": [model]}
        (clone / "docs/benchmarks" / folder).mkdir()
        (clone / "docs/benchmarks" / folder / "bench.json").write_text(json.dumps(content))
    assert tables(clone).returncode == 0
    on_cpu = "[40 ms / not measured](docs/benchmarks/a/bench.md), 3 threads"
    assert f"| {on_cpu} | [3 ms / not measured](docs/benchmarks/c/bench.md) |\n" in (clone / "README.md").read_text()


def test_servers_are_compared_as_the_benchmark_says(clone):
    path = clone / "docs/benchmarks/serve/serve.json"
    bench = json.loads(path.read_text())
    medians = {"pictures_a_second": 123.4, "of_best_in_process": 0.987, "p50_ms": 10.0, "p99_ms": 56.7}
    bench["servers"] = [
        {"name": "pairfuse", "pairs": "one size", "clients": 4, "medians": medians},
        {"name": "pairfuse", "pairs": "mixed", "clients": 4, "medians": {}},
        {"name": "Other", "pairs": "one size", "clients": 1, "medians": medians},
    ]
    path.write_text(json.dumps(bench))
    assert tables(clone).returncode == 0
    readme = (clone / "README.md").read_text()
    assert "| | 1 client | 4 clients |\n" in readme
    assert "\n| pairfuse | – | **123.4 (0.99)**, 57 ms |\n| Other | 123.4 (0.99), 57 ms | – |\n" in readme


def test_cards_of_the_same_pairs_are_ranked_together(quality):
    (table,) = quality.gather([card("one", (7.0, 1.2, 0.1)), card("two", (8.0, 1.1, 0.1))])
    # EN: two, one, average; SSIM: one, two, average; clip, less is better: average, then both
    assert table.rank == {"average": pytest.approx(7 / 3), "one": pytest.approx(5.5 / 3), "two": pytest.approx(5.5 / 3)}
    line = quality.overview([table], ["one", "two"]).splitlines()[-1]
    assert line.count("**1.83 (1st of 3)**") == 2
    assert line.endswith("| average 2.33 (3rd of 3) |")


def test_cards_with_other_ranked_metrics_are_ranked_by_those_they_share(quality):
    (table,) = quality.gather([card("one", (7.0, 1.2, 0.1)), card("two", (8.0, 1.1, 0.1), ranked_by=["SSIM", "EN"])])
    assert {*table.ranked_by} == {"EN", "SSIM"}
    assert table.rank == {"average": 3.0, "one": 1.5, "two": 1.5}


@pytest.mark.parametrize(
    "changed",
    [{"pairs": 19}, {"ranked_by": ["VIF"]}, {"dataset": "mef/val"}, {"baseline": (6.0, 1.001, 0.0)}],
    ids=lambda changed: next(iter(changed)),
)
def test_cards_that_have_too_little_in_common_stay_apart(quality, changed):
    found = quality.gather([card("one", (7.0, 1.2, 0.1)), card("two", (8.0, 1.1, 0.1), **changed)])
    assert [table.rank for table in found] == [{"average": 2.0, "one": 1.0}, {"average": 2.0, "two": 1.0}]


def test_other_sizes_are_left_out(quality):
    assert quality.gather([card("one", (7.0, 1.2, 0.1), size="256x256")]) == []
