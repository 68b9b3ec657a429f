"""Tiles: which pixels they cover, how far a pixel looks, and that they give the picture of the whole."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.tita import ABLATIONS, PROFILES, TITA, TITAConfig, fuse_tiled
from models.tita.tiling import exact_halo, mean_features, spans
from tests.models.tiny_tita import lively, pair, small


@given(
    size=st.integers(4, 400).map(lambda n: 8 * n),
    tile=st.integers(32, 600),
    halo=st.integers(0, 90),
)
def test_spans_cover_a_side_once_along_the_grid(size, tile, halo):
    if tile // 8 * 8 <= 2 * (-(-halo // 8) * 8) and size > tile // 8 * 8:
        with pytest.raises(ValueError, match="enlarge the tile"):
            spans(size, tile=tile, halo=halo, window=8)
        return
    parts = spans(size, tile=tile, halo=halo, window=8)
    assert [part.first for part in parts] == [0, *(part.last for part in parts[:-1])]
    assert parts[-1].last == size
    for part in parts:
        assert 0 <= part.start <= part.first < part.last <= part.stop <= size
        assert part.stop - part.start == parts[0].stop <= max(tile, 8)
        assert part.start == 0 or part.first - part.start >= halo
        assert part.stop == size or part.stop - part.last >= halo
        assert all(border % 8 == 0 for border in part)
        assert part.own == slice(part.first, part.last)
        assert part.inside == slice(part.first - part.start, part.last - part.start)


def test_how_far_a_pixel_of_the_published_network_looks():
    assert exact_halo(TITAConfig()) == 72
    assert exact_halo(TITAConfig(), features=True) == 56
    assert {exact_halo(config) for config in ABLATIONS.values()} == {72}
    assert exact_halo(PROFILES["product"]) == 288


@pytest.mark.parametrize("row", ["full", "sf"])
def test_a_pixel_looks_no_farther_than_its_halo(row):
    model = lively(ABLATIONS[row])
    halo, border = exact_halo(model.config), 48
    a, b = pair(1, 1, 32, 2 * border)
    a.requires_grad_()
    own = model.fuse_given(a, b, torch.zeros(1, 2 * model.config.dim))[..., :border]  # a tile left of a border
    own.square().sum().backward()
    reach = a.grad.abs().amax(dim=(0, 1, 2))
    seen = torch.nonzero(reach > 1e-9 * reach.max())[-1].item() + 1 - border  # a masked logit is -100, not -infinity
    assert halo - 16 < seen <= halo < border


FORMS = {**ABLATIONS, **PROFILES}


@pytest.mark.parametrize("form", ["full", "no-dw", "ti", "product"])
@torch.no_grad()
def test_tiles_equal_the_whole(form):
    model = lively(FORMS[form])
    fold = model.config.fold
    a, b = pair(1, 1, 109 * fold, 125 * fold)
    a[..., :80] *= 0.2  # tiles with other means than the whole
    whole, tiled = model(a, b), fuse_tiled(model, a, b, tile=96 * fold)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)
    assert whole.std() > 0.05


@torch.no_grad()
def test_neither_the_mean_nor_the_halo_is_idle():
    model = lively()
    a, b = pair(1, 1, 64, 256)
    a[..., :128] *= 0.2
    whole = model(a, b)
    halves = torch.cat([model(a[..., :128], b[..., :128]), model(a[..., 128:], b[..., 128:])], dim=-1)
    assert (halves - whole)[..., :64].abs().max() > 1 / 255  # far from the border: the mean
    short = fuse_tiled(model, a, b, tile=128, halo=0)
    assert (short - whole)[..., 120:136].abs().max() > 1e-4
    assert (short - whole)[..., :60].abs().max() < (halves - whole)[..., :60].abs().max()


@torch.no_grad()
def test_the_authors_padding_is_that_of_the_whole_image():
    model = lively(pad_mode="authors")
    a, b = pair(1, 1, 136, 104)
    torch.testing.assert_close(fuse_tiled(model, a, b, tile=112), model(a, b), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_mean_counts_each_pixel_once():
    model = lively()
    a, b = pair(1, 1, 160, 104)
    one, many = mean_features(model, a, b, tile=160), mean_features(model, a, b, tile=80)
    torch.testing.assert_close(many, one, atol=1e-5, rtol=1e-4)
    assert one.shape == (1, 2 * model.config.dim)


def test_wrong_tiles_and_images_are_refused():
    model = TITA(small()).eval()
    a, b = pair(1, 1, 160, 104)
    with pytest.raises(ValueError, match="enlarge the tile"):
        fuse_tiled(model, a, b, tile=64)
    with pytest.raises(ValueError, match="one size"):
        fuse_tiled(model, a, b[..., :96])
