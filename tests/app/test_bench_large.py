"""The benchmark of memory against image size, with processes of its own; no test here looks at a time."""

import json
from dataclasses import replace

import pytest

from app.bundles import read_bundle
from benchmarks import bench, large
from benchmarks.errors import BenchError
from benchmarks.large import Large, LargeRun, measure_large
from benchmarks.large_report import draw_large, large_json, large_markdown, large_table, picture_name
from benchmarks.large_run import TILED, WHOLE
from tests.app.tiled_bundle import write_tiled_bundle

SIZES = ((96, 128), (192, 256))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return read_bundle(write_tiled_bundle(tmp_path_factory.mktemp("weights"), "blur"))


def measured(bundle, seconds=60.0, sizes=SIZES):
    steps = []
    found = measure_large(bundle, 1, seconds, lambda: steps.append(1), sizes)
    assert len(steps) == (2 * len(sizes) if isinstance(found, Large) else 0)
    return found


def test_each_size_is_measured_in_both_ways(bundle):
    found = measured(bundle)
    assert found.sizes == list(SIZES)
    for size in SIZES:
        for way in (WHOLE, TILED):
            run = found.run(size, way)
            assert run.peak > 2**24  # At least what Python itself needs.
            assert run.seconds > 0
            assert not run.missing


def test_what_needs_too_much_memory_is_said_and_larger_images_are_left_out(bundle, monkeypatch):
    monkeypatch.setattr(large, "MOST_BYTES", 10**7)  # Less than Python with NumPy has already.
    runs = measured(bundle).runs
    assert [run.missing for run in runs] == ["more than 0.01 GB"] * 4
    assert not any(run.peak or run.seconds for run in runs)


def test_what_takes_too_long_is_said(bundle):
    assert {run.missing for run in measured(bundle, seconds=0.001).runs} == {"more than 0.001 s"}


def test_a_run_that_fails_stops_the_benchmark(tmp_path):
    folder = write_tiled_bundle(tmp_path, "blur")
    found = read_bundle(folder)
    (folder / "given.onnx").write_bytes(b"x")
    with pytest.raises(BenchError, match=r"blur, 128×96, whole, failed:(.|\n)*given\.onnx"):
        measure_large(found, 1, 60, lambda: None, SIZES)


@pytest.mark.parametrize("kind", ["plain", "coded"])
def test_bundles_without_tiles_are_measured_as_a_whole(tmp_path, bundle_writers, kind):
    found = read_bundle(bundle_writers[kind](tmp_path))
    runs = measure_large(found, 1, 60.0, lambda: None, SIZES)
    assert [(run.height, run.width, run.way) for run in runs.runs] == [(*size, WHOLE) for size in SIZES]
    assert all(run.peak > 2**24 and run.seconds > 0 for run in runs.runs)
    assert large_json(runs)["tiling"] is None
    text = "\n".join(large_markdown("plain", runs))
    assert "every image as a whole" in text
    assert "in tiles" not in text
    assert large_table("plain", runs).row_count == 2
    draw_large("plain", runs, tmp_path)
    assert (tmp_path / picture_name("plain")).is_file()


def test_images_that_the_card_refuses_are_left_out(bundle):
    card = bundle.card.model_copy(update={"size": bundle.card.size.model_copy(update={"max_pixels": 96 * 128})})
    runs = measured(replace(bundle, card=card)).runs
    assert [bool(run.peak) for run in runs] == [True, True, False, False]
    assert {run.missing for run in runs[2:]} == {"more pixels than the card allows"}


def test_a_section_that_nobody_wants(bundle):
    found = measured(bundle, seconds=0)
    assert "not asked for" in found
    assert large_markdown("blur", found) == [f"blur: {found}."]
    assert large_json(found) == {"missing": found}


@pytest.fixture
def some(bundle):
    """Numbers as of a real model; the largest image did not fit as a whole."""
    runs = [
        LargeRun(480, 640, WHOLE, 1_450_000_000, 9.4),
        LargeRun(480, 640, TILED, 1_500_000_000, 16.7),
        LargeRun(3072, 4096, WHOLE, missing="more than 12 GB"),
        LargeRun(3072, 4096, TILED, 2_000_000_000, 900.0),
    ]
    return Large(bundle.card.tiling, runs)


def test_reports_are_complete(some):
    text = "\n".join(large_markdown("blur", some))
    assert "tiles of 48 pixels with halos of 8 and 16" in text
    assert "| 640×480 | 0.3 | 1450 MB | 9.4 s | 1500 MB | 16.7 s |" in text
    assert "| 4096×3072 | 12.6 | more than 12 GB |  | 2000 MB | 900.0 s |" in text
    assert f"]({picture_name('blur')})" in text
    assert large_table("blur", some).row_count == 2
    tree = json.loads(json.dumps(large_json(some)))
    assert tree["tiling"] == {"multiple": 8, "above_pixels": 4096, "tile": 48, "halo_sums": 8, "halo": 16}
    assert [run["peak"] for run in tree["runs"]] == [run.peak for run in some.runs]


def test_the_plot_is_drawn_the_same_each_time(some, tmp_path):
    pictures = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        draw_large("blur", some, tmp_path / name)
        pictures.append((tmp_path / name / picture_name("blur")).read_bytes())
    assert pictures[0] == pictures[1]
    assert b"<svg" in pictures[0]


def test_a_negative_limit_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--large-seconds", "-1"])
    assert "must not be negative" in capsys.readouterr().err
