"""The parts of TITA against slow, literal versions of their equations."""

import pytest
import torch
from torch.nn import functional as F

from models.tita import TITAConfig
from models.tita.blocks import IntraBlock
from models.tita.oaf import OAF, ConvHead, high_pass, log_window
from models.tita.pixel_attention import InteractionPixelAttention, PlainPixelAttention, Relation, TokenExchange
from models.tita.windows import Grid, WindowAttention
from tests.models.tiny_tita import stir

D, HEADS = 12, 3


def lively(module):
    stir(module, 0.3)
    return module.eval()


def maps(count, H=16, W=24, N=2):
    return torch.randn(count, N, H, W, D).unbind()


def literal_window_attention(layer, x, context, shift):
    """Attention over all tokens of the map, with a mask for those in another window; nothing is rolled."""
    N, H, W, _ = x.shape
    row, column = torch.arange(H).repeat_interleave(W), torch.arange(W).repeat(H)
    window = (row + shift) // 8 * 1000 + (column + shift) // 8
    together = window[:, None] == window[None]
    down, right = row[:, None] - row, column[:, None] - column
    place = ((down + 7) * 15 + right + 7).clamp(0, 224)  # clamped where the windows differ anyway
    q, kv = layer.query(x).reshape(N, H * W, HEADS, -1), layer.key_value(context)
    k, v = (half.reshape(N, H * W, HEADS, -1) for half in kv.chunk(2, dim=-1))
    logits = torch.einsum("nihd,njhd->nhij", q, k) / (D // HEADS) ** 0.5 + layer.bias[place].permute(2, 0, 1)
    weights = logits.masked_fill(~together, -torch.inf).softmax(dim=-1)
    return layer.out(torch.einsum("nhij,njhd->nihd", weights, v).reshape(x.shape))


def literal_block(block, x, shift):
    normed = block.norm1(x)
    y = x + literal_window_attention(block.attention, normed, normed, shift)
    return y + block.mlp(block.norm2(y))


@torch.no_grad()
def test_window_attention_between_two_maps():
    layer = lively(WindowAttention(D, heads=HEADS, window=8))
    x, context = maps(2)
    grid = Grid.of(x, 8)
    attended = grid.join(layer(grid.split(x), grid.split(context), None))
    torch.testing.assert_close(attended, literal_window_attention(layer, x, context, 0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shift", [0, 4])
@torch.no_grad()
def test_shifted_windows_do_not_join_opposite_ends(shift):
    config = TITAConfig(dim=D, heads=HEADS, pixel_heads=HEADS)
    block = lively(IntraBlock(config, shifted=shift > 0, drop_path=0.0))
    (x,) = maps(1)
    grid = Grid.of(x, 8)
    transformed = grid.join(block(grid.split(x), grid))
    torch.testing.assert_close(transformed, literal_block(block, x, shift), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(transformed, literal_block(block, x, 4 - shift), atol=1e-2)


def test_sorting_by_windows_and_back():
    (x,) = maps(1)
    grid = Grid.of(x, 8)
    windows = grid.split(x)
    assert torch.equal(windows[:, 4], x[:, 8:16, 8:16].flatten(1, 2))
    assert torch.equal(grid.join(windows), x)
    shifted = grid.shift(windows)
    assert torch.equal(grid.join(shifted), x.roll((-4, -4), (1, 2)))
    assert torch.equal(grid.unshift(shifted), windows)


def test_masks_are_the_published_regions_in_little_memory():
    H, W = 24, 40
    grid = Grid.of(torch.zeros(1, H, W, 1), 8)
    band = [torch.bucketize(torch.arange(size), torch.tensor([size - 8, size - 4]), right=True) for size in (H, W)]
    region = 3 * band[0][:, None] + band[1]  # of the shifted map
    windows = grid.split(region[None, ..., None]).reshape(H // 8, W // 8, 64)
    apart = windows[..., :, None] != windows[..., None, :]
    masks = (grid.row_masks + grid.column_masks)[:, :, 0]
    assert torch.equal(masks < 0, apart)
    assert set(masks.unique().tolist()) == {-200.0, -100.0, 0.0}
    assert grid.row_masks.numel() + grid.column_masks.numel() == (H // 8 + W // 8) * 64 * 64


def two_key_softmax(attention, x, keys, values):
    """The attention as the papers write it, with a bias on the keys, which must not matter."""

    def heads(z):
        return z.unflatten(-1, (HEADS, D // HEADS))

    bias = torch.randn(D)
    q = heads(attention.query(x))
    logits = torch.stack([(q * heads(attention.key(key) + bias)).sum(dim=-1) for key in keys])
    weights = (logits / (D // HEADS) ** 0.5).softmax(dim=0)[..., None]  # (2, N, H, W, M, 1)
    mixed = (weights * torch.stack([heads(attention.value(value)) for value in values])).sum(dim=0)
    return attention.out(mixed.flatten(-2))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@torch.no_grad()
def test_ipa_is_a_softmax_over_two_keys(activation):
    layer = lively(InteractionPixelAttention(D, heads=HEADS, activation=activation))
    u, v = maps(2)
    for row, attention, x, other in ((0, layer.attention_a, u, v), (1, layer.attention_b, v, u)):
        score = layer.relation(x, other)
        keys = layer.noise1[row] + x - x * score, layer.noise2[row] + x + x * score
        expected = x + two_key_softmax(attention, x, keys, (x, other))
        torch.testing.assert_close(layer(u, v)[row], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pa_is_a_softmax_over_two_keys():
    layer = lively(PlainPixelAttention(D, heads=HEADS, activation="softmax"))
    u, v = maps(2)
    for row, attention, x, other in ((0, layer.attention_a, u, v), (1, layer.attention_b, v, u)):
        keys = layer.noise1[row] + x, x * layer.relation(x, other)
        expected = x + two_key_softmax(attention, x, keys, (layer.noise2[row] + x, other))
        torch.testing.assert_close(layer(u, v)[row], expected, atol=1e-5, rtol=1e-5)


def test_pixel_attention_sees_its_own_pixel_only():
    layer = lively(InteractionPixelAttention(D, heads=HEADS, activation="softmax"))
    u, v = maps(2)
    v.requires_grad_()
    layer(u, v).a[:, 3, 5].sum().backward()
    assert v.grad[:, 3, 5].abs().min() > 0
    v.grad[:, 3, 5] = 0
    assert not v.grad.any()


@torch.no_grad()
def test_scores_of_the_relation():
    u, v = maps(2)
    softmax = lively(Relation(D, "softmax"))
    torch.testing.assert_close(softmax(u, v).sum(dim=-1), torch.ones(2, 16, 24))
    assert not torch.allclose(softmax(u, v), softmax(v, u), atol=1e-3)
    assert lively(Relation(D, "sigmoid"))(u, v).sum(dim=-1).max() > 1


def test_token_exchange_takes_what_scores_low_from_the_other_stream():
    layer = lively(TokenExchange(D, "softmax"))
    u, v = maps(2)
    score_u, score_v = layer.relation(u, v), layer.relation(v, u)
    out = layer(u, v)
    torch.testing.assert_close(out.a, torch.where(score_u >= 0.02, u, v))
    torch.testing.assert_close(out.b, torch.where(score_v >= 0.02, v, u))
    assert 0 < (score_u < 0.02).float().mean() < 1
    out.a.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


@torch.no_grad()
def test_high_pass_is_the_published_filter():
    x, logits = torch.randn(2, 9, 11, D), torch.randn(2, 9, 11, 9)
    hamming = torch.tensor([0.08, 1.0, 0.08])
    kernel = logits.softmax(dim=-1) * torch.outer(hamming, hamming).flatten()
    kernel = kernel / kernel.sum(dim=-1, keepdim=True)
    patches = F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
    low = torch.einsum("nchwk,nhwk->nhwc", patches.flatten(4), kernel)
    torch.testing.assert_close(high_pass(x, logits, log_window()), x - low, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_high_pass_of_a_point_with_uniform_logits():
    x = torch.zeros(1, 5, 5, 1)
    x[0, 2, 2] = 1.0
    kernel = -high_pass(x, torch.zeros(1, 5, 5, 9), log_window())[0, 1:4, 1:4, 0]
    kernel[1, 1] += 1.0
    expected = torch.tensor([[0.0048, 0.0595, 0.0048], [0.0595, 0.743, 0.0595], [0.0048, 0.0595, 0.0048]])
    torch.testing.assert_close(kernel, expected, atol=5e-4, rtol=0)
    assert high_pass(torch.ones(1, 5, 5, 2), torch.randn(1, 5, 5, 9), log_window()).abs().max() < 1e-6


@pytest.mark.parametrize("dynamic", [True, False])
@torch.no_grad()
def test_oaf_is_the_weighted_sum_of_its_operations(dynamic):
    layer = lively(OAF(D, ("hpf", "add", "mul"), dynamic=dynamic))
    x, y = maps(2)
    mean = torch.randn(2, 2 * D)
    weights = layer.weights(mean)
    expected = torch.zeros_like(x)
    for stream, (z, part) in enumerate(((x, layer.a), (y, layer.b))):
        hidden = part.compress(z.permute(0, 3, 1, 2))
        operand = {name: conv(hidden).permute(0, 2, 3, 1) for name, conv in part.operands.items()}
        results = high_pass(z, operand["hpf"], log_window()), z + operand["add"], z * operand["mul"]
        expected += sum(w[:, None, None, None] * r for w, r in zip(weights[:, stream].T, results, strict=True))
    torch.testing.assert_close(layer(x, y, mean), expected, atol=1e-5, rtol=1e-5)
    assert dynamic == (not torch.allclose(weights, torch.full_like(weights, 1 / 6), atol=1e-3))


@torch.no_grad()
def test_an_operation_left_out_is_left_out_of_the_weights():
    layer = OAF(D, ("hpf", "mul"), dynamic=True)
    assert list(layer.a.operands) == ["hpf", "mul"]
    assert layer.predictor[-1].out_features == 4
    torch.testing.assert_close(layer.weights(torch.randn(5, 2 * D)).sum(dim=(1, 2)), torch.ones(5))


@torch.no_grad()
def test_the_convolution_ignores_the_mean():
    layer = ConvHead(D)
    x, y = maps(2)
    assert torch.equal(layer(x, y, torch.zeros(2, 2 * D)), layer(x, y, torch.ones(2, 2 * D)))
