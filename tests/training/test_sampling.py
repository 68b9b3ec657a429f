"""Batches of crops, and the tokens that belong to them: both must show the same part of the same frame."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from models.registry import build
from models.tokenizer import Tokenizer
from tests.training.tiny_runs import TINY
from training.clock import Clock
from training.config import PairFolder
from training.data.pairs import ImagePairs
from training.data.sampling import FLIPS, PairSampler, Sampling
from training.data.tone import ToneConfig

BOTH = PairFolder(a="ivf/train/visible", b="ivf/train/infrared")
CHANGE = ToneConfig(probability=0.5, gamma=(0.6, 0.6), contrast=(0.7, 0.7), invert_probability=1.0)
"""Every changed image is changed alike."""


@pytest.fixture(scope="module")
def pairs(data_root):
    return ImagePairs(data_root, [BOTH])


@pytest.fixture(scope="module")
def tokenizer():
    """Continuous tokens: a small difference of the image is a small difference of the tokens."""
    torch.manual_seed(0)
    return Tokenizer(TINY, z_source="pre_norm").eval().requires_grad_(False)


@pytest.fixture
def draw(pairs, tokenizer):
    def draw(seed=0, **settings):
        torch.manual_seed(seed)
        sampler = PairSampler(pairs, Sampling(**settings), tokenizer, Clock(torch.device("cpu")))
        return sampler.draw()

    return draw


def flipped(pairs, row, axes):
    return [x.flip(axes) for x in pairs.full(row)]


def window(frame, box, side):
    """What a sample must show: the frame's part inside the box, at the sample's size."""
    H, W = frame.shape[-2:]
    top, left, bottom, right = (round(value) for value in (box * torch.tensor([H, W, H, W])).tolist())
    part = frame[..., top:bottom, left:right]
    if part.shape[-2:] == (side, side):
        return part
    return F.interpolate(part, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def origin(pairs, batch, i, axes=FLIPS):
    """The one frame of all pairs and flips whose part inside the sample's box is the sample: row and flipped axes."""
    side = batch.a.shape[-1]
    found = []
    for row in range(len(pairs)):
        for flip in axes:
            a, b = (window(x, batch.frames.box[i], side) for x in flipped(pairs, row, flip))
            if torch.allclose(a, batch.a[i : i + 1], atol=1e-6) and torch.allclose(b, batch.b[i : i + 1], atol=1e-6):
                found.append((row, flip))
    assert len(found) == 1, found
    return found[0]


def test_a_window_at_its_box_is_the_sample_and_has_the_tokens_of_its_flipped_frame(draw, pairs, tokenizer):
    batch = draw(batch=12, sides=[48], crop_share=1.0, flip_vertical=True)
    seen = set()
    for i in range(12):
        row, axes = origin(pairs, batch, i)
        seen.add(axes)
        for side, code in enumerate((batch.code_a, batch.code_b)):
            right = tokenizer.encode(flipped(pairs, row, axes)[side])
            torch.testing.assert_close(code[i : i + 1], right, atol=1e-4, rtol=0)
            for other in FLIPS:
                if other != axes:
                    wrong = tokenizer.encode(flipped(pairs, row, other)[side])
                    assert (wrong - right).abs().max() > 1e-3
    assert seen == set(FLIPS)


def test_zoomed_windows_and_whole_frames_show_what_their_box_says(draw, pairs, tokenizer):
    batch = draw(batch=12, sides=[40], crop_share=0.7, zoom=1.6)
    whole, heights = 0, []
    for i in range(12):
        row, axes = origin(pairs, batch, i)
        frame = flipped(pairs, row, axes)[0]
        torch.testing.assert_close(batch.code_a[i : i + 1], tokenizer.encode(frame))
        top, left, bottom, right = batch.frames.box[i].tolist()
        if (top, left, bottom, right) == (0.0, 0.0, 1.0, 1.0):
            whole += 1
        else:
            heights.append(round((bottom - top) * frame.shape[2]))
            assert heights[-1] == round((right - left) * frame.shape[3])
    assert whole > 0
    assert 32 <= min(heights) < 40 < max(heights) <= 64


def test_frames_are_turned_upside_down_only_when_asked(draw, pairs):
    batch = draw(batch=24, sides=[48], crop_share=1.0)
    assert {origin(pairs, batch, i)[1] for i in range(24)} == {(), (3,)}


