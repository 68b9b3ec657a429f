"""Reading images: what is scaled how, and what ends with a clear line."""

import numpy as np
import pytest
from PIL import Image

from app import levels
from training import __main__ as command_line
from training.config import PairFolder
from training.data.images import (
    DataError,
    check_pairs,
    list_images,
    match_pairs,
    read_all,
    read_luminance,
    read_picture,
    scale_deep,
)
from training.data.pairs import ImagePairs
from training.evaluation.pairs import load_pairs


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def grey(height=40, width=50, level=90):
    return np.full((height, width), level, np.uint8)


def write_pairs(root, count=3, shape=(40, 50)):
    for kind in ("a", "b"):
        for i in range(count):
            save(root / kind / f"{i}.png", grey(*shape, level=10 * i))
    return root


def load(root, **options):
    return ImagePairs(root, [PairFolder(a="a", b="b")], **options)


def test_colour_becomes_rounded_luminance(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[...] = (200, 100, 50)
    assert np.all(read_luminance(save(tmp_path / "x.png", pixels)) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50))


def test_deep_grey_is_stretched_between_percentiles(tmp_path):
    ramp = np.linspace(20_000, 30_000, 64 * 64).reshape(64, 64).astype(np.uint16)
    ramp[0, 0], ramp[-1, -1] = 0, 65_535  # a dead and a hot pixel must not squeeze the rest
    read = read_luminance(save(tmp_path / "thermal.png", ramp))
    assert read.dtype == np.uint8
    assert (read[0, 0], read[-1, -1]) == (0, 255)
    assert abs(int(read[32, 0]) - 128) <= 1
    assert np.mean((read > 0) & (read < 255)) > 0.98


def test_deep_constant_is_middle_grey_and_missing_values_are_black(tmp_path):
    assert np.all(read_luminance(save(tmp_path / "flat.png", np.full((32, 32), 7000, np.uint16))) == 128)
    values = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    values[3, 4] = np.nan
    read = read_luminance(save(tmp_path / "float.tif", values))
    assert read[3, 4] == 0
    assert read.max() == 255


def test_full_scale_keeps_the_levels_of_a_program(tmp_path):
    steps = np.arange(64, 192, dtype=np.uint16).repeat(32).reshape(64, 64)
    for name, values in (("x.png", steps * 257), ("x.tif", (steps / 255).astype(np.float32))):
        np.testing.assert_array_equal(read_luminance(save(tmp_path / name, values), deep="full"), steps)


@pytest.mark.parametrize("rule", ["stretch", "full"])
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_the_service_scales_deep_grey_alike(rule, kind):
    values = np.random.default_rng(0).normal(9000, 3000, (60, 80)).astype(kind)
    if kind is np.float32:
        values /= np.float32(20_000)
        values[5, 6] = np.nan
    served = 255 * levels.scale_deep(values, rule)
    assert np.abs(scale_deep(values, rule) - served).max() <= 0.501


def test_training_and_evaluation_read_the_same(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(20_000, 24_000, (40, 50))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "16.png": values.astype(np.uint16), "t16.tif": values.astype(np.uint16), "t32.tif": values.astype(np.int32),
        "float.tif": values.astype(np.float32), "colour.png": rng.integers(0, 256, (40, 50, 3), np.uint8),
        "alpha.webp": rng.integers(0, 256, (40, 50, 4), np.uint8), "grey.bmp": values.astype(np.uint8),
    }  # fmt: skip
    for folder in ("a", "b"):
        for name, pixels in kinds.items():
            save(tmp_path / folder / name, pixels)
        save(tmp_path / folder / "turned.jpg", values.astype(np.uint8), exif=exif)
    seen, measured = load(tmp_path), load_pairs(tmp_path, "a", "b")
    assert len(seen) == len(kinds) + 1
    assert seen.names == [pair.name for pair in measured]
    for (a, b), pair in zip(seen.pairs, measured, strict=True):
        np.testing.assert_array_equal(a, pair.a)
        np.testing.assert_array_equal(b, pair.b)


def test_alpha_is_ignored_and_palettes_are_looked_up(tmp_path):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[..., :3] = 120
    assert np.all(read_luminance(save(tmp_path / "alpha.png", rgba)) == 120)
    Image.fromarray(grey(level=77)).convert("P").save(tmp_path / "palette.png", transparency=0)
    assert np.all(read_luminance(tmp_path / "palette.png") == 77)


