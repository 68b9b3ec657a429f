"""The published TiTok in full: sizes, key layout, legacy index formula, parity with an independent encoder, quirks."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models.tokenizer import TOKENIZERS, TiTok, Tokenizer, TokenizerConfig
from models.tokenizer.encoder import TiTokEncoder
from models.tokenizer.maskgit import PixelDecoder, ResidualBlock

TINY = TokenizerConfig("tiny", 32, 2, 4, num_tokens=8, codebook_size=64, image_size=32, pixel_width=32)
PUBLISHED = ["titok-l32", "titok-b64", "titok-s128"]


def count(module):
    return sum(p.numel() for p in module.parameters())


@cache
def published(name):
    with torch.device("meta"):
        return TiTok(TOKENIZERS[name])


@pytest.mark.parametrize(
    ("name", "total", "decoder", "tensors"),
    [
        ("titok-l32", 641_054_735, 306_822_144, 692),
        ("titok-b64", 204_814_095, 88_070_656, 404),
        ("titok-s128", 83_674_639, 27_000_832, 308),
    ],
)
def test_parameters_are_those_of_the_published_files(name, total, decoder, tensors):
    model = published(name)
    assert count(model) == total
    assert count(model.decoder) == decoder
    assert count(model.pixel_decoder) == 30_478_339
    assert len(model.state_dict()) == tensors


@pytest.mark.parametrize(("name", "decoder_gmac"), [("titok-l32", 92.45), ("titok-b64", 29.87), ("titok-s128", 11.31)])
def test_multiply_adds_are_the_measured_ones(name, decoder_gmac):
    model = published(name)
    codes = torch.zeros(1, model.num_tokens, 12, device="meta")
    with FlopCounterMode(display=False) as decoder:
        logits = model.decoder(codes)
    with FlopCounterMode(display=False) as pixels:
        image = model.pixel_decoder(torch.zeros(1, 256, 16, 16, device="meta"))
    assert logits.shape == (1, 1024, 16, 16)
    assert image.shape == (1, 3, 256, 256)
    assert decoder.get_total_flops() / 2e9 == pytest.approx(decoder_gmac, abs=0.005)
    assert pixels.get_total_flops() / 2e9 == pytest.approx(93.27, abs=0.005)


def test_names_and_shapes_are_the_published_ones():
    shapes = {name: tuple(value.shape) for name, value in published("titok-l32").state_dict().items()}
    expected = {
        "decoder.class_embedding": (1, 1024),
        "decoder.positional_embedding": (257, 1024),
        "decoder.mask_token": (1, 1, 1024),
        "decoder.latent_token_positional_embedding": (32, 1024),
        "decoder.decoder_embed.weight": (1024, 12),
        "decoder.ln_pre.weight": (1024,),
        "decoder.ln_post.bias": (1024,),
        "decoder.transformer.23.attn.in_proj_weight": (3072, 1024),
        "decoder.transformer.0.mlp.c_proj.weight": (1024, 4096),
        "decoder.ffn.0.weight": (2048, 1024, 1, 1),
        "decoder.ffn.2.weight": (1024, 2048, 1, 1),
        "pixel_quantize.embedding.weight": (1024, 256),
        "pixel_decoder.conv_in.weight": (512, 256, 3, 3),
        "pixel_decoder.mid.1.conv2.weight": (512, 512, 3, 3),
        "pixel_decoder.up.4.upsample_conv.bias": (512,),
        "pixel_decoder.up.3.block.0.conv1.weight": (256, 512, 3, 3),
        "pixel_decoder.up.3.block.0.nin_shortcut.weight": (256, 256, 1, 1),
        "pixel_decoder.up.1.block.0.nin_shortcut.weight": (128, 128, 1, 1),
        "pixel_decoder.norm_out.weight": (128,),
        "pixel_decoder.conv_out.weight": (3, 128, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert sum("nin_shortcut" in name for name in shapes) == 2
    assert not any("upsample" in name for name in shapes if name.startswith("pixel_decoder.up.0"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_codes_follow_the_legacy_index_formula(name):
    """Channel w of position k is feature d of token t with t W + d = w K + k, at the published widths."""
    own = TOKENIZERS[name]
    config = TokenizerConfig("no-blocks", own.width, 0, own.heads, num_tokens=own.num_tokens)
    encoder = TiTokEncoder(config).requires_grad_(False)
    K, W = own.num_tokens, own.width
    latents = torch.randn(K, W)
    found = encoder(torch.zeros(1, 3, 256, 256), latents)[0]  # (K, 12)
    x = encoder.ln_post(encoder.ln_pre(latents + encoder.latent_token_positional_embedding))  # (K, W)
    flat = torch.arange(W)[:, None] * K + torch.arange(K)  # (W, K)
    features = x[flat // W, flat % W]  # (W, K)
    weight, bias = encoder.conv_out.weight[:, :, 0, 0], encoder.conv_out.bias
    torch.testing.assert_close(found, (weight @ features).T + bias, atol=2e-6, rtol=1e-5)


def test_position_12_of_l32_reads_every_token_at_stride_32():
    K, W = 32, 1024
    flat = torch.arange(W) * K + 12
    assert set((flat // W).tolist()) == set(range(K))
    assert set((flat % W % K).tolist()) == {12}


class ReferenceBlock(nn.Module):
    """The same block out of PyTorch's own parts, sequence first."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


