"""The small vision transformer: sizes, taps, places of patches, hidden patches, and the control with random weights."""

import math

import pytest
import torch

from models.unifusion import BackboneIdentity, SmallViT, ViTConfig
from models.unifusion.rope import AxialRotation, rotate
from tests.models.tiny_unifusion import VIT


def vit(**options):
    return SmallViT(VIT, **options).eval()


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes():
    with torch.device("meta"):
        assert count(SmallViT()) == 5_485_248
        assert count(SmallViT(ViTConfig(384, heads=6), maskable=False)) == 21_586_944  # DINOv3 ViT-S/16 in timm
    assert ViTConfig().taps == (2, 5, 8, 11)
    assert ViTConfig(depth=8).taps == (1, 3, 5, 7)


@torch.no_grad()
def test_taps_are_four_normed_maps():
    model = vit()
    image = torch.rand(2, 3, 48, 80)
    taps = model(image)
    assert [tap.shape for tap in taps] == [(2, 64, 3, 5)] * 4
    for tap in taps:
        assert tap.mean(dim=1).abs().max() < 1e-5
        assert (tap.var(dim=1, unbiased=False) - 1).abs().max() < 1e-3
    last = model.forward_features(image)
    assert torch.equal(taps[-1], last.patches.transpose(1, 2).unflatten(2, (3, 5)))
    assert last.cls.shape == (2, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {tap.dtype for tap in model(image)} == {torch.float32}


@torch.no_grad()
def test_taps_are_the_same_in_training_and_evaluation():
    model = vit()
    image = torch.rand(1, 3, 32, 32)
    evaluated = model(image)
    assert all(map(torch.equal, model.train()(image), evaluated))


@torch.no_grad()
def test_normalisation_is_the_backbones_own():
    image = torch.rand(1, 3, 32, 32)
    plain = vit(mean=(0, 0, 0), std=(1, 1, 1))
    own = vit(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    own.load_state_dict(plain.state_dict())
    shifted = (image - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(own(image)[3], plain(shifted)[3])


def test_turning_is_a_complex_product():
    h, w, C, prefix = 3, 5, 64, 2
    x = torch.randn(2, 3, prefix + h * w, C)
    turned = rotate(x, AxialRotation(C, prefix=prefix).tables(h, w))
    assert torch.equal(turned[:, :, :prefix], x[:, :, :prefix])
    numbers = torch.complex(x[..., : C // 2].contiguous(), x[..., C // 2 :].contiguous())
    for i in range(h):
        for j in range(w):
            u, v = (2 * (i + 0.5) / h - 1, 2 * (j + 0.5) / w - 1)
            angles = [2 * math.pi * u / 100 ** (2 * k / 32) for k in range(16)]
            angles += [2 * math.pi * v / 100 ** (2 * k / 32) for k in range(16)]
            place = prefix + i * w + j
            expected = numbers[:, :, place] * torch.polar(torch.ones(32), torch.tensor(angles))
            expected = torch.cat([expected.real, expected.imag], dim=-1)
            torch.testing.assert_close(turned[:, :, place], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_patches_know_their_place():
    model = vit()
    for block in model.blocks:
        block.attention.qkv.weight.mul_(10)  # fresh layers hardly tell tokens apart
    image = torch.rand(1, 3, 32, 48)
    patches = image.unfold(2, 16, 16).unfold(3, 16, 16)  # (1, 3, 2, 3, 16, 16)
    moved = patches.roll(1, dims=3).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 32, 48)
    assert not torch.allclose(model(moved)[3], model(image)[3].roll(1, dims=3), atol=1e-3)


def test_hidden_patches_are_not_seen():
    model = vit()
    torch.nn.init.normal_(model.mask_token)
    image, changed = torch.rand(2, 2, 3, 32, 48)
    mask = torch.tensor([[True, False, False, False, False, True]] * 2)
    hidden = mask.reshape(2, 1, 2, 3).repeat_interleave(16, 2).repeat_interleave(16, 3)
    partly = torch.where(hidden, changed, image)
    seen = model.forward_features(image, mask)
    again = model.forward_features(partly, mask)
    assert torch.equal(seen.cls, again.cls)
    assert torch.equal(seen.patches, again.patches)
    assert seen.patches.shape == (2, 6, 64)
    assert not torch.allclose(seen.cls, model.forward_features(image).cls, atol=1e-3)
    seen.patches.square().sum().backward()
    assert model.mask_token.grad.abs().sum() > 0


def test_the_control_is_the_same_for_a_seed_and_frozen():
    state = torch.random.get_rng_state()
    first, again, other = SmallViT.random(3, VIT), SmallViT.random(3, VIT), SmallViT.random(4, VIT)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.identity() == again.identity() != other.identity()
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())


def test_identity_of_a_backbone():
    model = vit()
    identity = model.identity()
    assert identity == BackboneIdentity(
        "small-vit", identity.sha256, 64, (0, 1, 2, 3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    identity.check(identity.record())
    with torch.no_grad():
        model.blocks[2].scale1[5] += 1e-3
    with pytest.raises(ValueError, match="another backbone: sha256"):
        model.identity().check(identity.record())
    with pytest.raises(ValueError, match=r"mean \[0\.485, 0\.456, 0\.406\], here \[0\.5, 0\.5, 0\.5\]"):
        vit(mean=(0.5, 0.5, 0.5)).identity().check(identity.record())


@pytest.mark.parametrize("shape", [(1, 3, 33, 32), (1, 1, 32, 32), (3, 32, 32)])
def test_bad_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"needs \(N, 3, H, W\), H and W multiples of 16"):
        vit()(torch.rand(shape))


def test_bad_masks_are_refused():
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"mask must be bool, \(1, 4\), not torch.bool, \(1, 5\)"):
        vit().forward_features(image, torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"not torch\.float32"):
        vit().forward_features(image, torch.ones(1, 4))
    with pytest.raises(ValueError, match="no mask token"):
        vit(maskable=False).forward_features(image, torch.ones(1, 4, dtype=torch.bool))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"embed_dim": 200}, "64 for each head, not 200 for 3"),
        ({"heads": 0, "embed_dim": 0}, "64 for each head"),
        ({"depth": 3}, "at least 4"),
        ({"registers": -1}, "registers must be 0 or more"),
        ({"mlp_ratio": 0}, "mlp_ratio must be 1 or more"),
    ],
)
def test_bad_sizes_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**choice)
