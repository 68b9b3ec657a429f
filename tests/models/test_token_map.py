import pytest
import torch
from torch.nn import functional as F

from models.token_map import TokenMap, resize


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small(**kwargs):
    return TokenMap(32, width=16, **kwargs)


@pytest.mark.parametrize(("num_tokens", "parameters"), [(32, 137_409), (64, 170_177), (128, 235_713)])
def test_parameters(num_tokens, parameters):
    assert count(TokenMap(num_tokens)) == parameters


def test_parameters_part_by_part():
    token_map = TokenMap(32)
    assert count(token_map.lift) == 832
    assert count(token_map.spread) == 32_768
    assert count(token_map.local) + token_map.local_gain.numel() == 36_865
    assert [count(conv) for conv in token_map.details] == [3_200, 1_664, 640]
    assert count(token_map.merges) == 24_576
    assert count(token_map.out) == 36_864


@pytest.mark.parametrize("size", [(32, 32), (37, 61), (130, 77)])
@pytest.mark.parametrize("detail", [True, False])
def test_map_has_the_size_of_the_image(size, detail):
    y = small(detail=detail)(torch.randn(2, 32, 12), torch.rand(2, 1, *size))
    assert y.shape == (2, 16, *size)


def test_without_detail_only_the_size_of_the_image_matters():
    token_map, tokens = small(detail=False), torch.randn(1, 32, 12)
    assert torch.equal(token_map(tokens, torch.rand(1, 1, 40, 48)), token_map(tokens, torch.zeros(1, 1, 40, 48)))


def plain(token_map, tokens, image):
    """The path as drawn for 256×256: fixed doublings instead of sizes taken from the detail features."""
    y = token_map.coarse(tokens)
    y = y + token_map.local_gain * F.gelu(token_map.local(y))
    for conv, merge in zip(token_map.details, token_map.merges, strict=True):
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.gelu(merge(torch.cat([y, F.gelu(conv(image))], 1)))
    return token_map.out(y)


def test_native_path_equals_the_plain_path_at_256():
    token_map, tokens, image = small(), torch.randn(1, 32, 12), torch.rand(1, 1, 256, 256)
    assert torch.allclose(token_map(tokens, image), plain(token_map, tokens, image), atol=1e-6)


@pytest.mark.parametrize(("lift_act", "same"), [("none", True), ("gelu", False)])
def test_edit_acts_alike_on_every_image_without_the_lift_nonlinearity(lift_act, same):
    token_map = small(lift_act=lift_act)
    edit = torch.zeros(32, 12)
    edit[12, 6:9] = 0.2
    first, second = F.normalize(torch.randn(2, 1, 32, 12), dim=-1)
    effects = [token_map.coarse(z + edit) - token_map.coarse(z) for z in (first, second)]
    difference = (effects[0] - effects[1]).abs().max().item()
    size = effects[0].abs().max().item()
    assert size > 1e-4
    assert (difference < 1e-6) if same else (difference > 0.05 * size)


def test_the_whole_box_equals_no_box():
    x = torch.randn(2, 3, 32, 32)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, -1)
    for size in ((64, 64), (33, 20)):
        assert torch.allclose(resize(x, torch.Size(size), whole), resize(x, torch.Size(size)), atol=1e-5)


def test_a_box_cuts_out_its_part_of_the_whole_map():
    x = torch.randn(2, 3, 32, 32)
    whole = resize(x, torch.Size((40, 80)))
    box = torch.tensor([[10 / 40, 20 / 80, 30 / 40, 70 / 80], [0, 8 / 80, 20 / 40, 58 / 80]])
    part = resize(x, torch.Size((20, 50)), box)
    assert torch.allclose(part[0], whole[0, :, 10:30, 20:70], atol=1e-5)
    assert torch.allclose(part[1], whole[1, :, 0:20, 8:58], atol=1e-5)


def test_features_of_a_crop_equal_the_crop_of_the_features():
    token_map, tokens, image = small(), torch.randn(1, 32, 12), torch.rand(1, 1, 128, 192)
    whole = token_map(tokens, image)
    box = torch.tensor([[32 / 128, 64 / 192, 96 / 128, 160 / 192]])
    crop = token_map(tokens, image[..., 32:96, 64:160], box=box)
    inner = crop - whole[..., 32:96, 64:160]
    assert inner[..., 12:-12, 12:-12].abs().max() < 1e-5  # the seams see other neighbours


def test_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match="'gelu' or 'none', not 'relu'"):
        small(lift_act="relu")
