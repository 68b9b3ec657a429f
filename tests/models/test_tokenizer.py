"""The tokenizer: sizes, the published key layout, the legacy reshape, quantization, bad checkpoints."""

import pytest
import torch
from torch.nn import functional as F

from models.tokenizer import TOKENIZERS, TokenDecoder, Tokenizer, TokenizerConfig
from models.tokenizer.encoder import legacy_reshape
from models.tokenizer.quantizer import VectorQuantizer

SMALL = TokenizerConfig("small", 32, 2, 4, codebook_size=64, legacy=False, image_size=64, decoder_layers=1)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("titok-l32", 303_492_108), ("titok-b64", 86_002_956), ("titok-s128", 25_933_324)],
)
def test_published_sizes_have_the_published_parameter_counts(name, parameters):
    with torch.device("meta"):
        assert count(Tokenizer(TOKENIZERS[name])) == parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [("t32-tiny6", 2.88), ("t32-tiny12", 5.55), ("t32-256", 6.60), ("t32-small6", 11.07)],
)
def test_local_family_has_the_documented_encoder_sizes(name, millions):
    with torch.device("meta"):
        assert count(Tokenizer(TOKENIZERS[name]).encoder) / 1e6 == pytest.approx(millions, abs=0.012)


def test_state_dict_uses_the_published_names_and_shapes():
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in Tokenizer(TOKENIZERS["titok-l32"]).state_dict().items()}
    expected = {
        "latent_tokens": (32, 1024),
        "encoder.class_embedding": (1, 1024),
        "encoder.positional_embedding": (257, 1024),
        "encoder.latent_token_positional_embedding": (32, 1024),
        "encoder.patch_embed.weight": (1024, 3, 16, 16),
        "encoder.transformer.23.attn.in_proj_weight": (3072, 1024),
        "encoder.transformer.23.attn.out_proj.bias": (1024,),
        "encoder.transformer.0.mlp.c_fc.weight": (4096, 1024),
        "encoder.conv_out.weight": (12, 1024, 1, 1),
        "quantize.embedding.weight": (4096, 12),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_legacy_reshape_follows_the_index_formula():
    K, W = 32, 96
    x = torch.arange(K * W, dtype=torch.float32).reshape(1, K, W)
    y = legacy_reshape(x)
    for w, k in ((0, 0), (1, 5), (40, 31), (95, 12)):
        t, d = divmod(w * K + k, W)
        assert y[0, w, k] == x[0, t, d]


def test_legacy_and_plain_tokenizers_differ_only_in_the_reshape():
    plain = Tokenizer(SMALL)
    legacy = Tokenizer(TokenizerConfig(**{**SMALL.__dict__, "legacy": True}))
    legacy.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(plain.tokens(image), legacy.tokens(image))


@pytest.mark.parametrize("size", [(64, 64), (33, 77), (200, 120)])
def test_codes_are_unit_norm_rows_of_the_codebook_for_any_size(size):
    tokenizer = Tokenizer(SMALL).eval()
    with torch.no_grad():
        code = tokenizer.encode(torch.rand(2, 1, *size))
    assert code.shape == (2, 32, 12)
    torch.testing.assert_close(code.norm(dim=-1), torch.ones(2, 32))
    book = F.normalize(tokenizer.quantize.embedding.weight, dim=-1)
    assert ((code.reshape(-1, 1, 12) - book).abs().amax(-1).amin(-1) < 1e-6).all()


def test_pre_norm_skips_the_codebook():
    tokenizer = Tokenizer(SMALL, z_source="pre_norm").eval()
    image = torch.rand(1, 1, 64, 64)
    expected = F.normalize(tokenizer.tokens(tokenizer.prepare(image)), dim=-1)
    torch.testing.assert_close(tokenizer.encode(image), expected)


def test_unknown_z_source_is_refused():
    with pytest.raises(ValueError, match="z_source"):
        Tokenizer(SMALL, z_source="raw")


def test_quantizer_returns_the_nearest_code_and_passes_the_gradient():
    quantizer = VectorQuantizer(16, 4)
    torch.nn.init.normal_(quantizer.embedding.weight)
    z = torch.randn(2, 3, 4, requires_grad=True)
    out = quantizer(z)
    book = F.normalize(quantizer.embedding.weight, dim=-1)
    expected = torch.cdist(F.normalize(z, dim=-1), book.expand(2, -1, -1)).argmin(-1)
    assert torch.equal(out.indices, expected)
    out.codes.sum().backward()
    assert z.grad.abs().sum() > 0
    assert out.loss > 0


def test_reseeding_moves_only_unused_codes():
    quantizer = VectorQuantizer(8, 4)
    before = quantizer.embedding.weight.detach().clone()
    unused = torch.tensor([True, False] * 4)
    assert quantizer.reseed(unused, torch.randn(5, 4)) == 4
    after = quantizer.embedding.weight.detach()
    assert torch.equal(after[~unused], before[~unused])
    torch.testing.assert_close(after[unused].norm(dim=-1), torch.ones(4))


def test_reseeding_gives_every_code_a_direction_of_its_own():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(64, 4)
    tokens = torch.randn(64, 4)
    assert quantizer.reseed(torch.ones(64, dtype=torch.bool), tokens) == 64
    found, given = (sorted(x.tolist()) for x in (quantizer.embedding.weight.detach(), F.normalize(tokens, dim=-1)))
    assert found == given


def test_reseeding_with_too_few_directions_leaves_the_other_codes_where_they_are():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 4)
    before = quantizer.embedding.weight.detach().clone()
    unused = torch.tensor([True, True, True, True, True, True, False, False])
    tokens = torch.randn(3, 4)[[0, 0, 0, 1, 1, 2, 2]]
    assert quantizer.reseed(unused, tokens) == 3
    after = quantizer.embedding.weight.detach()
    moved = (after != before).any(dim=1)
    assert moved.sum() == 3
    assert not moved[~unused].any()
    assert len(after.unique(dim=0)) == 8


def test_decoder_rebuilds_an_image_of_the_tokenizers_size():
    image = TokenDecoder(SMALL)(F.normalize(torch.randn(2, 32, 12), dim=-1))
    assert image.shape == (2, 3, 64, 64)


def test_decoder_is_refused_for_published_tokenizers():
    with pytest.raises(ValueError, match="t32"):
        TokenDecoder(TOKENIZERS["titok-l32"])


def test_published_checkpoint_loads_with_decoder_keys_ignored():
    source, target = Tokenizer(SMALL), Tokenizer(SMALL)
    target.load_published({**source.state_dict(), "decoder.mask_token": torch.zeros(1)})
    assert target.tokenizer_id == source.tokenizer_id


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_foreign_checkpoint_is_refused_by_name(fault):
    state = Tokenizer(SMALL).state_dict()
    if fault == "missing":
        del state["encoder.conv_out.weight"]
    else:
        state["encoder.conv_out.weight"] = torch.zeros(16, 32, 1, 1)
    with pytest.raises(ValueError, match=r"small.*encoder\.conv_out\.weight"):
        Tokenizer(SMALL).load_published(state)


def test_identity_changes_with_the_weights():
    tokenizer = Tokenizer(SMALL)
    before = tokenizer.tokenizer_id
    with torch.no_grad():
        tokenizer.latent_tokens[0, 0] += 1
    assert tokenizer.tokenizer_id != before


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"patch_size": 24}])
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ValueError, match="small"):
        TokenizerConfig(**{**SMALL.__dict__, **wrong})
