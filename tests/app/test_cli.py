from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from app import cli
from app.settings import settings_table


@pytest.fixture
def run(weights, monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("PAIRFUSE_WEIGHTS", str(weights))
    monkeypatch.setenv("PAIRFUSE_THREADS", "1")

    def run_it(*arguments):
        monkeypatch.setattr(sys, "argv", ["pairfuse", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        output = capsys.readouterr()
        return caught.value.code, output.out, output.err

    return run_it


@pytest.fixture
def files(tmp_path, pair):
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path, content in zip(paths, pair, strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def folders(tmp_path, picture, to_file):
    for side, kind in (("a", "PNG"), ("b", "JPEG")):
        folder = tmp_path / side
        folder.mkdir()
        for index in range(5):
            suffix = {"PNG": ".png", "JPEG": ".JPG"}[kind]
            (folder / f"pair{index}{suffix}").write_bytes(to_file(picture(40, 50, index, color=False), kind))
    return tmp_path / "a", tmp_path / "b", tmp_path / "out"


def test_fuse_writes_the_mean_of_the_pair(run, files, tmp_path, pair):
    output = tmp_path / "fused.png"
    code, _, errors = run("fuse", *files, "-o", output, "--color", "none", "--strength", "1")
    assert (code, errors) == (0, "")
    planes = [np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32) for data in pair]
    assert np.abs(np.asarray(Image.open(output), np.float32) - np.mean(planes, axis=0)).max() <= 1.01


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "JPEG"), (".jpeg", "JPEG"), (".tif", "TIFF"), (".webp", "WEBP")])
def test_the_suffix_chooses_the_format(run, files, tmp_path, suffix, kind):
    output = tmp_path / f"fused{suffix}"
    assert run("fuse", *files, "-o", output, "--sharpen", "2", "--slot", "smooth=0.5")[0] == 0
    assert Image.open(output).format == kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "3"], "a number from 0 to 2"),
        (["--effort", "9"], "fast, small, smallest"),
        (["--model", "titan"], "coded, moody, plain"),
        (["--model", "plain", "--sharpen", "1"], "plain has no such field"),
    ],
)
def test_bad_options_end_with_one_line(run, files, tmp_path, arguments, message):
    code, _, errors = run("fuse", *files, "-o", tmp_path / "x.png", *arguments)
    assert code == 1
    assert errors.startswith("pairfuse: ")
    assert message in errors
    assert not (tmp_path / "x.png").exists()


def test_bad_usage(run, files, tmp_path):
    assert run("fuse", *files, "-o", tmp_path / "x.gif")[0] == 2
    assert run("fuse", *files, "-o", tmp_path / "x.png", "--slot", "smooth")[0] == 2


def test_a_missing_output_folder_is_named(run, files, tmp_path):
    code, _, errors = run("fuse", *files, "-o", tmp_path / "none" / "x.png")
    assert code == 2
    assert "there is no folder" in errors


def test_a_bad_image_ends_with_one_line(run, files, tmp_path):
    files[1].write_text("no image")
    code, _, errors = run("fuse", *files, "-o", tmp_path / "x.png")
    assert code == 1
    assert "image_b is not an image" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_fuse_dir_fuses_all_and_resumes(run, folders):
    dir_a, dir_b, output = folders
    code, out, _ = run("fuse-dir", dir_a, dir_b, "-o", output)
    assert code == 0
    assert "5 to do, 0 were done before, 0 failed" in out
    assert sorted(path.name for path in output.glob("pair*")) == [f"pair{index}.png" for index in range(5)]
    (output / "pair3.png").unlink()
    kept = (output / "pair2.png").stat().st_mtime_ns
    assert "1 to do, 4 were done before, 0 failed" in run("fuse-dir", dir_a, dir_b, "-o", output)[1]
    assert (output / "pair2.png").stat().st_mtime_ns == kept


def test_fuse_dir_does_not_mix_results(run, folders):
    dir_a, dir_b, output = folders
    assert run("fuse-dir", dir_a, dir_b, "-o", output)[0] == 0
    code, _, errors = run("fuse-dir", dir_a, dir_b, "-o", output, "--color", "none")
    assert code == 2
    assert "other options" in errors
    code, _, errors = run("fuse-dir", dir_a, dir_b, "-o", dir_a)
    assert code == 2
    assert "folder of their own" in errors


def test_fuse_dir_reports_what_failed_and_does_the_rest(run, folders):
    dir_a, dir_b, output = folders
    (dir_b / "pair1.JPG").write_bytes(b"no image")
    (dir_b / "pair2.JPG").unlink()
    (dir_a / "pair3.bmp").write_bytes(b"a second file of this name")
    code, out, errors = run("fuse-dir", dir_a, dir_b, "-o", output, "--format", "jpeg")
    assert code == 1
    assert "3 failed" in out
    assert "pair1: image_b is not an image" in errors
    assert f"pair2: not in {dir_b}" in errors
    assert "pair3: several files" in errors
    assert sorted(path.name for path in output.glob("pair*")) == ["pair0.jpg", "pair4.jpg"]


