"""The UniFusion network as a whole: sizes of all its forms, its interface, and what must stay as it is."""

import pytest
import torch

from models.registry import UNIFUSION_CONFIGS, build
from models.unifusion import ABLATIONS, PROFILES, ReconstructionHeads, SmallViT, UniFusion, UniFusionConfig, ViTConfig
from models.unifusion.backbone import weights_sha256
from tests.models.tiny_unifusion import backbone, inputs, lively, pair, small, tiny

OFFICIAL_BACKBONE = 21_601_152
FORMS = {**PROFILES, **ABLATIONS, "residual": UniFusionConfig(output="residual", fold=2, norm="group")}


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def total(named):
    return sum(parameter.numel() for _, parameter in named)


def published(name="code"):
    """A network in full size, and its heads."""
    with torch.device("meta"):
        vit = SmallViT(ViTConfig(384, heads=6), maskable=False)
        return UniFusion(PROFILES[name], vit), ReconstructionHeads(PROFILES[name])


def test_published_sizes():
    model, heads = published()
    assert total(model.theta()) == count(model.fusion) == 501_451
    assert count(model.adapter_a) == count(model.adapter_b) == 2_379_784
    assert count(heads) == 181_414
    assert total(model.phi(heads)) == 4_940_982
    assert total(model.phi()) == 4_759_568
    assert count(model) == 5_261_019
    assert count(model, heads) == 5_442_433
    assert count(model, heads) + OFFICIAL_BACKBONE == 27_043_585
    assert count(model) + OFFICIAL_BACKBONE == 26_862_171


def test_published_sizes_part_by_part():
    model, heads = published()
    adapter = model.adapter_a
    assert [count(part) for part in (adapter.up1, adapter.up2, adapter.up3)] == [663_936] * 3
    assert [count(part) for part in (adapter.up4, adapter.up5)] == [166_080] * 2
    assert [count(part) for part in adapter.finer] == [41_568, 10_416]
    assert (count(adapter.skip), count(adapter.mix)) == (696, 3_136)
    block = model.fusion.cross_a[0]
    assert count(block) == 45_384
    assert count(block.norm_query, block.norm_other, block.norm) == 384
    assert (count(block.attention), count(block.feed_forward)) == (18_120, 26_880)
    assert count(model.fusion.cross_a, model.fusion.cross_b) == 363_072
    assert [count(part) for part in model.fusion.head] == [73_792, 45_256, 18_464, 867, 0]
    assert [count(part) for part in heads.a] == [45_256, 45_256, 195, 0]
    assert count(heads.a) == 90_707
    assert count(published("paper")[1].a) == 181_219


@pytest.mark.parametrize("name", FORMS)
def test_every_form_keeps_size_and_range_and_uses_all_its_parameters(name):
    model = lively(FORMS[name]).train()
    given = inputs(model, 2, (33, 40))
    if model.encoder is not None:  # inputs encodes without gradient
        given |= {"code_a": model.encode(given["a"]), "code_b": model.encode(given["b"])}
    fused = model.fuse_unclamped(**given, edit=torch.zeros(2, 0))
    assert fused.shape == (2, 1, 33, 40)
    fused.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert all(p.grad is None for p in model.backbone.parameters()) if model.backbone else True
    with torch.no_grad():
        raw = model.eval().fuse_unclamped(**given, edit=torch.zeros(2, 0))
        assert torch.equal(model(given["a"], given["b"]), raw.clamp(0, 1))
    assert raw.std() > 0.02