def test_images_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "a" / "x.jpg", grey(40, 60), exif=exif)
    upright = save(tmp_path / "b" / "x.jpg", grey(60, 40))
    assert read_luminance(turned).shape == (60, 40)
    assert check_pairs([(turned, upright)]) == [(60, 40)]


def test_hidden_files_are_left_out(tmp_path):
    save(tmp_path / "x.png", grey())
    (tmp_path / "._x.png").write_bytes(b"left by another system")
    assert [path.name for path in list_images(tmp_path)] == ["x.png"]


def test_images_come_in_the_order_of_their_names(tmp_path):
    files = [save(tmp_path / f"{i:03}.png", grey(level=i)) for i in range(40)]
    assert [int(image[0, 0]) for image in read_all(files)] == list(range(40))


def test_pairs_are_held_as_bytes_and_counted(tmp_path):
    pairs = load(write_pairs(tmp_path))
    assert len(pairs) == 3
    assert pairs.counts == {"a + b": 3}
    assert pairs.megabytes == pytest.approx(sum(x.nbytes for pair in pairs.pairs for x in pair) / 1e6)
    assert all(x.dtype == np.uint8 for pair in pairs.pairs for x in pair)


def test_too_many_megabytes_are_refused_before_reading(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "a" / "2.png").write_bytes((tmp_path / "a" / "2.png").read_bytes()[:-30])  # would fail if it were read
    with pytest.raises(DataError, match=r"3 pairs need 0 MB .* limit is 0 MB.*max_cache_mb"):
        load(tmp_path, max_cache_mb=0.01)


def test_two_files_of_one_name_are_refused(tmp_path):
    write_pairs(tmp_path)
    save(tmp_path / "a" / "1.jpg", grey())
    with pytest.raises(DataError, match=r"1\.png share the name '1'"):
        match_pairs(tmp_path / "a", tmp_path / "b")


def lose_a_partner(root):
    (root / "b" / "1.png").unlink()
    return "names without a partner: 1 only in .*a .e.g. 1"


def resize_one(root):
    save(root / "b" / "1.png", grey(40, 51))
    return r"a/1\.png is 50×40 but .*b/1\.png is 51×40"


def shrink_both(root):
    for kind in ("a", "b"):
        save(root / kind / "1.png", grey(31, 50))
    return r"a/1\.png is 50×31: every side must have at least 32 pixels"


def cut_off(root):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    path = save(root / "a" / "1.png", pixels)
    path.write_bytes(path.read_bytes()[:1000])
    return r"cannot read .*a/1\.png: .*truncated"


def damage_the_header(root):
    (root / "a" / "1.png").write_bytes(b"no picture")
    return r"cannot read .*a/1\.png: no image"


def empty_a_folder(root):
    for path in (root / "b").iterdir():
        path.unlink()
    return "b holds no image"


def replace_a_folder(root):
    empty_a_folder(root)
    (root / "b").rmdir()
    (root / "b").write_text("")
    return "b is a file, not a folder"


def remove_a_folder(root):
    empty_a_folder(root)
    (root / "b").rmdir()
    return "no folder .*b: check the data root"


@pytest.mark.parametrize(
    "harm",
    [
        lose_a_partner, resize_one, shrink_both, cut_off, damage_the_header, empty_a_folder, replace_a_folder,
        remove_a_folder,
    ],
)  # fmt: skip
def test_bad_images_end_the_command_with_one_line(tmp_path, harm, capsys):
    message = harm(write_pairs(tmp_path))
    entries = ["--set", "train=[{a: a, b: b}]", "--set", "val=[{a: a, b: b}]"]
    with pytest.raises(SystemExit, match=message) as ended:
        command_line.main(["check-data", "--read", "--data", str(tmp_path), *entries])
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(("mode", "bands"), [("RGB", (3,)), ("RGBA", (3,)), ("P", (3,)), ("L", ()), ("1", ())])
def test_pictures_keep_their_colours_and_grey_ones_stay_grey(tmp_path, mode, bands):
    pixels = np.zeros((33, 40, 3), np.uint8)
    pixels[:, 20:] = (250, 10, 30)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    assert picture.shape == (33, 40, *bands)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(Image.fromarray(picture).convert("L")), read_luminance(tmp_path / "x.png"))
    with pytest.raises(DataError, match="cannot read"):
        read_picture(tmp_path / "none.png")
