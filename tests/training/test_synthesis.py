"""Pairs made from single images: optics, cameras, determinism, settings, and the command that writes them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from training import __main__ as command_line
from training.config import PairFolder
from training.data.pairs import ImagePairs
from training.synthesis.depth import masks_above, smooth_field, snap_to_edges
from training.synthesis.draws import Numbers
from training.synthesis.exposure import ExposureConfig, synthesise_exposure
from training.synthesis.focus import FocusConfig, synthesise_focus
from training.synthesis.kinds import Synthesis, synthesise
from training.synthesis.lens import Scene, continue_behind, disc_blur
from training.synthesis.sensor import Curve, Noise, expose

CONFIGS = [FocusConfig(), ExposureConfig()]
KINDS = ["focus", "exposure"]


def radius(*values):
    return torch.tensor(values).view(-1, 1, 1, 1)


def scene(count=1, channels=1, height=72, width=80, seed=0):
    """Random texture on a slope, 8-bit values."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, channels, height, width, generator=draw)
    slope = torch.linspace(0.1, 0.9, width).expand(count, channels, height, width)
    return ((0.5 * noise + 0.5 * slope) * 255).round() / 255


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def made(image, config, seed=0):
    return synthesise(image, config, seeded(seed))


# --- optics


def test_the_blur_of_a_point_is_a_disc_of_unit_sum():
    point = torch.zeros(2, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = disc_blur(point, radius(3.0, 6.5))
    distance = torch.hypot(*(torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")))
    for image, r in zip(spread[:, 0], (3.0, 6.5), strict=True):
        assert image.sum() == pytest.approx(1.0, abs=1e-5)
        assert image[distance > r + 0.5].abs().max() < 1e-6
        inside = image[distance < r - 0.5]
        torch.testing.assert_close(inside, inside.mean().expand_as(inside), atol=1e-6, rtol=1e-4)
        assert 1 / inside.mean() == pytest.approx(np.pi * r * r, rel=0.05)


def test_blur_keeps_place_constants_and_what_is_in_focus():
    ramp = torch.arange(30.0).expand(1, 2, 30, 30) / 30
    torch.testing.assert_close(disc_blur(ramp, radius(4.0))[..., 5:-5], ramp[..., 5:-5], atol=1e-5, rtol=0)
    flat = torch.full((1, 1, 12, 17), 0.7)
    torch.testing.assert_close(disc_blur(flat, radius(5.0)), flat, atol=1e-5, rtol=0)
    assert torch.equal(disc_blur(ramp, radius(0.5)), ramp)


def halves(value_far, value_near, size=48):
    """Far on the left, near on the right: light (1, 1, H, W) and the mask of what is near."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :] = 1
    return torch.where(mask > 0, value_near, value_far), mask


def test_a_sharp_near_part_leaves_no_ghost_in_the_blurred_far_part():
    light, mask = halves(0.2, 0.9)
    seen = Scene(light, [mask], 6).photograph([radius(6.0), radius(0.0)])
    torch.testing.assert_close(seen, light, atol=1e-5, rtol=0)


def test_a_blurred_near_part_spreads_over_the_sharp_far_part():
    light, mask = halves(0.2, 0.9)
    seen = Scene(light, [mask], 6).photograph([radius(0.0), radius(6.0)])
    far = seen[0, 0, 24, :24]
    torch.testing.assert_close(far[:17], light[0, 0, 24, :17], atol=1e-5, rtol=0)
    assert far[23] > 0.45
    assert (far.diff() > -1e-6).all()


def test_a_scene_in_focus_is_the_image_itself():
    image = scene(2, 3)
    numbers = Numbers(2, image.device, seeded(1))
    z = smooth_field(numbers, *image.shape[2:], (2.0, 4.0))
    masks = masks_above(z, [radius(0.7), radius(0.5), radius(0.2)], radius(3.0))
    sharp = Scene(image, masks, 5).photograph([radius(0.0)] * 4)
    torch.testing.assert_close(sharp, image, atol=1e-6, rtol=0)


def test_hidden_parts_continue_what_lies_next_to_them():
    image = torch.zeros(1, 1, 9, 20)
    image[..., :5, :] = 0.3
    image[..., 5:, :] = 0.8
    image[..., 10:] = 0.0  # of what hides
    visible = (torch.arange(20) < 10).float().expand(1, 1, 9, 20)
    filled = continue_behind(image, visible, reach=3)
    assert torch.equal(filled[..., :10], image[..., :10])
    assert filled[0, 0, 0, 12] == pytest.approx(0.3)
    assert filled[0, 0, 8, 12] == pytest.approx(0.8)
    assert filled[0, 0, 0, 13] == 0


def test_masks_have_their_share_of_the_area_and_lie_within_each_other():
    z = smooth_field(Numbers(4, torch.device("cpu"), seeded(0)), 60, 90, (2.0, 5.0))
    large, small = masks_above(z, [radius(0.6, 0.6, 0.6, 0.6), radius(0.3, 0.3, 0.3, 0.3)], radius(2.0))
    torch.testing.assert_close(large.mean(dim=(1, 2, 3)), torch.full((4,), 0.6), atol=0.03, rtol=0)
    torch.testing.assert_close(small.mean(dim=(1, 2, 3)), torch.full((4,), 0.3), atol=0.03, rtol=0)
    assert (small <= large).all()
    soft = ((large > 0.01) & (large < 0.99)).float().mean(dim=(1, 2, 3))
    wide = masks_above(z, [radius(0.6)], radius(6.0))[0]
    assert (((wide > 0.01) & (wide < 0.99)).float().mean(dim=(1, 2, 3)) > 1.5 * soft).all()


def test_mask_edges_move_towards_edges_of_the_picture():
    guide, _ = halves(0.2, 0.8)
    for off, left in ((2, 0), (4, 2)):
        mask = (torch.arange(48) >= 24 + off).float().expand(1, 1, 48, 48)
        snapped = snap_to_edges(mask, guide, 8, radius(2.0))
        assert (snapped[0, 0, 24] < 0.5).sum() - 24 <= left
        flat = snap_to_edges(mask, torch.full_like(guide, 0.5), 8, radius(2.0))
        assert abs(int((flat[0, 0, 24] < 0.5).sum()) - 24 - off) <= 1


# --- multi-focus pairs


def error(picture, truth):
    return (picture - truth).abs()


@pytest.mark.parametrize("layers", [(1, 1), (2, 2), (1, 3)])
def test_every_place_is_sharp_in_one_picture_but_for_the_rim_of_the_near_part(layers):
    image = scene(4, height=96, width=96)
    pair = made(image, FocusConfig(layers=layers, first="far", radius=(4.0, 4.0)))
    sharp = torch.minimum(error(pair.a, image), error(pair.b, image))
    assert (sharp.flatten(1) < 1 / 255 + 1e-6).float().mean(dim=1).min() > 0.75
    for picture in (pair.a, pair.b):
        blurred = (error(picture, image).flatten(1) > 8 / 255).float().mean(dim=1)
        assert (blurred > 0.05).all()
        assert (blurred < 0.9).all()


def test_first_says_which_picture_is_image_a():
    image = scene(3)
    far, near, either = (made(image, FocusConfig(first=first)) for first in ("far", "near", "random"))
    assert torch.equal(far.a, near.b)
    assert torch.equal(far.b, near.a)
    many = made(scene(16, height=32, width=32), FocusConfig(first="random"))
    fixed = made(scene(16, height=32, width=32), FocusConfig(first="far"))
    kept = (many.a == fixed.a).flatten(1).all(dim=1)
    assert 3 < kept.sum() < 13
    assert torch.equal(many.a[~kept], fixed.b[~kept])
    assert either.truth is image


def test_colours_are_blurred_alike():
    grey = scene(2)
    pair = made(grey.expand(-1, 3, -1, -1), FocusConfig())
    for picture in (pair.a, pair.b):
        assert torch.equal(picture[:, :1].expand(-1, 3, -1, -1), picture)


def test_noise_is_added_to_both_pictures_when_asked():
    image = scene(4, height=40, width=40)
    clean, noisy = made(image, FocusConfig(first="far")), made(image, FocusConfig(first="far", noise_sigma=0.1))
    for before, after in ((clean.a, noisy.a), (clean.b, noisy.b)):
        level = (after - before).std(dim=(1, 2, 3))
        assert 0.01 < level.max() < 0.11
        assert level.min() < 0.8 * level.max()


def test_the_margin_is_what_a_larger_picture_would_change():
    """Two pictures that differ outside a window only: within the margin of it, and nowhere else, blur shows it."""
    config = FocusConfig(radius=(5.0, 5.0), near_share=(0.0, 0.0), snap_probability=0.0, first="near")
    wide = scene(1, height=80, width=80)
    changed = wide.clone()
    changed[..., :20, :] = 0.0
    a, b = made(wide, config).a, made(changed, config).a
    rows = (a != b).any(dim=3).flatten().nonzero().flatten()
    assert 20 <= rows.max() < 20 + config.margin


# --- multi-exposure pairs


def test_the_response_curve_can_be_inverted_and_ends_at_0_and_1():
    curve = Curve(radius(0.7, 1.0), radius(0.3, 0.8))
    values = torch.linspace(0, 1, 50).expand(2, 1, 1, 50)
    torch.testing.assert_close(curve.apply(curve.invert(values)), values, atol=1e-5, rtol=1e-4)
    assert (curve.apply(torch.linspace(0, 1, 50).expand(2, 1, 1, 50)).diff() > 0).all()


def test_noise_grows_with_light_as_photons_do():
    curve = Curve(radius(1.0), radius(1e6))  # a straight line
    numbers = Numbers(1, torch.device("cpu"), seeded(0))
    noise = Noise(radius(4e-4), radius(2e-3))
    for light in (0.0, 0.1, 0.6):
        picture = expose(torch.full((1, 1, 200, 200), light / 4), radius(2.0), noise, curve, numbers)
        expected = (4e-4 * light + 4e-6 + (1 / 255) ** 2 / 12) ** 0.5
        if light:  # darkness cuts the noise in half
            assert picture.std() == pytest.approx(expected, rel=0.05)
            assert picture.mean() == pytest.approx(light, abs=0.002)


def test_one_picture_is_far_too_bright_and_the_other_far_too_dark():
    image = scene(6)
    pair = made(image, ExposureConfig())
    over, truth, under = (x.flatten(1).mean(dim=1) for x in (pair.a, image, pair.b))
    assert (over > truth + 0.1).all()
    assert (under < truth - 0.1).all()
    assert (pair.a == 1).any()
    assert pair.b.max() < 1
    for picture in (pair.a, pair.b):
        levels = picture * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_what_one_exposure_loses_the_other_keeps():
    """Rising steps of grey: where the bright picture is white the dark one still rises, and the other way round."""
    steps = torch.linspace(0.02, 0.98, 16)
    image = (steps.repeat_interleave(8).expand(1, 1, 32, 128) * 255).round() / 255
    quiet = {"gain": (1e-7, 1e-7), "read": (1e-6, 1e-6), "lighting": 0.0, "contrast": (1.0, 1.0)}
    pair = made(image, ExposureConfig(over=(3.0, 3.0), under=(-3.0, -3.0), **quiet))
    bright, dark = (x[0, 0].mean(dim=0).view(16, 8).mean(dim=1) for x in (pair.a, pair.b))
    assert bright[-1] == bright[-2] == 1
    assert (dark[-6:].diff() > 0.01).all()
    assert (bright[:4].diff() > 0.1).all()
    assert dark[0] < 2 / 255


def test_without_shift_curve_and_noise_the_scene_is_the_image():
    still = {"lighting": 0.0, "contrast": (1.0, 1.0), "exponent": (0.9, 0.9), "shoulder": (0.5, 0.5)}
    image = scene(2)
    config = ExposureConfig(over=(1e-6, 1e-6), under=(-1e-6, -1e-6), gain=(1e-9, 1e-9), read=(1e-9, 1e-9), **still)
    pair = made(image, config)
    for picture in (pair.a, pair.b):
        assert error(picture, image).max() < 1.01 / 255


def test_over_is_image_a_unless_asked():
    image = scene(2)
    over, under = made(image, ExposureConfig()), made(image, ExposureConfig(first="under"))
    assert torch.equal(over.a, under.b)
    assert over.a.mean() > over.b.mean()


def test_contrast_changes_no_hue():
    """Red stays twice as strong as green in linear light, whatever the contrast of the scene."""
    curve = {"exponent": (1.0, 1.0), "shoulder": (0.5, 0.5), "gain": (1e-9, 1e-9), "read": (1e-9, 1e-9)}
    straight = Curve(radius(1.0), radius(0.5))
    light = torch.tensor([0.4, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    image = (straight.apply(light) * 255).round() / 255
    config = ExposureConfig(over=(0.5, 0.5), contrast=(2.0, 2.0), lighting=0.0, **curve)
    red, green, _ = straight.invert(made(image, config).a)[0].mean(dim=(1, 2))
    assert red / green == pytest.approx(2.0, rel=0.02)


# --- both kinds


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


# --- the command


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
