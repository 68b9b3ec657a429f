from dataclasses import replace

import pytest
import torch

from models.registry import TOKEN_MODELS, build
from models.titok_ste import PROFILES, TiTokSTE, TiTokSTEConfig

TINY = TiTokSTEConfig(width=16, stem_blocks=1, decoder_blocks=1, detail_nodes=1)
PRODUCT = replace(TINY, ref_mode="salient", fold=2, style=True, gains=True)


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.fixture(params=[TINY, PRODUCT], ids=["paper", "product"])
def model(request, tokenizer, slots):
    model = TiTokSTE(tokenizer, slots, request.param).eval()
    with torch.no_grad():
        model.ste.delta.copy_(torch.tensor([[0.2, -0.2, 0.1], [-0.1, 0.2, 0.2]]))
        if model.config.gains:
            model.head[-1].weight.normal_(0, 0.01)
        model.head[-1].weight.mul_(10)
        if model.style is not None:
            model.style.weight.normal_(0, 0.02)
    return model


def pair(model, size=(48, 64), batch=2):
    a, b = torch.rand(2, batch, 1, *size)
    return a, b, model.encode(a), model.encode(b)


@pytest.mark.parametrize(
    ("profile", "parameters"),
    [
        ("paper", 1_325_111),
        ("product", 1_381_303),
        ("d48", 769_727),
        ("d32", 369_223),
        ("d32-short", 319_655),
    ],
)
def test_parameters(profile, parameters, tokenizer, slots):
    model = TiTokSTE(tokenizer, slots, PROFILES[profile])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


def test_parameters_part_by_part(tokenizer, slots):
    model = TiTokSTE(tokenizer, slots, PROFILES["paper"])
    assert count(model.token_map) == 137_409
    assert count(model.stem) == 181_024
    assert count(model.base_branch) == 363_016
    assert count(model.detail_branch) == 54_528
    assert count(model.base_fusion) == 363_016
    assert count(model.detail_fusion) == 18_176
    assert count(model.projector) == 8_192
    assert count(model.decoder) == 181_024
    assert count(model.head) == 18_432 + 288
    assert count(model.ste) == 6


def test_groups_hold_every_parameter_once(model):
    groups = [*model.stage1_parameters(), *model.fusion_parameters(), *model.edit_parameters()]
    assert len({id(p) for p in groups}) == len(groups)
    assert {id(p) for p in groups} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("name", TOKEN_MODELS)
def test_every_registered_model_keeps_size_and_range(name, tokenizer, slots):
    model = build(name, tokenizer, slots).eval()
    a, b = torch.rand(2, 1, 1, 35, 50)
    with torch.no_grad():
        fused = model(a, b)
    assert fused.shape == a.shape
    assert fused.min() >= 0
    assert fused.max() <= 1
    assert len(model.default_edit) == len(model.slots)


def test_unknown_model_lists_the_known():
    with pytest.raises(ValueError, match="no model is named 'x'; known: titok-ste"):
        build("x")


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (65, 34)])
def test_any_size_and_batch(model, size):
    a, b, code_a, code_b = pair(model, size, batch=3)
    assert model.fuse(a, b, code_a, code_b, torch.rand(3, 2)).shape == (3, 1, *size)


def test_images_of_a_batch_do_not_mix(model):
    a, b, code_a, code_b = pair(model)
    edit = torch.tensor([[1.0, 0.0], [0.5, 1.5]])
    with torch.no_grad():
        both = model.fuse_unclamped(a, b, code_a, code_b, edit)
        second = model.fuse_unclamped(a[1:], b[1:], code_a[1:], code_b[1:], edit[1:])
    assert torch.allclose(both[1:], second, atol=1e-5)


def test_zero_strength_equals_editing_off(model, tokenizer):
    a, b, code_a, code_b = pair(model)
    without = TiTokSTE(tokenizer, None, model.config).eval()
    without.load_state_dict({**model.state_dict(), "ste.delta": torch.zeros(0, 0)})
    with torch.no_grad():
        zero = model.fuse(a, b, code_a, code_b, torch.zeros(2, 2))
        one = model.fuse(a, b, code_a, code_b, torch.ones(2, 2))
        model.ste.enabled = False
        assert torch.equal(zero, model.fuse(a, b, code_a, code_b, torch.ones(2, 2)))
        assert torch.equal(zero, without.fuse(a, b, code_a, code_b, torch.zeros(2, 0)))
    assert not torch.equal(zero, one)
    assert without.slots == ()


def test_strength_is_clipped_inside(model):
    a, b, code_a, code_b = pair(model)
    with torch.no_grad():
        for outside, inside in ((9.0, 2.0), (-3.0, 0.0)):
            x = model.fuse(a, b, code_a, code_b, torch.full((2, 2), outside))
            assert torch.allclose(x, model.fuse(a, b, code_a, code_b, torch.full((2, 2), inside)), atol=1e-6)