@pytest.mark.parametrize("profile", ["titok-ste-lite", "titok-ste-d32-short"])
def test_the_box_of_a_whole_frame_changes_nothing_and_that_of_a_part_does(draw, tokenizer, profile):
    batch = draw(batch=2, sides=[48], crop_share=0.0)
    assert torch.equal(batch.frames.box, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2))
    torch.manual_seed(1)
    model = build(profile, tokenizer, None).eval()
    part = torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 2)
    with torch.no_grad():
        bare, whole, some = (model.features(batch.a, batch.code_a, box=box) for box in (None, batch.frames.box, part))
    for without, with_box, other in zip(bare, whole, some, strict=True):
        torch.testing.assert_close(with_box, without, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(other, without, atol=1e-4)


def test_a_changed_tone_reaches_the_tokens_too(draw, pairs, tokenizer):
    batch = draw(batch=16, sides=[48], crop_share=1.0, tone_a=CHANGE)
    plain = draw(batch=16, sides=[48], crop_share=1.0, tone_a=CHANGE.model_copy(update={"probability": 0.0}))
    changed = [i for i in range(16) if not torch.equal(batch.a[i], plain.a[i])]
    assert 3 < len(changed) < 13
    assert torch.equal(batch.b, plain.b)
    assert torch.equal(batch.code_b, plain.code_b)
    for i in range(16):
        row, axes = origin(pairs, plain, i)
        frame = flipped(pairs, row, axes)[0]
        if i in changed:
            frame = inverted_and_flatter(frame)
            torch.testing.assert_close(batch.a[i : i + 1], window(frame, batch.frames.box[i], 48), atol=0.01, rtol=0)
        # the sampler changes a small 8-bit copy of the frame
        distance = (batch.code_a[i : i + 1] - tokenizer.encode(frame)).norm(dim=-1).mean()
        assert distance < (0.05 if i in changed else 1e-4)
        if i in changed:
            assert (plain.code_a[i : i + 1] - tokenizer.encode(frame)).norm(dim=-1).mean() > 5 * distance


def inverted_and_flatter(frame):
    """The change that CHANGE asks for, by hand."""
    centre = frame.mean() ** 0.6
    return 1.0 - ((frame**0.6 - centre) * 0.7 + centre).clamp(0, 1)


def test_tokens_of_the_crop_itself_need_no_box(draw, tokenizer):
    batch = draw(batch=3, sides=[48], crop_share=1.0, tokens="crop", tone_b=CHANGE)
    assert batch.frames.box is None
    for x, code in ((batch.a, batch.code_a), (batch.b, batch.code_b)):
        torch.testing.assert_close(code, tokenizer.encode(x))


def test_shapes_range_and_sides(draw):
    settings = {"batch": 2, "sides": [32, 48], "tone_a": CHANGE, "tone_b": CHANGE}
    batches = [draw(seed, **settings) for seed in range(8)]
    for batch in batches:
        side = batch.a.shape[-1]
        images = (batch.a, batch.b, batch.input_a, batch.input_b)
        assert {tuple(x.shape) for x in images} == {(2, 1, side, side)}
        assert all(x.min() >= 0 and x.max() <= 1 for x in images)
        assert batch.code_a.shape == batch.code_b.shape == (2, 32, 12)
        assert ((batch.frames.box >= 0) & (batch.frames.box <= 1)).all()
    assert {batch.a.shape[-1] for batch in batches} == {32, 48}


def test_the_seed_decides_the_batch(draw):
    settings = {"batch": 2, "sides": [32, 48], "tone_a": CHANGE, "noise_probability": 1.0, "noise_sigma": 0.1}
    first, again, other = draw(3, **settings), draw(3, **settings), draw(4, **settings)
    for one, two in ((first, again), (first.frames, again.frames)):
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True) if isinstance(x, torch.Tensor))
    assert first.a.shape != other.a.shape or not torch.equal(first.a, other.a)


def test_noise_is_added_to_the_inputs_only(draw):
    settings = {"batch": 8, "sides": [48], "crop_share": 1.0}
    clean, noisy = draw(**settings), draw(**settings, noise_probability=1.0, noise_sigma=0.05)
    assert torch.equal(clean.input_a, clean.a)
    assert torch.equal(noisy.a, clean.a)
    assert torch.equal(noisy.code_b, clean.code_b)
    error = (noisy.input_a - noisy.a).std(dim=(1, 2, 3))
    assert (error > 0).all()
    assert error.max() < 0.055


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"sides": []}, {"sides": [50]}, {"sides": [24]}, {"zoom": 0.5}])
def test_settings_that_no_batch_can_have_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Sampling(**{"batch": 2, "sides": [48], **wrong})
