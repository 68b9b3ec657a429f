"""The TITA network as a whole: sizes of all its forms, its interface, and what it must not depend on."""

import pytest
import torch

from models.padding import mirror_to_multiple
from models.registry import build
from models.tita import ABLATIONS, PROFILES, TITA, TITAConfig
from models.tita.layers import DropPath
from models.tita.output import BlendOutput
from models.tita.pixel_attention import TwoKeyAttention
from tests.models.tiny_tita import lively, pair, small

UNUSED_CONVOLUTIONS = 8_430
"""The authors' class has first convolutions for the second stream, which never run."""

PUBLISHED = {
    "sf": (973_681, "0.97M"),
    "irsf": (973_681, "0.97M"),
    "iesf": (973_681, "0.97M"),
    "te": (1_017_361, "1.02M"),
    "pa": (1_135_441, "1.14M"),
    "ipa": (1_135_441, "1.14M"),
    "ti": (1_297_201, "1.30M"),
    "ta": (1_063_345, "1.06M"),
    "full": (1_386_865, "1.39M"),
    "no-hpf": (1_377_005, "1.38M"),
    "no-add": (1_321_823, "1.32M"),
    "no-mul": (1_321_823, "1.32M"),
    "no-dw": (1_379_239, "1.38M"),
}


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def key_biases(model):
    """Biases that the authors' pixel attentions have and that cancel."""
    return sum(m.query.out_features for m in model.modules() if isinstance(m, TwoKeyAttention))


@pytest.mark.parametrize("row", ABLATIONS)
def test_every_row_has_the_published_size(row):
    with torch.device("meta"):
        model = TITA(ABLATIONS[row])
    published, printed = PUBLISHED[row]
    assert count(model) + UNUSED_CONVOLUTIONS + key_biases(model) == published
    assert f"{published / 1e6:.2f}M" == printed


def test_sizes_of_the_profiles():
    with torch.device("meta"):
        sizes = {name: count(TITA(config)) for name, config in PROFILES.items()}
    assert sizes == {"code": 1_377_475, "paper": 1_377_475, "product": 1_398_137}


def test_parameters_part_by_part():
    model = TITA()
    assert count(model.shallow) == 16_560
    assert count(model.norm) == count(model.rebuild_norm) == 120
    assert count(model.extract) == 2 * 123_240
    assert count(model.extract[0].a) == 30_810
    assert count(model.extract[0].a.attention) == 15_990
    assert count(model.interact[0].a, model.interact[0].b) == 61_620
    assert count(model.interact[0].mixer) + 2 * 60 == 40_440
    assert count(model.interact[0].mixer.relation) == 10_920
    assert count(model.fusion.a.compress) == 3_660
    assert {name: count(layer) for name, layer in model.fusion.a.operands.items()} == {
        "hpf": 4_869,
        "add": 32_460,
        "mul": 32_460,
    }
    assert count(model.fusion.predictor) == 7_626
    assert count(model.rebuild) == 123_240
    assert count(model.head) == 16_230 + 4_065 + 136
    assert count(TITA(ABLATIONS["sf"]).fusion) == 64_860


def test_layers_and_shifts_of_each_group():
    def layers(row):
        return [type(layer).__name__ for layer in TITA(small(ABLATIONS[row], fusion_depths=(4, 4))).interact]

    assert layers("full") == ["InterBlock"] * 8
    assert layers("irsf") == ["IntraPair"] * 8
    assert layers("ipa") == (["IntraPair"] * 2 + ["InterBlock"] * 2) * 2
    shifted = [layer.shifted for layer in TITA(small(fusion_depths=(3, 2))).interact]
    assert shifted == [False, True, False, False, True]  # begins anew in each group


def test_drop_path_grows_within_each_part():
    model = TITA(small(extract_depth=4, fusion_depths=(4, 4), rebuild_depth=4))
    rates = [layer.a.drop_path.rate for layer in model.extract]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    assert [layer.drop_path.rate for layer in model.rebuild] == pytest.approx(rates)
    assert [layer.b.drop_path.rate for layer in model.interact] == pytest.approx([i / 70 for i in range(8)])


@pytest.mark.parametrize("row", ABLATIONS)
def test_every_row_keeps_size_and_range_and_uses_all_its_parameters(row):
    model = lively(ABLATIONS[row])
    a, b = pair(2, 1, 33, 40)
    fused = model.fuse_unclamped(a, b, model.encode(a), model.encode(b), a.new_zeros(2, 0))
    assert fused.shape == a.shape
    fused.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    with torch.no_grad():
        fused = model(a, b)
    assert fused.min() >= 0
    assert fused.max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (32, 33), (39, 40), (37, 53)])