@pytest.mark.parametrize("size", [(100, 150), (37, 53), (33, 32), (32, 32)])
@pytest.mark.parametrize("name", ["code", "light"])
@torch.no_grad()
def test_any_size(name, size):
    model = lively(FORMS[name])
    a, b = pair(1, 1, *size)
    assert model.encode(a).shape == (1, 256, -(-size[0] // 16), -(-size[1] // 16))
    assert model(a, b).shape == (1, 1, *size)


@torch.no_grad()
def test_the_backbone_sees_a_reduced_copy_of_a_large_image():
    model, whole = (lively(FORMS["light"], whole_sides=sides) for sides in (10, 0))
    whole.load_state_dict(model.state_dict())
    sizes = {(64, 96): (4, 6), (64, 100): (2, 4), (33, 400): (1, 9), (200, 200): (5, 5), (320, 320): (5, 5)}
    for size, grid in sizes.items():
        a, b = pair(1, 1, *size)
        assert model.encode(a).shape == (1, 256, *grid)
        assert model(a, b).shape == (1, 1, *size)
        assert torch.equal(model(a, b), whole(a, b)) == (size == (64, 96))


@torch.no_grad()
def test_a_reduced_copy_describes_the_same_places():
    model = lively(FORMS["light"], whole_sides=10)
    blobs = torch.rand(1, 1, 4, 4)  # smooth enough to look the same in both
    small, large = (torch.nn.functional.interpolate(blobs, size=(s, s), mode="bilinear") for s in (80, 320))
    code = model.encode(small)
    assert (model.encode(large) - code).abs().mean() < 0.03 * code.std()


@torch.no_grad()
def test_rgb_of_any_size_even_too_small_to_reflect():
    model = lively()
    for size in ((37, 53), (15, 40), (8, 40), (1, 1)):
        a, b = pair(2, 3, *size)
        codes = model.encode_rgb(a), model.encode_rgb(b)
        fused = model.fuse_rgb(a, b, *codes)
        assert fused.shape == (2, 3, *size)
        assert torch.equal(fused, model.fuse_rgb_unclamped(a, b, *codes).clamp(0, 1))


@torch.no_grad()
def test_luminance_is_fused_as_grey_rgb():
    model = lively()
    given = inputs(model, 1, (32, 48))
    grey = [x.repeat(1, 3, 1, 1) for x in (given["a"], given["b"])]
    assert torch.equal(model.encode_rgb(grey[0]), given["code_a"])
    fused = model.fuse_rgb_unclamped(*grey, given["code_a"], given["code_b"])
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    expected = (weights * fused).sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.fuse_unclamped(**given, edit=torch.zeros(1, 0)), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_mean_is_taken_off_and_added_back():
    model = tiny()
    for parameter in model.fusion.head[3].parameters():
        parameter.zero_()
    a, b = pair(1, 3, 32, 32)
    fused = model.fuse_rgb(a, b, model.encode_rgb(a), model.encode_rgb(b))
    torch.testing.assert_close(fused[0, :, 5, 7], torch.tensor([0.4488, 0.4371, 0.4040]))
    assert not any(name.endswith("mean") for name in model.state_dict() if "running" not in name)


@torch.no_grad()
def test_untrained_forms_of_our_own_begin_with_the_sources():
    model = tiny(FORMS["residual"])
    a, b = pair(1, 1, 37, 53)
    torch.testing.assert_close(model(a, b), (a + b) / 2)
    model = tiny(FORMS["light"])
    expected = model.output(a.new_zeros(1, 4, 37, 53), a, b).clamp(0, 1)
    assert torch.equal(model(a, b), expected)


@pytest.mark.parametrize("name", ["code", "light"])
@torch.no_grad()
def test_images_of_a_batch_do_not_mix(name):
    model = lively(FORMS[name])
    a, b = pair(3, 1, 37, 53)
    together = model(a, b)
    alone = torch.cat([model(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@torch.no_grad()
def test_the_images_are_not_interchangeable_and_both_count():
    model = lively()
    given = inputs(model, 1, (32, 32))
    fuse = lambda **changes: model.fuse(**{**given, **changes}, edit=torch.zeros(1, 0))  # noqa: E731
    swapped = dict(zip(given, (given["b"], given["a"], given["code_b"], given["code_a"]), strict=True))
    assert not torch.allclose(fuse(), fuse(**swapped), atol=1e-3)
    for name in given:
        assert not torch.allclose(fuse(), fuse(**{name: torch.rand_like(given[name])}), atol=1e-3), name


@torch.no_grad()
def test_there_is_nothing_to_edit():
    model = tiny()
    a, b = pair(2, 1, 32, 32)
    assert model.slots == model.default_edit == ()
    assert torch.equal(model(a, b), model.fuse(a, b, model.encode(a), model.encode(b), torch.zeros(2, 0)))


def test_the_backbone_stays_as_it_is():
    vit = SmallViT(ViTConfig(64, depth=4, heads=1)).train()
    before = weights_sha256(vit)
    model = UniFusion(small(norm="group", fold=4), vit).train()
    assert model.backbone is vit
    assert not any(module.training for module in vit.modules())
    assert model.adapter_a.training
    heads = ReconstructionHeads(model.config)
    optimiser = torch.optim.Adam([p for _, p in (*model.phi(heads), *model.theta())], lr=0.1)
    a, b = pair(2, 1, 32, 32)
    code_a, code_b = model.encode(a), model.encode(b)
    z_a, z_b = model.adapt(*(x.repeat(1, 3, 1, 1) for x in (a, b)), code_a, code_b)
    (
        (model.fuse_unclamped(a, b, code_a, code_b, torch.zeros(2, 0)) - a).square().mean()
        + heads(z_a, z_b)[0].square().mean()
    ).backward()
    optimiser.step()
    assert all(p.grad is None and not p.requires_grad for p in vit.parameters())
    assert not code_a.requires_grad
    assert weights_sha256(vit) == before
    vit.train()
    assert not model.eval().train().backbone.training


def test_the_backbone_is_in_no_checkpoint_and_leaves_gradients_on():
    model = tiny()
    own = {id(p) for p in model.parameters()}
    assert not any(id(p) in own for p in model.backbone.parameters())
    assert not any("backbone" in name or "blocks" in name for name in model.state_dict())
    model.encode(torch.rand(1, 1, 32, 32))
    assert torch.is_grad_enabled()
    half = model.to(torch.float64)
    assert half.fusion.head[0].weight.dtype == torch.float64
    assert next(half.backbone.parameters()).dtype == torch.float32


def test_codes_are_float32_under_autocast():
    model = tiny()
    image = torch.rand(1, 1, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = model.encode(image)
    assert code.dtype == torch.float32
    assert torch.equal(code, model.encode(image))


def test_autocast_is_close_to_float32():
    model = lively(FORMS["light"])
    a, b = pair(1, 1, 32, 48)
    with torch.no_grad():
        full = model(a, b)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(a, b)
    assert (low.float() - full).abs().mean() < 0.03


@torch.no_grad()
def test_fusion_is_the_same_with_and_without_reconstruction():
    model = lively()
    a, b = pair(1, 1, 37, 53)
    alone = model(a, b)
    heads = ReconstructionHeads(model.config)
    wide = [x.repeat(1, 3, 1, 1) for x in (a, b)]
    z_a, z_b = model.adapt(*wide, model.encode(a), model.encode(b))
    rebuilt = heads(z_a, z_b)
    assert [image.shape for image in rebuilt] == [(1, 3, 48, 64)] * 2
    assert torch.equal(model(a, b), alone)
    without = lively(ABLATIONS["no-reconstruction"])
    without.load_state_dict(model.state_dict())
    assert torch.equal(without(a, b), alone)


@pytest.mark.parametrize("name", ["code", "light", "no-dinov3"])
def test_each_loss_reaches_its_parameters(name):
    model = lively(FORMS[name]).train()
    heads = ReconstructionHeads(model.config)
    a, b = pair(2, model.config.channels, 32, 48)
    encode = model.encode if model.config.channels == 1 else model.encode_rgb
    z_a, z_b = model.adapt(a, b, encode(a), encode(b))
    rebuilt_a, rebuilt_b = heads(z_a, z_b)
    ((rebuilt_a - a).abs().mean() + (rebuilt_b - b).abs().mean()).backward()
    assert all(p.grad.abs().sum() > 0 for _, p in model.phi(heads))
    assert all(p.grad is None for _, p in model.theta())
    model.zero_grad(), heads.zero_grad()
    model.decode(z_a.detach(), z_b.detach(), a, b).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for _, p in model.theta())
    assert all(p.grad is None for _, p in model.phi(heads))


@pytest.mark.parametrize("name", FORMS)
def test_both_groups_are_all_parameters_once(name):
    model = tiny(FORMS[name])
    names = [name for name, _ in (*model.phi(), *model.theta())]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    if model.config.reconstruction_depth:
        heads = ReconstructionHeads(model.config)
        named = dict(model.phi(heads))
        assert sum(name.startswith("reconstruction.") for name in named) == len(list(heads.parameters()))
    else:
        assert list(model.phi()) == []
        with pytest.raises(ValueError, match="reconstruction_depth is 0"):
            ReconstructionHeads(model.config)


def test_a_checkpoint_of_another_backbone_is_refused():
    model = tiny()
    record = model.identity()
    assert record["name"] == "small-vit-random"
    assert (record["embed_dim"], record["taps"]) == (64, [0, 1, 2, 3])
    model.check_identity(record)
    other = UniFusion(model.config, backbone(seed=1))
    with pytest.raises(ValueError, match=r"another backbone: sha256 '[0-9a-f]{64}', here '[0-9a-f]{64}'$"):
        other.check_identity(record)
    with pytest.raises(ValueError, match="name None, here 'small-vit-random'"):
        model.check_identity({})
    own = tiny(ABLATIONS["no-dinov3"])
    own.check_identity(own.identity())
    with pytest.raises(ValueError, match="the backbone 'small-vit-random', here is none"):
        own.check_identity(record)


@pytest.mark.parametrize("name", UNIFUSION_CONFIGS)
def test_built_by_name_around_a_backbone(name):
    config = UNIFUSION_CONFIGS[name]
    with torch.device("meta"):
        around = (
            ()
            if config.encoder == "trained"
            else (SmallViT(ViTConfig(config.embed_dim, heads=config.embed_dim // 64)),)
        )
        model = build(name, *around)
    assert isinstance(model, UniFusion)
    assert model.config == config


def test_a_missing_or_unfit_backbone_is_refused():
    with pytest.raises(ValueError, match="built around a backbone, and none is given"):
        build("unifusion-code")
    with pytest.raises(ValueError, match="trains an encoder of its own, and small-vit-random is given"):
        build("unifusion-no-dinov3", backbone())
    with pytest.raises(ValueError, match="a backbone of 192 channels, stride 16 and 4 taps; small-vit-random has 64"):
        build("unifusion", backbone())
    with pytest.raises(ValueError, match=r"no model is named 'unifuse'; known: .*unifusion-paper"):
        build("unifuse")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": torch.rand(1, 3, 48, 64)}, r"a must be \(N, 1, H, W\), not \(1, 3, 48, 64\)"),
        ({"b": torch.rand(1, 1, 48, 60)}, "one size"),
        ({"a": torch.rand(1, 1, 31, 64), "b": torch.rand(1, 1, 31, 64)}, "at least 32 pixels"),
        ({"code_a": torch.rand(1, 64, 3, 4)}, r"code_a must be \(1, 256, 3, 4\) for images .* not \(1, 64, 3, 4\)"),
        ({"code_b": torch.rand(1, 256, 3, 3)}, r"code_b must be \(1, 256, 3, 4\)"),
        ({"code_b": torch.rand(2, 256, 3, 4)}, r"code_b must be \(1, 256, 3, 4\)"),
    ],
)
def test_bad_input_is_refused(changes, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        model.fuse(**{**inputs(model, 1, (48, 64)), **changes}, edit=torch.zeros(1, 0))


def test_rgb_is_refused_where_the_output_is_luminance():
    model = tiny(FORMS["light"])
    a, b = pair(1, 3, 32, 32)
    with pytest.raises(ValueError, match="output 'blend' is luminance"):
        model.fuse_rgb(a, b, model.encode_rgb(a), model.encode_rgb(b))
    model = tiny()
    with pytest.raises(ValueError, match=r"a must be \(N, 3, H, W\), not \(1, 1, 32, 32\)"):
        model.fuse_rgb(a[:, :1], b, model.encode_rgb(a), model.encode_rgb(b))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"adapter": "flat"}, "adapter must be one of hierarchical, none, not 'flat'"),
        ({"norm": "layer"}, "norm must be one of batch, group"),
        ({"encoder": "tuned"}, "encoder must be one of frozen, trained"),
        ({"output": "mask"}, "output must be one of image, residual, blend"),
        ({"fold": 3}, "fold must be one of 1, 2, 4, not 3"),
        ({"embed_dim": 100}, "embed_dim must be a multiple of 16, not 100"),
        ({"embed_dim": 0}, "embed_dim must be a multiple of 16"),
        ({"embed_dim": 80, "encoder": "trained"}, "64 wide, do not divide embed_dim 80"),
        ({"width": 60}, "multiple of 8 heads, not 60"),
        ({"width": 63, "heads": 7}, "width must be even"),
        ({"heads": 0}, "0 heads"),
        ({"cross_blocks": 0}, "cross_blocks must be 1 or more"),
        ({"whole_sides": -1}, "whole_sides must be 0 or more, not -1"),
        ({"width": 48.0}, "width must be a whole number, not 48.0"),
        ({"embed_dim": "384"}, "embed_dim must be a whole number, not '384'"),
        ({"fold": True}, "fold must be a whole number, not True"),
        ({"skip": "no"}, "skip must be true or false, not 'no'"),
        ({"skip": 0}, "skip must be true or false, not 0"),
        ({"reconstruction_depth": -1}, "reconstruction_depth must be 0 or more"),
        ({"embed_dim": 192, "norm": "group"}, "8 groups do not divide the adapters' 12 channels: .* multiple of 128"),
    ],
)
def test_bad_choices_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        UniFusionConfig(**choice)
