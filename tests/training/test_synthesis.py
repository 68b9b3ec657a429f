"""What both kinds of made pairs share, and the command that writes them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from tests.training.made_scenes import CONFIGS, KINDS, made, scene
from training import __main__ as command_line
from training.config import PairFolder
from training.data.pairs import ImagePairs
from training.synthesis.exposure import ExposureConfig, synthesise_exposure
from training.synthesis.focus import FocusConfig, synthesise_focus
from training.synthesis.kinds import Synthesis, synthesise


@pytest.mark.parametrize("config", CONFIGS, ids=KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_range_and_truth(config, channels):
    image = scene(3, channels, 37, 53)
    pair = made(image, config)
    assert pair.truth is image
    for picture in (pair.a, pair.b):
        assert picture.shape == image.shape
        assert picture.dtype == torch.float32
        assert picture.min() >= 0
        assert picture.max() <= 1


@pytest.mark.parametrize("config", CONFIGS, ids=KINDS)
def test_the_seed_decides_and_the_global_numbers_do_without_one(config):
    image = scene(2)
    first, again, other = made(image, config, 1), made(image, config, 1), made(image, config, 2)
    assert torch.equal(first.a, again.a)
    assert torch.equal(first.b, again.b)
    assert not torch.equal(first.a, other.a)
    torch.manual_seed(5)
    one = synthesise(image, config)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(synthesise(image, config).a, one.a)
    assert torch.equal(torch.get_rng_state(), state)
    made(image, config)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("config", CONFIGS, ids=KINDS)
def test_images_of_a_batch_are_made_differently(config):
    image = scene(1).expand(3, -1, -1, -1)
    pair = made(image, config)
    assert not torch.equal(pair.a[0], pair.a[1])
    assert not torch.equal(pair.a[1], pair.a[2])


@pytest.mark.parametrize("make", [synthesise_focus, synthesise_exposure])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 2, 40, 40), "1 or 3"),
        (torch.zeros(40, 40), "1 or 3"),
        (torch.zeros(1, 1, 40, 40, dtype=torch.uint8), "floats"),
        (torch.full((1, 1, 40, 40), 255.0), "divide 8-bit values by 255"),
        (torch.full((1, 1, 40, 40), float("nan")), r"\[0, 1\]"),
    ],
)
def test_wrong_images_are_named(make, image, message):
    config = FocusConfig() if make is synthesise_focus else ExposureConfig()
    with pytest.raises(ValueError, match=message):
        make(image, config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "focus", "radius": [6, 2]},
        {"kind": "focus", "radius": [1, 200]},
        {"kind": "focus", "layers": [0, 1]},
        {"kind": "focus", "near_share": [0.5, 1.5]},
        {"kind": "focus", "first": "over"},
        {"kind": "focus", "over": [1, 2]},
        {"kind": "exposure", "under": [-1, 1]},
        {"kind": "exposure", "over": [3, 1]},
        {"kind": "exposure", "gain": [0, 1e-4]},
        {"kind": "blur"},
        {},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError, match=list(wrong)[-1] if len(wrong) > 1 else "kind"):
        TypeAdapter(Synthesis).validate_python(wrong)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, channels in enumerate((3, 3, 1)):
        pixels = (scene(1, channels, 40, 48, seed=i)[0] * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze()).save(folder / f"photo_{i}.png")
    return folder


def run(kind, photos, out, *options):
    command_line.main(["synthesise", kind, "--images", str(photos), "--out", str(out), *options])


def written(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_command_writes_pairs_with_their_truth(kind, photos, tmp_path, capsys):
    run(kind, photos, tmp_path / "out")
    assert f"3 {kind} pairs in {tmp_path / 'out'}" in capsys.readouterr().out
    for i in range(3):
        a, b, truth = (Image.open(tmp_path / "out" / side / f"photo_{i}.png") for side in ("a", "b", "truth"))
        with Image.open(photos / f"photo_{i}.png") as photo:
            assert a.mode == b.mode == truth.mode == photo.mode
            np.testing.assert_array_equal(np.asarray(truth), np.asarray(photo))
        assert not np.array_equal(np.asarray(a), np.asarray(b))
    pairs = ImagePairs(tmp_path, [PairFolder(a="out/a", b="out/b")])
    assert len(pairs) == 3
    record = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert record["pairs"] == pairs.names
    assert record["settings"]["kind"] == kind


def test_the_seed_decides_the_files_and_each_pair_depends_on_its_own_name_only(photos, tmp_path):
    def pictures(name, *options):
        run("focus", photos, tmp_path / name, *options)
        files = written(tmp_path / name)
        del files["synthesis.json"]
        return files

    first, again, other = pictures("x"), pictures("y"), pictures("z", "--seed", "1")
    assert first == again
    assert first["a/photo_0.png"] != other["a/photo_0.png"]
    (photos / "photo_1.png").unlink()
    fewer = pictures("fewer")
    assert fewer == {name: data for name, data in first.items() if "photo_1" not in name}


def test_count_takes_some_images_or_each_of_them_more_than_once(photos, tmp_path):
    run("exposure", photos, tmp_path / "two", "--count", "2")
    names = [path.stem for path in (tmp_path / "two" / "a").iterdir()]
    assert len(names) == 2
    assert set(names) < {"photo_0", "photo_1", "photo_2"}
    run("exposure", photos, tmp_path / "six", "--count", "6")
    pictures = written(tmp_path / "six")
    assert len([name for name in pictures if name.startswith("a/")]) == 6
    assert pictures["a/photo_1_1.png"] != pictures["a/photo_1_2.png"]
    assert pictures["truth/photo_1_1.png"] == pictures["truth/photo_1_2.png"]


def test_settings_can_be_set(photos, tmp_path):
    run("focus", photos, tmp_path / "out", "--set", "radius=[0.4, 0.4]", "--set", "first=far")
    files = written(tmp_path / "out")
    assert all(files[f"a/photo_{i}.png"] == files[f"truth/photo_{i}.png"] for i in range(3))


def test_a_folder_with_something_in_it_is_left_alone(photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit, match="exists already and is left as it is: give another --out"):
        run("focus", photos, out)
    assert written(out) == {"mine.txt": b"keep"}
    with pytest.raises(SystemExit, match="exists already"):
        run("focus", photos, out / "mine.txt")
    (out / "mine.txt").unlink()
    run("focus", photos, out)
    assert (out / "truth").is_dir()


def test_a_failure_leaves_nothing_behind(photos, tmp_path):
    (photos / "photo_2.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"cannot read .*photo_2\.png"):
        run("focus", photos, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--set", "radious=[1, 2]"], r"settings of focus: radious"),
        (["--set", "radius=[4, 2]"], r"radius: .*smaller number first"),
        (["--set", "radius"], "KEY=VALUE"),
    ],
)
def test_wrong_options_are_named(photos, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        run("focus", photos, tmp_path / "out", *options)


def test_wrong_folders_are_named(photos, tmp_path):
    with pytest.raises(SystemExit, match="no folder"):
        run("focus", tmp_path / "none", tmp_path / "out")
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(photos / "small.png")
    with pytest.raises(SystemExit, match=r"small\.png is 40×20: every side must have at least 32"):
        run("focus", photos, tmp_path / "out")
    (photos / "small.png").unlink()
    Image.open(photos / "photo_0.png").save(photos / "photo_0.bmp")
    with pytest.raises(SystemExit, match="two images share the name 'photo_0'"):
        run("focus", photos, tmp_path / "out")
