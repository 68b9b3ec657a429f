"""What takes the tokenizer's place: no tokens, and patch features of a backbone."""

import pytest
import torch
from torch import nn

from models.interface import NoTokens, PatchFeatures
from models.interface.patch_features import grid_of, orthogonal
from models.registry import build
from models.ste import SlotSpec
from models.tokenizer import Tokenizer, TokenizerConfig


class Backbone(nn.Module):
    """Patches of 16 pixels through one seeded linear layer: the smallest thing with a vision transformer's output."""

    def __init__(self, width=24, seed=0, patch=16):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, image):
        return self.layer(image).flatten(2).transpose(1, 2)


def features(seed=0, **options):
    options = {"width": 24, "image_size": 128, **options}
    return PatchFeatures("stand-in", options.pop("backbone", None) or Backbone(seed=seed), **options)


def image(seed=0, size=(50, 70)):
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(seed))


def sources():
    tiny = TokenizerConfig("tiny", 32, 1, 2, codebook_size=64, legacy=False, image_size=32)
    return [NoTokens(), features(), Tokenizer(tiny)]


@pytest.mark.parametrize("source", sources(), ids=["no tokens", "patch features", "tokenizer"])
def test_every_source_keeps_the_protocol(source):
    S = source.config.image_size
    prepared = source.prepare(image())
    assert prepared.shape == (2, 3, S, S)
    assert 0 <= prepared.min() <= prepared.max() <= 1
    code = source.encode(image())
    assert code.shape == (2, source.num_tokens, source.token_dim) == (2, 32, 12)
    assert code.dtype == torch.float32
    torch.testing.assert_close(source.encode(prepared[:, :1]), code, atol=1e-4, rtol=0)  # small copies are enough
    assert len(source.weights_sha256) == 64
    assert source.eval().requires_grad_(False).to(torch.device("cpu")) is source


def test_no_tokens_are_zeros_with_nothing_to_train():
    none = NoTokens(64, 16, image_size=128)
    assert not none.encode(image()).any()
    assert none.encode(image()).shape == (2, 64, 16)
    assert none.prepare(image()).shape[-1] == 128
    assert none.tokenizer_id == "none"
    assert not list(none.parameters())


@pytest.mark.parametrize(("tokens", "grid"), [(32, (4, 8)), (64, (8, 8)), (128, (8, 16)), (7, (1, 7))])
def test_the_grid_is_as_square_as_it_can_be(tokens, grid):
    assert grid_of(tokens) == grid


def test_patch_features_have_norm_one_and_depend_on_the_image():
    source = features()
    code = source.encode(image(1))
    torch.testing.assert_close(code.norm(dim=-1), torch.ones(2, 32))
    assert not torch.allclose(code[0], code[1])


def test_patch_features_are_cell_means_through_the_projection():
    source = features(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    x = image(2, (128, 128))
    normalised = (x.expand(-1, 3, -1, -1) - source.mean) / source.std
    plane = source.backbone(normalised).reshape(2, 8, 8, 24)
    means = plane.reshape(2, 4, 2, 8, 1, 24).mean(dim=(2, 4)).reshape(2, 32, 24)  # cells of 2 × 1 patches
    expected = means @ source.projection
    torch.testing.assert_close(source.encode(x), expected / expected.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)


def test_a_grid_that_does_not_divide_still_gives_all_tokens():
    assert features(image_size=112).encode(image()).shape == (2, 32, 12)  # 7 × 7 patches


def test_the_projection_is_orthogonal_and_the_same_for_everybody():
    torch.manual_seed(1)
    first = features()
    torch.manual_seed(2)
    second = features()
    assert torch.equal(first.projection, second.projection)
    torch.testing.assert_close(first.projection.T @ first.projection, torch.eye(12), atol=1e-6, rtol=0)
    assert not torch.allclose(orthogonal(24, 12, seed=1), first.projection)


def test_identity_follows_backbone_projection_and_name():
    same, again = features(), features()
    assert same.tokenizer_id == again.tokenizer_id
    others = [
        features(seed=1),
        features(mean=(0.5, 0.5, 0.5)),
        PatchFeatures("b", Backbone(), width=24, image_size=128),
    ]
    others.append(PatchFeatures("stand-in", Backbone(), width=24, image_size=128, seed=1))
    ids = {source.tokenizer_id for source in [same, *others, NoTokens()]}
    assert len(ids) == 6


def test_a_backbone_is_frozen_and_gets_no_gradient():
    backbone = nn.Sequential(Backbone(), nn.Dropout(0.5)).train()
    source = features(backbone=backbone)
    assert not backbone.training
    assert not any(p.requires_grad for p in source.parameters())
    assert not source.encode(image().requires_grad_()).requires_grad


def test_any_callable_is_a_backbone():
    source = features(backbone=lambda x: x.unfold(2, 16, 16).unfold(3, 16, 16).flatten(4)[:, 0, ..., :24].flatten(1, 2))
    assert source.encode(image()).shape == (2, 32, 12)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (lambda x: torch.zeros(len(x), 65, 24), "class tokens must be left out"),
        (lambda x: torch.zeros(len(x), 64, 20), r"\(N, P, 24\)"),
    ],
)
def test_a_backbone_of_another_shape_is_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        features(backbone=backbone).encode(image())


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="orthogonal"):
        features(width=8)
    with pytest.raises(ValueError, match="1 or more"):
        NoTokens(0)


@pytest.mark.parametrize("profile", ["titok-ste-lite", "titok-ste-d32-short"])
def test_a_strength_reaches_the_fused_image_without_tokens(profile):
    none = NoTokens()
    slots = SlotSpec(none.tokenizer_id, none.weights_sha256, 32, 12, (12, 18), (6, 7, 8), ("sharpen", "smooth"))
    torch.manual_seed(0)
    model = build(profile, none, slots).eval()
    with torch.no_grad():
        model.ste.delta.fill_(0.2)
        for p in model.parameters():  # some layers start at zero
            p.add_(0.02 * torch.randn_like(p))
        model.ste.delta.fill_(0.2)
        a, b = image(3, (64, 64)), image(4, (64, 64))
        plain, edited = model(a, b, torch.zeros(2, 2)), model(a, b, torch.ones(2, 2))
    assert (plain - edited).abs().max() > 1e-6


def test_slots_of_a_tokenizer_are_refused_without_tokens():
    slots = SlotSpec("t32:0", "0" * 64, 32, 12, (12,), (6, 7, 8), ("sharpen",))
    with pytest.raises(ValueError, match="probe that tokenizer"):
        build("titok-ste-lite", NoTokens(), slots)