@pytest.mark.parametrize("ref_mode", ["sum", "centred", "salient", "mean", "max"])
def test_symmetric_in_its_images(tokenizer, slots, ref_mode):
    model = TiTokSTE(tokenizer, slots, TiTokSTEConfig(16, 1, 1, 1, ref_mode=ref_mode)).eval()
    a, b, code_a, code_b = pair(model)
    edit = torch.ones(2, 2)
    with torch.no_grad():
        ab, ba = model.fuse(a, b, code_a, code_b, edit), model.fuse(b, a, code_b, code_a, edit)
    torch.testing.assert_close(ab, ba, atol=1e-6, rtol=0)


def test_gains_start_at_the_reference_and_spare_places_without_structure(tokenizer, slots):
    model = TiTokSTE(tokenizer, slots, PRODUCT).eval()
    a, b, code_a, code_b = pair(model)
    a[..., 24:], b[..., 24:] = 0.4, 0.4
    with torch.no_grad():
        torch.testing.assert_close(model.fuse_unclamped(a, b, code_a, code_b, torch.ones(2, 2)), model.reference(a, b))
        model.head[-1].weight[6:8].normal_(0, 0.5)  # gains of the fine parts
        moved = (model.fuse_unclamped(a, b, code_a, code_b, torch.ones(2, 2)) - model.reference(a, b)).abs()
    assert float(moved[..., :16].mean()) > 1e-3
    assert float(moved[..., 44:].max()) < 1e-6


def test_style_lets_an_edit_reach_every_channel_of_the_features(tokenizer, slots):
    model = TiTokSTE(tokenizer, slots, PRODUCT).eval()
    image, _, code, _ = pair(model)
    edited = code + model.ste.scatter[0, 0]
    with torch.no_grad():
        model.token_map.spread.weight.zero_()
        before = model.features(image, code), model.features(image, edited)
        model.style.weight.normal_(0, 0.02)
        after = model.features(image, code), model.features(image, edited)
    assert torch.equal(before[0].base, before[1].base)
    assert ((after[0].base - after[1].base).abs().amax(dim=(0, 2, 3)) > 0).all()


def test_the_mean_level_of_the_whole_image_can_be_given_for_a_crop(model):
    a, b, code_a, code_b = pair(model)
    features = model.features(a, code_a), model.features(b, code_b)
    own = 0.5 * (a + b).mean(dim=(1, 2, 3), keepdim=True)
    with torch.no_grad():
        plain, given = (model.decode_pair(a, b, *features, centre=c) for c in (None, own))
        other = model.decode_pair(a, b, *features, centre=own + 0.1)
    torch.testing.assert_close(plain, given)
    moves = model.config.ref_mode in ("centred", "salient")
    assert bool((other - plain).abs().max() > 1e-3) == moves


def test_reference_modes(tokenizer):
    a, b = torch.tensor([0.2, 0.9]).reshape(1, 1, 1, 2), torch.tensor([0.6, 0.5]).reshape(1, 1, 1, 2)
    expected = {"sum": [0.8, 1.4], "mean": [0.4, 0.7], "max": [0.6, 0.9], "a": [0.2, 0.9], "centred": [0.25, 0.849]}
    for mode, value in expected.items():
        model = TiTokSTE(tokenizer, None, TiTokSTEConfig(16, 1, 1, 1, ref_mode=mode))
        torch.testing.assert_close(model.reference(a, b).flatten(), torch.tensor(value), atol=1e-3, rtol=0)


def test_gradient_reaches_the_offsets_and_never_the_tokenizer(model):
    a, b = torch.rand(2, 1, 1, 40, 40)
    loss = (model.fuse_unclamped(a, b, model.encode(a), model.encode(b), torch.ones(1, 2)) - 0.5).abs().mean()
    loss.backward()
    assert (model.ste.delta.grad != 0).all()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.tokenizer.parameters())


def test_loss_output_is_not_clamped(model):
    a, b, code_a, code_b = pair(model)
    model.ste.enabled = False
    with torch.no_grad():
        model.head[-1].weight.mul_(100)
        raw = model.fuse_unclamped(a, b, code_a, code_b, torch.ones(2, 2))
        assert torch.equal(model.fuse(a, b, code_a, code_b, torch.ones(2, 2)), raw.clamp(0, 1))
    assert raw.min() < 0 or raw.max() > 1


def test_stage1_uses_neither_fusion_nor_editing(model):
    image = torch.rand(1, 1, 40, 40)
    code = model.encode(image)
    for reference in (image, torch.zeros_like(image)):
        out = model.decode_single(model.features(image, code), reference)
        assert out.shape == image.shape
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.stage1_parameters())
    assert all(p.grad is None for p in [*model.fusion_parameters(), *model.edit_parameters()])