def reference_blocks(part):
    blocks = [ReferenceBlock(TINY.width, TINY.heads) for _ in part.transformer]
    for block, own in zip(blocks, part.transformer, strict=True):
        block.load_state_dict(own.state_dict(), strict=True)
    return nn.Sequential(*blocks)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    model = TiTok(TINY).eval().requires_grad_(False)
    for parameter in model.parameters():  # biases start at zero, and would hide a mistake in their order
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    nn.init.normal_(model.quantize.embedding.weight)
    return model


def test_encoder_equals_one_of_standard_parts(tiny):
    image, e = torch.rand(2, 3, 32, 32), tiny.encoder
    patches = image.unfold(2, 16, 16).unfold(3, 16, 16)  # (N, 3, 2, 2, 16, 16)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(2, 4, 768)
    x = patches @ e.patch_embed.weight.reshape(32, 768).T + e.patch_embed.bias
    x = torch.cat([e.class_embedding.expand(2, 1, -1), x], dim=1) + e.positional_embedding
    latents = tiny.latent_tokens + e.latent_token_positional_embedding
    x = e.ln_pre(torch.cat([x, latents.expand(2, -1, -1)], dim=1))
    x = e.ln_post(reference_blocks(e)(x.transpose(0, 1)).transpose(0, 1)[:, -8:])
    z = e.conv_out(x.reshape(2, 32, 8, 1)).reshape(2, 12, 1, 8)  # as the public code lays codes out
    torch.testing.assert_close(tiny.tokens(image), z.squeeze(2).transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_decoder_equals_one_of_standard_parts(tiny):
    codes, d = F.normalize(torch.randn(2, 8, 12), dim=-1), tiny.decoder
    masks = torch.cat([d.class_embedding, d.mask_token[0].expand(4, -1)]) + d.positional_embedding
    latents = codes @ d.decoder_embed.weight.T + d.decoder_embed.bias + d.latent_token_positional_embedding
    x = d.ln_pre(torch.cat([masks.expand(2, -1, -1), latents], dim=1))
    x = d.ln_post(reference_blocks(d)(x.transpose(0, 1)).transpose(0, 1)[:, 1:5])
    logits = d.ffn[2](torch.tanh(d.ffn[0](x.transpose(1, 2).reshape(2, 32, 2, 2))))
    torch.testing.assert_close(d(codes), logits, atol=1e-5, rtol=1e-4)
    soft = torch.einsum("nchw,cd->ndhw", logits.softmax(1), tiny.pixel_quantize.embedding.weight)
    torch.testing.assert_close(tiny.pixel_quantize(logits), soft)
    torch.testing.assert_close(tiny.decode(codes), tiny.pixel_decoder(soft).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_shortcut_is_fed_with_the_output_of_its_block():
    block = ResidualBlock(64, 32)
    x = torch.randn(1, 64, 8, 8)
    with torch.no_grad():
        whole = block(x)
        block.nin_shortcut.weight.zero_()
        convolutions = block(x)
        block.conv2.weight.zero_()
        assert torch.equal(block(x), torch.zeros_like(whole))  # nothing goes around the convolutions
        block.nin_shortcut.weight.copy_(torch.eye(32)[:, :, None, None])
    assert not torch.allclose(whole, convolutions)
    same = ResidualBlock(32, 32)
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x[:, :32]), x[:, :32])


def test_pixel_decoder_enlarges_sixteen_times():
    assert PixelDecoder(256, 32)(torch.randn(1, 256, 2, 3)).shape == (1, 3, 32, 48)


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstruction_is_an_image_of_the_tokenizers_size(tiny, channels):
    image = tiny.reconstruct(torch.rand(2, channels, 50, 41))
    assert image.shape == (2, 3, 32, 32)
    assert image.min() >= 0
    assert image.max() <= 1


def test_identity_and_codes_are_those_of_the_plain_tokenizer(tiny):
    plain = Tokenizer(TINY).eval()
    plain.load_published(tiny.state_dict())
    image = torch.rand(2, 1, 40, 40)
    assert plain.tokenizer_id == tiny.tokenizer_id
    assert torch.equal(plain.indices(image), tiny.indices(image))
    with torch.no_grad():
        assert torch.equal(plain.quantize.lookup(plain.indices(image)), plain.encode(image))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("pixel_decoder.conv_in.weight"), r"lacks pixel_decoder\.conv_in\.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "unknown tensors extra"),
        (lambda state: state.update({"decoder.mask_token": torch.zeros(1, 1, 3)}), r"decoder\.mask_token has shape"),
    ],
)
def test_a_checkpoint_that_is_not_this_model_is_refused(tiny, change, message):
    state = tiny.state_dict()
    change(state)
    with pytest.raises(ValueError, match=f"tiny.*{message}"):
        TiTok(TINY).load_published(state)


def test_a_local_tokenizer_has_no_published_decoder():
    with pytest.raises(ValueError, match="t32-256"):
        TiTok(TOKENIZERS["t32-256"])
