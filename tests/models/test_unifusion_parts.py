"""The parts of UniFusion against slow, literal versions of their equations."""

import pytest
import torch
from torch.nn import functional as F

from models.padding import crop_to, reflect_to
from models.unifusion.adapter import Adapter, AdapterFree, ImageSkip
from models.unifusion.fusion import CrossAttention, CrossBlock, FusionNet
from tests.models.tiny_unifusion import small


@torch.no_grad()
def stirred(module):
    for parameter in module.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def taps(E=64, N=2, h=2, w=3):
    return torch.randn(4, N, E, h, w).unbind()


def literal_up(layer, x):
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    conv, norm, _ = layer.layers
    return norm(F.conv2d(x, conv.weight, padding=1)).clamp_min(0)


@pytest.mark.parametrize(
    ("norm", "E", "fold"), [("batch", 64, 1), ("group", 128, 1), ("group", 64, 2), ("batch", 64, 4)]
)
@torch.no_grad()
def test_the_adapter_joins_the_deepest_taps_first(norm, E, fold):
    adapter = stirred(Adapter(small(embed_dim=E, norm=norm, fold=fold)))
    f2, f5, f8, f11 = given = taps(E)
    image = torch.randn(2, 3, 32, 48)
    a, b, c = literal_up(adapter.up1, f8 + f11), literal_up(adapter.up2, f5), literal_up(adapter.up3, f2)
    z = literal_up(adapter.up4, a + b) + literal_up(adapter.up5, c)
    for layer in adapter.finer:
        z = literal_up(layer, z)
    conv, skip_norm, _ = adapter.skip.layers
    s = skip_norm(F.conv2d(F.pixel_unshuffle(image, fold), conv.weight, padding=1)).relu()
    expected = adapter.mix(torch.cat([z, s], dim=1))
    assert expected.shape == (2, 8, 32 // fold, 48 // fold)
    assert s.shape[1] == z.shape[1] == E * fold // 16
    torch.testing.assert_close(adapter(image, given), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Adapter, AdapterFree])
@torch.no_grad()
def test_the_image_skip_can_be_left_out_sample_by_sample(kind):
    adapter = stirred(kind(small()))
    given, image = taps(), torch.randn(2, 3, 32, 48)
    kept, dropped = adapter(image, given), adapter(image, given, torch.zeros(2))
    assert not torch.allclose(kept, dropped, atol=1e-2)
    torch.testing.assert_close(dropped, adapter(torch.randn_like(image), given, torch.zeros(2)))
    mixed = adapter(image, given, torch.tensor([1, 0]))
    assert torch.equal(mixed[0], kept[0])
    assert torch.equal(mixed[1], dropped[1])
    without = kind(small(skip=False)).eval()
    assert not any(isinstance(module, ImageSkip) for module in without.modules())
    assert torch.equal(without(image, given), without(torch.randn_like(image), given))


@pytest.mark.parametrize("fold", [1, 4])
@torch.no_grad()
def test_without_adapter_the_last_tap_is_enlarged_and_projected(fold):
    adapter = stirred(AdapterFree(small(fold=fold)))
    given, image = taps(), torch.randn(2, 3, 32, 48)
    enlarged = F.interpolate(given[-1], scale_factor=16 // fold, mode="bilinear", align_corners=False)
    weight = torch.cat([adapter.project.weight, adapter.mix.weight], dim=1)
    expected = F.conv2d(torch.cat([enlarged, adapter.skip(image, None)], dim=1), weight, adapter.project.bias)
    torch.testing.assert_close(adapter(image, given), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_channel_attention_between_two_maps():
    layer = stirred(CrossAttention(8, heads=2))
    x, y = torch.randn(2, 3, 8, 5, 7)
    q, (k, v) = layer.query(x), layer.key_value(y).chunk(2, dim=1)
    mixed = torch.zeros_like(x)
    for n in range(3):
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            qs, ks, vs = (m[n, own].flatten(1) for m in (q, k, v))
            logits = F.cosine_similarity(qs[:, None], ks[None], dim=-1) * layer.temperature[head]
            mixed[n, own] = (logits.softmax(dim=-1) @ vs).reshape(4, 5, 7)
    torch.testing.assert_close(layer(x, y), layer.out(mixed), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cross_block_norms_both_maps_by_themselves():
    block = stirred(CrossBlock(8, heads=2))
    x, y = torch.randn(2, 1, 8, 5, 7)
    mid = x + block.attention(block.norm_query(x), block.norm_other(y))
    torch.testing.assert_close(block(x, y), mid + block.feed_forward(block.norm(mid)))


@torch.no_grad()
def test_the_second_image_meets_the_first_as_changed():
    net = stirred(FusionNet(small(), 3))
    x, y = torch.randn(2, 1, 8, 16, 16)
    z_a, z_b = x, y
    for i in range(2):
        z_a = net.cross_a[i](z_a, z_b)
        z_b = net.cross_b[i](z_b, z_a)
    torch.testing.assert_close(net(x, y), net.head(torch.cat([z_a, z_b], dim=1)))


@pytest.mark.parametrize(("size", "padded"), [((9, 20), (16, 32)), ((16, 17), (16, 32)), ((3, 33), (4, 48))])
def test_reflection_is_that_of_torch(size, padded):
    x = torch.rand(2, 3, *size)
    expected = F.pad(x, (0, padded[1] - size[1], 0, padded[0] - size[0]), mode="reflect")
    assert torch.equal(reflect_to(x, *padded), expected)
    assert torch.equal(crop_to(expected, *size), x)


def test_a_side_too_short_to_reflect_repeats_its_edge():
    x = torch.rand(1, 1, 8, 20)
    expected = F.pad(F.pad(x, (0, 12, 0, 0), mode="reflect"), (0, 0, 0, 8), mode="replicate")
    assert torch.equal(reflect_to(x, 16, 32), expected)
    x = torch.rand(1, 1, 1, 1)
    assert torch.equal(reflect_to(x, 16, 16), x.expand(1, 1, 16, 16))