def test_residual_starts_small(tokenizer):
    model = TiTokSTE(tokenizer, None, TINY).eval()
    image = torch.rand(1, 1, 48, 48)
    residual = model.decode_single(model.features(image, model.encode(image)), torch.zeros_like(image))
    assert 0 < residual.abs().max() < 0.1


def test_features_for_the_decomposition_loss(model):
    a, _, code, _ = pair(model)
    features = model.features(a, code)
    fold = model.config.fold
    assert features.base.shape == features.detail.shape == (2, 16, 48 // fold, 64 // fold)


def test_a_crop_with_its_box_is_accepted(model):
    whole, other, code_a, code_b = pair(model, (64, 64), batch=1)
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    crops = [x[..., 16:48, 16:48] for x in (whole, other)]
    boxed = model.fuse_unclamped(*crops, code_a, code_b, torch.ones(1, 2), box=box)
    assert boxed.shape == (1, 1, 32, 32)
    assert not torch.equal(boxed, model.fuse_unclamped(*crops, code_a, code_b, torch.ones(1, 2)))


def test_sigmoid_output_stays_inside(tokenizer):
    model = TiTokSTE(tokenizer, None, TiTokSTEConfig(16, 1, 1, 1, ref_mode="sum", out_mode="sigmoid")).eval()
    a, b, code_a, code_b = pair(model)
    out = model.fuse_unclamped(a, b, code_a, code_b, torch.zeros(2, 0))
    assert out.min() > 0
    assert out.max() < 1


def test_tokenizer_is_neither_saved_nor_trained_nor_cast(model):
    frozen = {p.data_ptr() for p in model.tokenizer.parameters()}
    assert frozen.isdisjoint(value.data_ptr() for value in model.state_dict().values())
    assert frozen.isdisjoint(p.data_ptr() for p in model.parameters())
    model.train()
    assert not model.tokenizer.training
    model.bfloat16()
    assert model.projector.weight.dtype == torch.bfloat16
    assert model.tokenizer.project.weight.dtype == torch.float32
    code = model.encode(torch.rand(1, 1, 32, 32))
    assert code.dtype == torch.float32
    assert not code.requires_grad


def test_encode_keeps_float32_under_autocast(model):
    image = torch.rand(1, 1, 40, 40)
    expected = model.encode(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode(image), expected)


def test_autocast_is_close_to_float32(model):
    a, b, code_a, code_b = pair(model, (32, 32), batch=2)
    edit = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.fuse_unclamped(a, b, code_a, code_b, edit)
    full = model.fuse_unclamped(a, b, code_a, code_b, edit)
    assert torch.allclose(low.float(), full, atol=0.02)


def test_slots_of_another_tokenizer_are_refused(make_tokenizer, slots):
    with pytest.raises(ValueError, match="probed on the tokenizer 'stub:0'"):
        TiTokSTE(make_tokenizer(tokenizer_id="stub:1"), slots, TINY)


@pytest.mark.parametrize("num_tokens", [64, 128])
def test_other_token_counts(make_tokenizer, num_tokens):
    model = TiTokSTE(make_tokenizer(num_tokens), None, TINY).eval()
    assert model(*torch.rand(2, 1, 1, 32, 40)).shape == (1, 1, 32, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.rand(2, 3, 48, 64)}, r"a must be \(N, 1, H, W\), not \(2, 3, 48, 64\)"),
        ({"b": torch.rand(1, 48, 64)}, r"b must be \(N, 1, H, W\)"),
        ({"b": torch.rand(2, 1, 48, 60)}, "one size"),
        ({"a": torch.rand(2, 1, 31, 64)}, "at least 32 pixels"),
        ({"code_b": torch.rand(2, 16, 12)}, r"code_b must be \(N, 32, 12\), not \(2, 16, 12\)"),
        ({"edit": torch.rand(2, 1)}, r"strength must be \(N, 2\)"),
    ],
)
def test_bad_input_is_refused(model, change, message):
    a, b, code_a, code_b = pair(model)
    inputs = {"a": a, "b": b, "code_a": code_a, "code_b": code_b, "edit": torch.ones(2, 2), **change}
    with pytest.raises(ValueError, match=message):
        model.fuse(**inputs)


@pytest.mark.parametrize("choice", [{"ref_mode": "b"}, {"out_mode": "tanh"}, {"lift_act": "relu"}])
def test_bad_choices_are_refused(tokenizer, choice):
    with pytest.raises(ValueError, match=next(iter(choice))):
        TiTokSTE(tokenizer, None, TiTokSTEConfig(**choice))
