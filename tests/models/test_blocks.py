import pytest
import torch
from torch.nn import functional as F

from models.blocks import BaseBlock, ChannelAttention, DetailNode, PixelNorm, RestormerBlock


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("block", "parameters"), [(RestormerBlock, 45_256), (BaseBlock, 363_016), (DetailNode, 18_176)]
)
def test_parameters_at_width_64(block, parameters):
    assert count(block(64)) == parameters


@pytest.mark.parametrize("width", [16, 48])
@pytest.mark.parametrize("block", [RestormerBlock, BaseBlock, DetailNode])
def test_keeps_shape_and_passes_gradient(block, width):
    module = block(width)
    x = torch.randn(2, width, 33, 46, requires_grad=True)
    y = module(x)
    assert y.shape == x.shape
    y.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    assert x.grad is not None


def test_pixel_norm_acts_on_the_channels_of_each_pixel():
    x = 3 * torch.randn(1, 16, 5, 4) + 1
    y = PixelNorm(16)(x)
    assert torch.allclose(y.mean(1), torch.zeros(1, 5, 4), atol=1e-6)
    assert torch.allclose(y.var(1, unbiased=False), torch.ones(1, 5, 4), atol=1e-4)


def test_channel_attention_equals_the_definition():
    module = ChannelAttention(16, heads=4)
    with torch.no_grad():
        module.temperature.copy_(torch.rand(4, 1, 1) + 0.5)
    x = torch.randn(2, 16, 6, 7)
    q, k, v = (
        part.reshape(2, 4, 4, 42)
        for part in F.conv2d(module.project(x), module.spatial.weight, padding=1, groups=48).split(16, 1)
    )
    expected = torch.empty(2, 4, 4, 42)
    for n in range(2):
        for m in range(4):
            cosine = F.cosine_similarity(q[n, m][:, None], k[n, m][None], dim=-1)
            expected[n, m] = (cosine * module.temperature[m]).softmax(-1) @ v[n, m]
    expected = module.out(expected.reshape(2, 16, 6, 7))
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_attention_logits_do_not_grow_with_the_image():
    # Repeating an image repeats its queries and keys: cosines, and with them the attention, stay the same.
    module = ChannelAttention(16, heads=4)
    with torch.no_grad():
        module.spatial.weight[..., :, :].zero_()
        module.spatial.weight[..., 1, 1] = 1.0  # no neighbours, so that the seams do not matter
    x = torch.randn(1, 16, 8, 8)
    assert torch.allclose(module(x.repeat(1, 1, 3, 2)), module(x).repeat(1, 1, 3, 2), atol=1e-6)


def test_black_image_gives_finite_attention():
    assert torch.isfinite(ChannelAttention(16, heads=4)(torch.zeros(1, 16, 8, 8))).all()


def test_detail_node_equals_the_coupling():
    node = DetailNode(16)
    x = torch.randn(2, 16, 9, 8)
    mixed = node.mix(x)
    z1, z2 = mixed[:, :8], mixed[:, 8:]
    z2 = z2 + node.phi(z1)
    z1 = z1 * node.rho(z2).exp() + node.eta(z2)
    assert torch.allclose(node(x), torch.cat([z1, z2], 1), atol=1e-6)


def test_exponent_limit_acts_only_on_large_exponents():
    free, bounded = DetailNode(16), DetailNode(16, exp_limit=6.0)
    bounded.load_state_dict(free.state_dict())
    x = torch.randn(1, 16, 8, 8)
    assert torch.equal(free(x), bounded(x))
    with torch.no_grad():
        for node in (free, bounded):
            node.rho.layers[-1].weight.mul_(1e4)
    assert not torch.isfinite(free(x)).all()
    assert torch.isfinite(bounded(x)).all()


@pytest.mark.parametrize("block", [RestormerBlock, BaseBlock, DetailNode])
def test_runs_in_bfloat16_autocast(block):
    module = block(16)
    x = torch.randn(1, 16, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert torch.allclose(y.float(), module(x), atol=0.1)


def test_refuses_a_width_that_does_not_divide():
    with pytest.raises(ValueError, match="8 heads do not divide the width 36"):
        RestormerBlock(36)
    with pytest.raises(ValueError, match="even"):
        DetailNode(17)
