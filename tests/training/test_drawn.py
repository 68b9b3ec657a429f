"""Drawn streets: the same for one seed, aligned to the pixel, varied, and ready for a recipe."""

import numpy as np
import pytest
from PIL import Image

from training import __main__ as command_line
from training.config import PairFolder
from training.data.pairs import ImagePairs
from training.drawn.streets import draw_street

SEEDS = range(8)


@pytest.fixture(scope="module")
def streets():
    return [draw_street(seed, 120, 160, samples=1) for seed in SEEDS]


def grey(visible):
    return visible @ np.array([0.299, 0.587, 0.114])


def edges(image):
    """Which pixels lie on the strongest tenth of the edges."""
    rows, columns = np.gradient(image.astype(float))
    strength = np.hypot(rows, columns)
    return strength > np.quantile(strength, 0.9)


def test_a_seed_draws_the_same_pair_again_and_another_seed_another(streets):
    again = draw_street(3, 120, 160, samples=1)
    for drawn, expected in zip(again, streets[3], strict=True):
        np.testing.assert_array_equal(drawn, expected)
    assert not np.array_equal(again[0], streets[4][0])


def test_pictures_are_eight_bit_with_colour_in_the_visible_one(streets):
    for visible, infrared in streets:
        assert visible.shape == (120, 160, 3)
        assert infrared.shape == (120, 160)
        assert visible.dtype == infrared.dtype == np.uint8
        assert np.ptp(visible.astype(int), axis=2).mean() > 3
        assert infrared.std() > 15


def test_edges_of_both_pictures_coincide_best_where_they_are(streets):
    pairs = [(edges(grey(visible)), edges(infrared)) for visible, infrared in streets]
    steps = range(-4, 5)
    shared = {
        (down, right): np.mean([np.mean(np.roll(b, (down, right), (0, 1)) & a) for a, b in pairs])
        for down in steps
        for right in steps
    }
    assert max(shared, key=shared.__getitem__) == (0, 0)
    assert shared[0, 0] > 1.25 * max(value for shift, value in shared.items() if max(map(abs, shift)) > 1)


def test_there_is_day_and_night_and_the_sky_is_cold(streets):
    levels = [grey(visible).mean() for visible, _ in streets]
    assert min(levels) < 80
    assert max(levels) > 130
    assert all(infrared[:4, 70:90].mean() < np.quantile(infrared, 0.5) for _, infrared in streets)


def test_command_writes_a_data_root_that_recipes_can_read(tmp_path, capsys):
    numbers = ["--train", "2", "--val", "1", "--size", "40", "56", "--samples", "1", "--seed", "5"]
    command_line.main(["draw", "--out", str(tmp_path), *numbers])
    assert "2 training and 1 validation pairs of 56×40 pixels" in capsys.readouterr().out
    entries = [PairFolder(a=f"ivf/{part}/visible", b=f"ivf/{part}/infrared") for part in ("train", "val")]
    train, val = (ImagePairs(tmp_path, [entry]) for entry in entries)
    assert (len(train), len(val)) == (2, 1)
    assert not set(train.names) & set(val.names)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    command_line.main(["draw", "--out", str(tmp_path), *numbers])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == first


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--train", "0"], "at least 1"),
        (["--seed", "-1"], "at least 0"),
        (["--size", "31", "64"], "at least 32 pixels"),
    ],
)
def test_wrong_numbers_are_named(tmp_path, option, message):
    with pytest.raises(SystemExit, match=message):
        command_line.main(["draw", "--out", str(tmp_path), *option])


def test_a_folder_with_other_images_is_left_alone(tmp_path):
    folder = tmp_path / "ivf" / "train" / "visible"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "mine.png")
    with pytest.raises(SystemExit, match=r"already holds other images, e\.g\. mine\.png"):
        command_line.main(["draw", "--out", str(tmp_path)])
    assert [path.name for path in folder.iterdir()] == ["mine.png"]


def test_a_file_in_the_way_ends_with_one_line(tmp_path):
    (tmp_path / "ivf").write_text("")
    with pytest.raises(SystemExit, match="cannot write to"):
        command_line.main(["draw", "--out", str(tmp_path)])
