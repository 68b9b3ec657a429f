"""Batches of several tasks: equal numbers, the right images, aligned crops, truth where it is known."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from training.config import ImageFolder, Strict, load_recipe
from training.data.images import DataError
from training.data.singles import SingleImages
from training.data.tasks import Task, TaskSampler, TaskSampling

CPU = torch.device("cpu")
PAIRS = {"name": "infrared-visible", "pairs": [{"a": "ivf/train/visible", "b": "ivf/train/infrared"}]}
FOCUS = {"name": "focus", "made": {"images": [{"path": "photos"}], "how": {"kind": "focus", "first": "far"}}}
EXPOSURE = {"name": "exposure", "made": {"images": [{"path": "photos"}], "how": {"kind": "exposure"}}}


@pytest.fixture(scope="module")
def root(data_root, tmp_path_factory):
    """The pairs of ``data_root``, exposure pairs of two flat greys, and three photos, one of them small."""
    root = tmp_path_factory.mktemp("tasks")
    (root / "ivf").symlink_to(data_root / "ivf")
    rng = np.random.default_rng(1)
    for i, (height, width) in enumerate([(90, 120), (100, 88), (50, 300)]):
        y, x = np.mgrid[0:height, 0:width]
        image = np.stack([x + i, y, 0 * y], axis=2) % 196 + rng.integers(0, 60, (height, width, 3))
        save(root / "photos" / f"photo_{i}.png", image)
    for folder, level in (("over", 240), ("under", 10)):
        for i in range(2):
            save(root / "mef" / folder / f"{i}.png", np.full((66, 70), level + i))
    return root


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def sampler(root, *tasks, **sampling):
    return TaskSampler(root, [Task.model_validate(task) for task in tasks], TaskSampling(**sampling), CPU)


def draw(root, *tasks, seed=0, **sampling):
    made = sampler(root, *tasks, **sampling)
    torch.manual_seed(seed)
    return made.draw()


def pictures(folder):
    return [np.asarray(Image.open(path).convert("L")) for path in sorted(folder.iterdir())]


def places(crop, pictures, flips=(False, True)):
    """Picture, corner and flips of every place that shows the crop."""
    crop = np.rint(crop.numpy()[0] * 255).astype(np.uint8)
    side, found = crop.shape[0], []
    for row, picture in enumerate(pictures):
        if min(picture.shape) < side:
            continue
        for left_right in flips:
            for up_down in flips:
                wanted = crop[:: -1 if up_down else 1, :: -1 if left_right else 1]
                windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side))
                corners = (windows[:, :, 0, 0] == wanted[0, 0]) & (windows[:, :, -1, -1] == wanted[-1, -1])
                found += [
                    (row, int(y), int(x), left_right, up_down)
                    for y, x in np.argwhere(corners)
                    if np.array_equal(windows[y, x], wanted)
                ]
    return found


def test_every_task_gives_the_same_number_of_crops(root):
    batches = draw(root, PAIRS, FOCUS, EXPOSURE, batch=5, side=40)
    assert list(batches) == ["infrared-visible", "focus", "exposure"]
    for batch in batches.values():
        assert batch.a.shape == batch.b.shape == (5, 1, 40, 40)
        assert batch.a.dtype == torch.float32
        for image in (batch.a, batch.b):
            assert image.min() >= 0
            assert image.max() <= 1


def test_crops_of_a_pair_show_the_same_place_of_its_two_images(root):
    batch = draw(root, PAIRS, batch=24, side=40, flip_vertical=True)["infrared-visible"]
    visible, infrared = (pictures(root / "ivf" / "train" / kind) for kind in ("visible", "infrared"))
    seen = set()
    for a, b in zip(batch.a, batch.b, strict=True):
        found = set(places(a, visible)) & set(places(b, infrared))
        assert len(found) == 1
        seen |= found
    assert {row for row, *_ in seen} == set(range(4))
    assert {flips for *_, left_right, up_down in seen for flips in [(left_right, up_down)]} == {
        (False, False), (False, True), (True, False), (True, True)
    }  # fmt: skip
    assert len({place[1:3] for place in seen}) > 15
    assert batch.truth is None
    assert not batch.made.any()


def test_crops_are_not_turned_upside_down_unless_asked(root):
    visible = pictures(root / "ivf" / "train" / "visible")
    for settings, expected in (({}, {(False, False), (True, False)}), ({"flip": False}, {(False, False)})):
        batch = draw(root, PAIRS, batch=16, side=40, **settings)["infrared-visible"]
        assert {place[3:] for a in batch.a for place in places(a, visible)} == expected


def test_the_truth_of_made_pairs_is_a_crop_of_a_single_image(root):
    batches = draw(root, FOCUS, EXPOSURE, batch=10, side=40)
    photos = pictures(root / "photos")
    for batch in batches.values():
        assert batch.made.all()
        rows = [places(truth, photos) for truth in batch.truth]
        assert all(len(found) == 1 for found in rows)
        assert {row for [(row, *_)] in rows} <= {0, 1, 2}
    exposure = batches["exposure"]
    assert (exposure.a.mean(dim=(1, 2, 3)) > exposure.b.mean(dim=(1, 2, 3))).all()


def test_made_focus_pairs_are_sharp_where_the_truth_is(root):
    batch = draw(root, FOCUS, batch=16, side=40)["focus"]
    error = torch.minimum((batch.a - batch.truth).abs(), (batch.b - batch.truth).abs())
    assert (error < 2 / 255).float().mean() > 0.6
    assert ((batch.a - batch.truth).abs() > 0.02).any()
    assert ((batch.b - batch.truth).abs() > 0.02).any()


def test_the_margin_of_the_blur_is_cut_off(root):
    """The window is larger than the crop by the blur's radius, so that 50 rows are too few for one of 40."""
    focus = {"name": "focus", "made": {**FOCUS["made"], "how": {"kind": "focus", "radius": [1.0, 12.0]}}}
    photos = pictures(root / "photos")
    for _ in range(3):
        for truth in draw(root, focus, batch=8, side=40)["focus"].truth:
            [(row, top, left, *_)] = places(truth, photos)
            assert row < 2
            assert 12 <= top <= photos[row].shape[0] - 52
            assert 12 <= left <= photos[row].shape[1] - 52