def test_any_size(size):
    model = lively()
    a, b = pair(1, 1, *size)
    with torch.no_grad():
        assert model(a, b).shape == (1, 1, *size)


@torch.no_grad()
def test_images_of_a_batch_do_not_mix():
    model = lively()
    a, b = pair(3, 1, 37, 53)
    together = model(a, b)
    alone = torch.cat([model(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@torch.no_grad()
def test_the_streams_are_not_interchangeable():
    model = lively()
    a, b = pair(1, 1, 32, 32)
    assert not torch.allclose(model(a, b), model(b, a), atol=1e-3)


@torch.no_grad()
def test_there_is_nothing_to_encode_and_nothing_to_edit():
    model = TITA(small()).eval()
    a, b = pair(2, 1, 32, 32)
    assert model.encode(a).numel() == 0
    assert len(model.encode(a)) == 2
    assert model.slots == model.default_edit == ()
    assert torch.equal(model(a, b), model.fuse(a, b, model.encode(a), model.encode(b), torch.zeros(2, 0)))


@torch.no_grad()
def test_training_drops_paths_and_evaluation_never_does():
    model = lively(drop_path=0.5)
    a, b = pair(4, 1, 32, 32)
    assert torch.equal(model(a, b), model(a, b))
    without = TITA(small(drop_path=0.0)).train()
    without.load_state_dict(model.state_dict())
    torch.testing.assert_close(without(a, b), model(a, b))
    assert not torch.allclose(model.train()(a, b), model(a, b), atol=1e-3)


def test_a_dropped_path_is_dropped_for_a_sample_and_made_up_for():
    drop = DropPath(0.25)
    kept = drop(torch.ones(4000, 2, 4, 3)).flatten(1)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert kept.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(kept), kept)


@torch.no_grad()
def test_loss_output_is_not_clamped():
    model = lively()
    a, b = pair(1, 1, 32, 32)
    model.head[4].bias.fill_(1.0)
    raw = model.fuse_unclamped(a, b, model.encode(a), model.encode(b), torch.zeros(1, 0))
    assert raw.max() > 1
    assert torch.equal(model(a, b), raw.clamp(0, 1))


@torch.no_grad()
def test_the_authors_padding_adds_a_window_to_sides_that_are_multiples():
    usual, authors = lively(), TITA(small(pad_mode="authors")).eval()
    authors.load_state_dict(usual.state_dict())
    a, b = pair(1, 1, 40, 56)
    larger = usual(mirror_to_multiple(a, 8, at_least=1), mirror_to_multiple(b, 8, at_least=1))
    assert larger.shape[-2:] == (48, 64)
    torch.testing.assert_close(authors(a, b), larger[..., :40, :56])
    assert not torch.allclose(authors(a, b), usual(a, b), atol=1e-4)
    a, b = pair(1, 1, 37, 53)
    assert torch.equal(authors(a, b), usual(a, b))


def test_mirrored_padding_repeats_the_edge():
    x = torch.arange(20.0).reshape(1, 1, 4, 5)
    y = mirror_to_multiple(x, 4, at_least=1)
    assert y.shape == (1, 1, 8, 8)
    assert y[0, 0, :, 0].tolist() == [0, 5, 10, 15, 15, 10, 5, 0]
    assert y[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 4, 3, 2]
    assert torch.equal(mirror_to_multiple(y, 4), y)


@torch.no_grad()
def test_operation_weights_of_a_pair():
    model = TITA(small()).eval()
    a, b = pair(3, 1, 33, 40)
    weights = model.operation_weights(a, b)
    assert weights.shape == (3, 2, 3)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 6), atol=0.01, rtol=0)
    weights = lively().operation_weights(a, b)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(3))
    assert not torch.allclose(weights[0], weights[1], atol=1e-6)
    fixed = TITA(small(ABLATIONS["no-dw"])).operation_weights(a, b)
    torch.testing.assert_close(fixed, torch.full_like(fixed, 1 / 6))
    assert TITA(small(ABLATIONS["no-mul"])).operation_weights(a, b).shape == (3, 2, 2)
    with pytest.raises(ValueError, match="fusion_head='oaf'"):
        TITA(small(ABLATIONS["ti"])).operation_weights(a, b)


