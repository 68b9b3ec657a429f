"""The lite network: its budget, its start, sizes, strength, gradients."""

import pytest
import torch

from models.lite import LiteConfig, TiTokSTELite
from models.padding import replicate_to_multiple
from models.tokenizer import TOKENIZERS, Tokenizer
from models.tone import compress
from training.macs import count_macs


@pytest.fixture
def model(tokenizer, slots):
    model = TiTokSTELite(tokenizer, slots).eval()
    with torch.no_grad():
        for last in (model.base_out, model.detail_out):
            last.weight.normal_(std=0.05)
        model.encoder.style.weight.normal_(std=0.05)
        model.ste.delta.normal_(std=0.1)
    return model


def pair(*size):
    return torch.rand(*size), torch.rand(*size)


def test_budget_is_kept():
    with torch.device("meta"):
        lite = TiTokSTELite(Tokenizer(TOKENIZERS["t32-tiny6-128"]), None)
    per_pixel, per_image = count_macs(lite, 480, 640)
    assert per_pixel < 20e3
    assert per_image < 1.5e9


def test_untrained_output_is_the_compressed_centred_sum(tokenizer, slots):
    model = TiTokSTELite(tokenizer, slots)
    a, b = pair(2, 1, 64, 96)
    fused = model.fuse_unclamped(a, b, model.encode(a), model.encode(b), torch.ones(2, 2))
    expected = a + b - 0.5 * (a + b).mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(fused, compress(expected, model.config.knee), atol=1e-5, rtol=0)


def test_untrained_power_mix_is_the_root_of_the_squares_and_keeps_black(tokenizer, slots):
    model = TiTokSTELite(tokenizer, slots, LiteConfig(mix="power", knee=0.1))
    a, b = pair(2, 1, 64, 96)
    a[..., :32], b[..., :32] = 0.0, 0.0
    fused = model.fuse_unclamped(a, b, model.encode(a), model.encode(b), torch.ones(2, 2))
    assert float(fused[..., :32].detach().abs().max()) < 1e-6
    dark = torch.hypot(a, b) < 0.9
    torch.testing.assert_close(fused[dark], torch.hypot(a, b)[dark], atol=2e-3, rtol=0)
    assert float(fused.detach().max()) <= 1.0
    fused.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [(32, 32), (33, 39), (130, 77)])
def test_output_has_the_size_and_range_of_the_input(model, size):
    a, b = pair(3, 1, *size)
    fused = model(a, b)
    assert fused.shape == a.shape
    assert fused.min() >= 0
    assert fused.max() <= 1


def test_strength_zero_is_editing_off(model):
    a, b = pair(1, 1, 48, 56)
    codes = model.encode(a), model.encode(b)
    zero = model.fuse(a, b, *codes, torch.zeros(1, 2))
    model.ste.enabled = False
    assert torch.equal(zero, model.fuse(a, b, *codes, torch.ones(1, 2)))


def test_each_slot_changes_the_output_and_is_clipped_at_its_limit(model):
    a, b = pair(1, 1, 48, 56)
    codes = model.encode(a), model.encode(b)

    def fuse(*edit):
        return model.fuse_unclamped(a, b, *codes, torch.tensor([edit]))

    off = fuse(0.0, 0.0)
    assert (fuse(1.0, 0.0) - off).abs().max() > 0
    assert (fuse(0.0, 1.0) - off).abs().max() > 0
    limit = model.ste.strength_limit().tolist()
    torch.testing.assert_close(fuse(9.0, 9.0), fuse(*limit))
    torch.testing.assert_close(fuse(-1.0, -1.0), off)


def test_batch_members_do_not_influence_each_other(model):
    a, b = pair(3, 1, 40, 48)
    together = model(a, b)
    alone = torch.cat([model(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_gradient_reaches_every_parameter_and_never_the_tokenizer(model):
    a, b = pair(1, 1, 48, 48)
    model.fuse_unclamped(a, b, model.encode(a), model.encode(b), torch.ones(1, 2)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert all(p.grad is None for p in model.tokenizer.parameters())


def test_stages_share_out_all_parameters(model):
    groups = model.stage1_parameters(), model.fusion_parameters(), model.edit_parameters()
    ids = [id(p) for group in groups for p in group]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


def test_padding_repeats_the_last_row_and_column():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    y = replicate_to_multiple(x, 8)
    assert y.shape == (1, 1, 8, 8)
    assert torch.equal(y[..., :3, :4], x)
    assert torch.equal(y[0, 0, 5], torch.tensor([8.0, 9, 10, 11, 11, 11, 11, 11]))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((1, 1, 40, 40), (1, 1, 40, 48), "one size"),
        ((1, 1, 16, 40), (1, 1, 16, 40), "at least 32"),
        ((1, 3, 40, 40), (1, 3, 40, 40), "a must be"),
    ],
)
def test_bad_sources_are_refused(model, a, b, message):
    code = torch.zeros(1, 32, 12)
    with pytest.raises(ValueError, match=message):
        model.fuse(torch.zeros(a), torch.zeros(b), code, code, torch.ones(1, 2))
