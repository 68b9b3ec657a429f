"""TiTok+STE lite: the same interface and ideas as the paper-size model, sized for CPUs.

The base is low-frequency, so it is computed at an eighth of the resolution; the details run through a few plain
convolutions on pixels folded 2×2 into channels. The output is a local mix of the sources plus a residual:

    F = compress(g_a A + g_b B + o) + r

with smooth gain and offset maps (g_a, g_b, o) from the base path and the detail residual r at full resolution. At
initialisation g_a = g_b = 1, o = -(mean A + mean B) / 2 and r = 0: the centred sum of the sources, its ends compressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import BaseBlock, RestormerBlock
from models.interface import TokenSource
from models.padding import replicate_to_multiple
from models.ste import SlotSpec
from models.token_fusion import Features, TokenFusionModel
from models.token_map import resize
from models.tone import compress, compress_white, mean_level

_TINY = 1e-6

FOLD = 8
"""The base path works at 1/8 of the resolution, so images are padded to a multiple of 8 inside the graph."""


@dataclass(frozen=True)
class LiteConfig:
    """Sizes of the lite model.

    Attributes:
        width: Channels of the base path.
        heads: Heads of its channel attention.
        stem_blocks: Restormer blocks per source in the base path.
        context: Channels that the base path hands to the detail path, per source.
        detail: Channels of the detail path per source; the fused part has twice as many.
        fusion_layers: 3×3 convolutions of the fused detail path.
        map_size: Side of the coarse map that the tokens become.
        mix: How the sources are mixed: ``sum`` about the mean level (scenes), or ``power``, the root of the sum of
            squares, which leaves black where both sources are black (medical slices).
        knee: Tones of the mix this close to black and white, and beyond, are compressed instead of clipped.
    """

    width: int = 32
    heads: int = 4
    stem_blocks: int = 2
    context: int = 4
    detail: int = 16
    fusion_layers: int = 4
    map_size: int = 32
    mix: Literal["sum", "power"] = "sum"
    knee: float = 0.2


class TokenMap(nn.Module):
    """Token-to-map interface: lift C -> D, token axis K -> map positions, one local residual convolution."""

    def __init__(self, num_tokens: int, token_dim: int, width: int, map_size: int) -> None:
        super().__init__()
        self.map_size = map_size
        self.lift = nn.Linear(token_dim, width)
        self.spread = nn.Linear(num_tokens, map_size**2, bias=False)
        self.local = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.gamma = nn.Parameter(torch.tensor(0.1))

    def forward(self, code: Tensor) -> Tensor:
        """Map (N, K, C) tokens to (N, D, map_size, map_size)."""
        lifted = F.gelu(self.lift(code)).transpose(1, 2)  # (N, D, K)
        y = self.spread(lifted).unflatten(-1, (self.map_size, self.map_size))
        return y + self.gamma * F.gelu(self.local(y))


class LiteEncoder(nn.Module):
    """Splits one source and its tokens into base and detail features. Both sources share the weights.

    The tokens act twice: as a coarse map under the image's own low-frequency features, and as one global scale and
    shift of the base channels.
    """

    def __init__(self, config: LiteConfig, *, num_tokens: int, token_dim: int) -> None:
        super().__init__()
        D = config.width
        self.token_map = TokenMap(num_tokens, token_dim, D, config.map_size)
        self.down = nn.Sequential(
            nn.Conv2d(4, D // 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(D // 2, D, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.merge = nn.Conv2d(2 * D, D, 1)
        self.style = nn.Linear(num_tokens * token_dim, 2 * D)
        nn.init.zeros_(self.style.weight)
        nn.init.zeros_(self.style.bias)
        self.stem = nn.Sequential(*(RestormerBlock(D, heads=config.heads) for _ in range(config.stem_blocks)))
        self.context = nn.Conv2d(D, config.context, 1)
        self.detail = nn.Sequential(
            nn.Conv2d(4 + config.context, config.detail, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.detail, config.detail, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, image: Tensor, code: Tensor, box: Tensor | None = None) -> Features:
        """Encode a padded source (N, 1, H, W), H and W multiples of 8, and its edited tokens (N, K, C).

        ``box``, (N, 4), is the place of a crop in the image that was encoded; None if it is the whole.
        """
        folded = F.pixel_unshuffle(image, 2)  # (N, 4, H/2, W/2)
        e = self.down(folded)  # (N, D, H/8, W/8)
        y = resize(self.token_map(code), e.shape[-2:], box)
        base = self.stem(F.gelu(self.merge(torch.cat([y, e], dim=1))))
        # an edit is a constant shift of one token: the map alone carries it too weakly to be learnt soon
        scale, shift = self.style(code.flatten(1))[..., None, None].chunk(2, dim=1)  # (N, D, 1, 1) each
        base = base * (1.0 + scale) + shift
        context = F.interpolate(self.context(base), size=folded.shape[-2:], mode="bilinear", align_corners=False)
        return Features(base, self.detail(torch.cat([folded, context], dim=1)))


class TiTokSTELite(TokenFusionModel):
    """The lite profile of TiTok+STE (about 14 kMAC per pixel for ``fuse``).

    Args:
        tokenizer: Frozen by this constructor.
        slots: Where tokens are edited; ``None`` for a model without edit slots.
        config: Sizes.
    """

    def __init__(self, tokenizer: TokenSource, slots: SlotSpec | None, config: LiteConfig | None = None) -> None:
        super().__init__(tokenizer, slots)
        self.config = config = config or LiteConfig()
        D, C = config.width, 2 * config.detail
        self.encoder = LiteEncoder(config, num_tokens=tokenizer.num_tokens, token_dim=tokenizer.token_dim)
        self.base_merge = nn.Conv2d(2 * D, D, 1)
        self.base_fusion = BaseBlock(D, heads=config.heads)
        self.base_out = nn.Conv2d(D, 3, 1)
        self.detail_fusion = nn.Sequential(
            *(layer for _ in range(config.fusion_layers) for layer in (nn.Conv2d(C, C, 3, padding=1), nn.ReLU()))
        )
        self.detail_out = nn.Conv2d(C, 4, 3, padding=1)
        for last in (self.base_out, self.detail_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def features(
        self, image: Tensor, code: Tensor, *, edit: Tensor | None = None, box: Tensor | None = None
    ) -> Features:
        """Base and detail features of one source whose sides are multiples of 8; see the base class."""
        return self.encoder(image, code if edit is None else self.ste(code, edit), box)

    def decode_pair(
        self, a: Tensor, b: Tensor, features_a: Features, features_b: Features, *, centre: Tensor | None = None
    ) -> Tensor:
        """Fused image of sources whose sides are multiples of 8, not clamped; see the base class."""
        base = self.base_fusion(F.gelu(self.base_merge(torch.cat([features_a.base, features_b.base], dim=1))))
        maps = F.interpolate(self.base_out(base), size=a.shape[-2:], mode="bilinear", align_corners=False)
        gain_a, gain_b, offset = maps.split(1, dim=1)
        weighted_a, weighted_b = (1.0 + gain_a) * a, (1.0 + gain_b) * b
        if self.config.mix == "power":
            # the constant bounds the slope of the root at black
            root = (weighted_a.square() + weighted_b.square() + _TINY).sqrt() - _TINY**0.5
            mix = compress_white(root + offset, self.config.knee)
        else:
            centre = mean_level(a, b) if centre is None else centre
            mix = compress(weighted_a + weighted_b + offset - centre, self.config.knee)
        detail = self.detail_fusion(torch.cat([features_a.detail, features_b.detail], dim=1))
        residual = F.pixel_shuffle(self.detail_out(detail), 2)
        return mix + residual

    def decode_single(self, features: Features, reference: Tensor) -> Tensor:
        """Rebuild one image by fusing it with itself: at initialisation twice that image (``sum``: minus its mean)."""
        return self.decode_pair(reference, reference, features, features)

    def fuse_unclamped(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor, edit: Tensor) -> Tensor:
        """Fuse without the final clamp; see ``FusionModel.fuse`` for shapes."""
        self.check_pair(a, b, code_a, code_b)
        H, W = a.shape[-2:]
        a, b = replicate_to_multiple(a, FOLD), replicate_to_multiple(b, FOLD)
        features_a, features_b = self.features(a, code_a, edit=edit), self.features(b, code_b, edit=edit)
        return self.decode_pair(a, b, features_a, features_b)[..., :H, :W]

    def fusion_parameters(self) -> list[nn.Parameter]:
        """None: stage I rebuilds an image by fusing it with itself, so it trains every layer already."""
        return []