def test_autocast_is_close_to_float32():
    model = lively()
    a, b = pair(1, 1, 32, 40)
    with torch.no_grad():
        full = model(a, b)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(a, b)
    assert (low.float() - full).abs().mean() < 0.02
    assert full.std() > 0.05


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("tita", PROFILES["product"]),
        ("tita-code", TITAConfig()),
        ("tita-paper", TITAConfig(relation_act="sigmoid", pixel_heads=1)),
        ("tita-no-dw", TITAConfig(dynamic_weights=False)),
    ],
)
def test_built_by_name_without_a_tokenizer(name, config):
    with torch.device("meta"):
        model = build(name)
    assert isinstance(model, TITA)
    assert model.config == config


def blend(choice, trust, gain, rest, a, b):
    """A blend by the same maps everywhere."""
    output = BlendOutput()
    torch.nn.init.zeros_(output.local[-1].bias)
    maps = torch.tensor([choice, trust, gain, rest]).reshape(1, 4, 1, 1).expand(*a.shape[:1], 4, *a.shape[2:])
    return output(maps, a, b)


@torch.no_grad()
def test_maps_say_how_the_sources_are_blended():
    a, b = pair(1, 1, 40, 40)
    close = lambda fused, expected: torch.testing.assert_close(fused, expected, atol=1e-5, rtol=0)  # noqa: E731
    close(blend(30.0, 0.0, 0.0, 0.0, a, b), a)
    close(blend(-30.0, 0.0, 0.0, 0.0, a, b), b)
    close(blend(0.0, 0.0, 0.0, 0.1, a, b), (a + b) / 2 + 0.1)
    close(blend(30.0, 0.0, 1.0, 0.0, a, b), a + b - 0.5)
    close(blend(0.0, 0.0, 1.0, 0.0, a, b), a + b - 0.5)


@torch.no_grad()
def test_an_untrained_blend_takes_the_sharper_source():
    scene = torch.rand(1, 1, 64, 64)
    blurred = torch.nn.functional.avg_pool2d(scene, 5, stride=1, padding=2)
    left = torch.arange(64) < 32
    a, b = torch.where(left, scene, blurred), torch.where(left, blurred, scene)
    fused = BlendOutput()(torch.zeros(1, 4, 64, 64), a, b)
    assert (fused - scene)[..., :24].abs().max() < 0.01
    assert (fused - scene)[..., 40:].abs().max() < 0.01


@torch.no_grad()
def test_a_token_of_four_pixels_sees_all_of_them():
    model = lively(PROFILES["product"])
    a, b = pair(1, 1, 32, 32)
    before = model(a, b)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        changed = a.clone()
        changed[..., row, column] = 1 - changed[..., row, column]
        assert not torch.allclose(model(changed, b)[..., 16:, 16:], before[..., 16:, 16:], atol=1e-7)


def test_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="tita is built around no tokenizer; models that are: titok-ste"):
        build("tita", object(), None)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64), r"a must be \(N, 1, H, W\), not \(2, 3, 48, 64\)"),
        (torch.rand(1, 1, 48, 64), torch.rand(1, 48, 64), r"b must be \(N, 1, H, W\)"),
        (torch.rand(1, 1, 48, 64), torch.rand(1, 1, 48, 60), "one size"),
        (torch.rand(1, 1, 31, 64), torch.rand(1, 1, 31, 64), "at least 32 pixels"),
    ],
)
def test_bad_input_is_refused(a, b, message):
    model = TITA(small())
    with pytest.raises(ValueError, match=message):
        model(a, b)
    with pytest.raises(ValueError, match=message):
        model.operation_weights(a, b)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"fusion_blocks": "cross"}, "fusion_blocks must be one of inter, mixed, intra, not 'cross'"),
        ({"pixel_attention": "no"}, "pixel_attention must be one of"),
        ({"relation_act": "relu"}, "relation_act must be one of"),
        ({"fusion_head": "max"}, "fusion_head must be one of"),
        ({"pad_mode": "zero"}, "pad_mode must be one of"),
        ({"operations": ()}, "operations must be some of hpf, add, mul"),
        ({"operations": ("add", "add")}, "each once"),
        ({"operations": ("add", "div")}, "hpf, add, mul"),
        ({"heads": 7}, "must divide dim 60"),
        ({"window": 7}, "must be even"),
        ({"drop_path": 1.0}, r"\[0, 1\)"),
    ],
)
def test_bad_choices_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        TITAConfig(**choice)
