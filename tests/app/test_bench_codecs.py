"""The comparison of codecs, on tiny pictures; no test here looks at a time."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from app.codec import encode
from benchmarks import codec_ways
from benchmarks.codecs import main


@pytest.fixture
def run(weights, tmp_path):
    """Runs the comparison with the least of everything; returns its exit code and its results."""

    def run_it(*arguments):
        out = tmp_path / "out"
        least = ("--weights", weights, "--model", "plain", "--sizes", "48x64", "--rounds", "1", "--out", out)
        code = main([*map(str, (*least, *arguments))])
        return code, json.loads((out / "codecs.json").read_text()) if code == 0 else None

    return run_it


def test_every_way_is_measured_for_every_kind_of_pictures(run, tmp_path, capsys):
    code, results = run()
    assert code == 0
    written = {(row["kind"], row["way"]): row for row in results["write"]}
    assert {kind for kind, _ in written} == {"colour", "grey"}
    for kind in ("colour", "grey"):
        assert {f"{name}: service, fast" for name in ("png", "jpeg", "webp", "tiff")} <= {
            w for k, w in written if k == kind
        }
        assert written[kind, "png: service, smallest"]["kB"] < written[kind, "png: service, fast"]["kB"]
    assert {row["way"] for row in results["pack"]} >= {"ISA-L 1: service, fast", "zlib 6: service, smallest"}
    assert {"png: Pillow", "jpeg: Pillow"} <= {row["way"] for row in results["read"]}
    assert all(0 <= row["low"] <= row["CPU ms"] <= row["high"] for row in results["write"])
    assert (tmp_path / "out" / "codecs.md").read_text() in capsys.readouterr().out


def test_photographs_are_paired_by_name(run, tmp_path, picture):
    for side, names in (("a", "xyz"), ("b", "yz")):
        (tmp_path / side).mkdir()
        for seed, name in enumerate(names):
            Image.fromarray(picture(40, 50, seed, color=side == "a")).save(tmp_path / side / f"{name}.png")
    code, results = run("--a", tmp_path / "a", "--b", tmp_path / "b")
    assert code == 0
    assert [name for name in dict.fromkeys(row["pictures"] for row in results["read"])] == [
        "drawn, 64×48",
        "photographs (2)",
    ]


def test_folders_without_a_name_in_common_are_an_error(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run("--a", tmp_path / "empty", "--b", tmp_path / "empty")[0] == 2
    assert "no file names in common" in capsys.readouterr().err


def test_packages_that_are_missing_are_named(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, results = run()
    assert code == 0
    assert "left out: cv2 is not installed" in capsys.readouterr().out
    assert "cv2" in results["left out"]
    assert not any("OpenCV" in row["way"] for row in results["write"] + results["read"])


def test_a_writer_that_loses_something_is_an_error(run, monkeypatch, capsys):
    def lossy(pixels, output, quality, effort):
        return encode(pixels ^ 1 if output == "tiff" and effort == "small" else pixels, output, quality, effort)

    monkeypatch.setattr(codec_ways, "encode", lossy)
    assert run()[0] == 2
    assert "service, small wrote another picture" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--a", "here"], ["--rounds", "0"], ["--limit", "0"], ["--sizes", "big"]])
def test_bad_usage(run, arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