def test_fuse_takes_each_channel_for_itself(run, picture, to_file, tmp_path):
    pictures = [picture(40, 50, seed, color=True) for seed in (1, 2)]
    for name, pixels in zip("ab", pictures, strict=True):
        (tmp_path / f"{name}.png").write_bytes(to_file(pixels))
    output = tmp_path / "fused.png"
    assert run("fuse", tmp_path / "a.png", tmp_path / "b.png", "-o", output, "--color", "rgb")[0] == 0
    assert np.abs(np.asarray(Image.open(output), float) - np.mean(pictures, axis=0)).max() <= 0.51


def test_fuse_dir_fuses_channels_within_its_own_bounds(run, picture, to_file, tmp_path, monkeypatch):
    # Bounds that suit a service and not three pairs of three channels at once.
    monkeypatch.setenv("PAIRFUSE_MAX_QUEUE", "1")
    monkeypatch.setenv("PAIRFUSE_MAX_PIXELS", str(40 * 50))
    for side in "ab":
        (tmp_path / side).mkdir()
        for index in range(6):
            (tmp_path / side / f"{index}.png").write_bytes(to_file(picture(40, 50, index, color=True)))
    output = tmp_path / "out"
    code, out, _ = run("fuse-dir", tmp_path / "a", tmp_path / "b", "-o", output, "--color", "rgb")
    assert (code, out.strip()) == (0, "6 to do, 0 were done before, 0 failed")
    for index in range(6):  # The mean of a picture and itself.
        fused = np.asarray(Image.open(output / f"{index}.png"))
        np.testing.assert_array_equal(fused, picture(40, 50, index, color=True))


def test_fuse_dir_without_a_single_pair_fails(run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run("fuse-dir", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")[0] == 1


def test_models(run):
    code, out, _ = run("models")
    assert code == 0
    assert "coded" in out
    code, out, _ = run("models", "--json")
    listed = json.loads(out)
    assert listed["default"] == "coded"
    assert [card["name"] for card in listed["models"]] == ["coded", "moody", "plain"]


def test_settings(run):
    assert run("settings")[1].strip() == settings_table()


def test_start_up_errors_end_with_one_line(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PAIRFUSE_WEIGHTS", str(tmp_path / "nowhere"))
    code, _, errors = run("models")
    assert code == 1
    assert "PAIRFUSE_WEIGHTS" in errors
    monkeypatch.setenv("PAIRFUSE_MAX_PIXELS", "many")
    code, _, errors = run("serve")
    assert code == 2
    assert "PAIRFUSE_MAX_PIXELS" in errors


def test_missing_onnxruntime_ends_with_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, errors = run("models")
    assert code == 1
    assert errors.count("\n") == 1
    assert "pip install" in errors


def test_a_reduced_working_size(run, tmp_path, picture, to_file, monkeypatch):
    paths = []
    for seed in (1, 2):
        paths.append(tmp_path / f"{seed}.png")
        paths[-1].write_bytes(to_file(picture(200, 300, seed, color=False)))
    outputs = [tmp_path / name for name in ("whole.png", "reduced.png", "set.png")]
    assert run("fuse", *paths, "-o", outputs[0], "--model", "plain")[0] == 0
    assert run("fuse", *paths, "-o", outputs[1], "--model", "plain", "--max-side", "100")[0] == 0
    monkeypatch.setenv("PAIRFUSE_MAX_SIDE", "100")
    assert run("fuse", *paths, "-o", outputs[2], "--model", "plain")[0] == 0
    whole, reduced, by_setting = (np.asarray(Image.open(path)).astype(int) for path in outputs)
    assert 0 < np.abs(whole - reduced).max() <= 8
    np.testing.assert_array_equal(reduced, by_setting)


def test_effort_makes_fewer_bytes_of_the_same_picture(run, files, tmp_path, monkeypatch):
    outputs = [tmp_path / name for name in ("fast.png", "asked.png", "set.png")]
    assert run("fuse", *files, "-o", outputs[0])[0] == 0
    assert run("fuse", *files, "-o", outputs[1], "--effort", "smallest")[0] == 0
    monkeypatch.setenv("PAIRFUSE_EFFORT", "smallest")
    assert run("fuse", *files, "-o", outputs[2])[0] == 0
    fast, asked, by_setting = outputs
    assert asked.stat().st_size < fast.stat().st_size
    assert asked.read_bytes() == by_setting.read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(fast)), np.asarray(Image.open(asked)))


def test_the_quality_of_a_folder_can_be_set(run, folders, monkeypatch):
    dir_a, dir_b, output = folders
    sizes = []
    for quality in ("95", "20"):
        monkeypatch.setenv("PAIRFUSE_QUALITY", quality)
        folder = output.with_name(f"out-{quality}")
        assert run("fuse-dir", dir_a, dir_b, "-o", folder, "--format", "jpeg", "--effort", "small")[0] == 0
        sizes.append((folder / "pair1.jpg").stat().st_size)
    assert sizes[1] < sizes[0]


def test_a_bad_working_size_ends_with_the_good_ones(run, files, tmp_path):
    code, _, errors = run("fuse", *files, "-o", tmp_path / "f.png", "--max-side", "7")
    assert code == 1
    assert "max_side: '7'" in errors
    assert "from 64 to 65535" in errors


def test_a_folder_of_another_working_size_is_not_mixed(run, folders):
    assert run("fuse-dir", *folders[:2], "-o", folders[2], "--max-side", "64")[0] == 0
    code, _, errors = run("fuse-dir", *folders[:2], "-o", folders[2])
    assert code == 2
    assert "other options" in errors