def test_pairs_and_made_pairs_can_be_mixed(root):
    task = {
        "name": "exposure",
        "pairs": [{"a": "mef/over", "b": "mef/under"}],
        "made": {**EXPOSURE["made"], "share": 0.3},
    }
    batch = draw(root, task, batch=40, side=40)["exposure"]
    assert 4 < batch.made.sum() < 20
    assert (batch.truth[~batch.made] == 0).all()
    assert (batch.truth[batch.made].flatten(1).std(dim=1) > 0).all()
    assert (batch.a[~batch.made] * 255).round().unique().tolist() == [240, 241]
    assert (batch.b[~batch.made] * 255).round().unique().tolist() == [10, 11]
    every = {**task, "made": {**task["made"], "share": 1.0}}
    assert draw(root, every, batch=8, side=40)["exposure"].made.all()


def test_the_random_state_decides_the_batch(root):
    tasks = (PAIRS, FOCUS, EXPOSURE)
    first, again, other = (draw(root, *tasks, seed=seed, batch=2, side=40) for seed in (3, 3, 4))
    for name in first:
        assert torch.equal(first[name].a, again[name].a)
        assert torch.equal(first[name].b, again[name].b)
        assert not torch.equal(first[name].a, other[name].a)


def test_a_saved_random_state_goes_on_with_the_same_batches(root):
    one, two = (sampler(root, PAIRS, FOCUS, batch=2, side=40) for _ in range(2))
    one.draw()
    state = torch.get_rng_state()
    expected = one.draw()
    torch.set_rng_state(state)
    found = two.draw()
    assert all(torch.equal(expected[name].a, found[name].a) for name in expected)


def test_counts_name_every_folder(root):
    counts = sampler(root, PAIRS, FOCUS, EXPOSURE, side=40).counts
    assert counts == {"ivf/train/visible + ivf/train/infrared": 4, "photos": 3}


def test_small_single_images_are_left_out_and_weights_decide_how_often_one_is_drawn(root):
    images = SingleImages(root, [ImageFolder(path="photos")], min_side=60)
    assert images.names == ["photo_0", "photo_1"]
    assert images.left_out == 1
    assert images.counts == {"photos": 2}
    assert images.megabytes == pytest.approx(1e-6 * (90 * 120 + 100 * 88))
    twice = SingleImages(
        root, [ImageFolder(path="photos"), ImageFolder(path="ivf/train/visible", weight=0.0)], min_side=60
    )
    assert len(twice) == 6
    assert twice.draw(200).max() < 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_side": 200}, r"none of the 3 images in photos has 200 pixels on its shorter side: take larger images"),
        ({"min_side": 60, "max_cache_mb": 0.01}, r"images in photos need 0 MB .*limit is 0 MB.*`max_cache_mb`"),
    ],
)
def test_single_images_that_cannot_be_used_are_named(root, settings, message):
    with pytest.raises(DataError, match=message):
        SingleImages(root, [ImageFolder(path="photos")], **settings)


def test_what_the_tasks_lack_is_named(root):
    with pytest.raises(DataError, match=r"names of their own, got focus, focus"):
        sampler(root, FOCUS, FOCUS)
    with pytest.raises(DataError, match="got none"):
        sampler(root)
    with pytest.raises(
        DataError, match=r"task infrared-visible: pair 'scene_0' is 91×70.*crop of 96×96: set `side` to 64"
    ):
        sampler(root, PAIRS, side=96)
    with pytest.raises(DataError, match="no folder"):
        sampler(root, {"name": "x", "pairs": [{"a": "none", "b": "mef/over"}]})
    with pytest.raises(DataError, match="no folder"):
        sampler(root, {"name": "x", "made": {**FOCUS["made"], "images": [{"path": "none"}]}})


class Tasks(Strict):
    tasks: list[Task]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: focus}", "task 'focus' has no images: give `pairs`, `made`, or both"),
        ("{name: '', pairs: [{a: x, b: y}]}", "name"),
        ("{name: focus, made: {images: [], how: {kind: focus}}}", "images"),
        ("{name: focus, made: {images: [{path: x}], how: {kind: blur}}}", "kind"),
        ("{name: focus, made: {images: [{path: x}], how: {kind: focus, over: [1, 2]}}}", "over"),
        ("{name: focus, made: {images: [{path: x}], how: {kind: focus}, share: 0}}", "share"),
    ],
)
def test_wrong_entries_of_a_recipe_are_named(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(f"tasks:\n  - {text}\n")
    with pytest.raises(DataError, match=message):
        load_recipe(str(tmp_path / "r.yaml"), Tasks)


def test_a_recipe_can_name_its_tasks(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "tasks:\n"
        "  - {name: infrared-visible, pairs: [{a: x, b: y}]}\n"
        "  - {name: focus, made: {images: [{path: photos}], how: {kind: focus, radius: [1, 8]}}}\n"
    )
    tasks = load_recipe(str(tmp_path / "r.yaml"), Tasks).tasks
    assert tasks[1].made.how.radius == (1, 8)
    assert Tasks.model_validate_json(Tasks(tasks=tasks).model_dump_json()).tasks == tasks


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"side": 30}, {"side": 24}, {"sides": [64]}])
def test_settings_that_no_batch_can_have_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TaskSampling(**wrong)
