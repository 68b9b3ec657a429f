"""TiTok+STE: fuse two images through frozen 1D tokens and a trainable 2D detail path.

Reproduces "From 2D Grids to 1D Tokens" (arXiv 2606.12303). Tokens carry the appearance, π turns them into a
map, a two-branch network splits the map into base B and detail D, each is fused with that of the other image,
and a decoder D_φ predicts a residual on a reference image: fused = I_ref + D_φ(ρ([B, D])). Selective Token
Editing (eq. 8) changes a few numbers of the tokens.

Shape letters: N batch, K tokens, C token channels, D width, H height, W image width, S edit slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import BaseBlock, DetailNode, RestormerBlock
from models.interface import TokenSource
from models.padding import replicate_to_multiple
from models.reference import REFERENCES, split
from models.ste import SlotSpec
from models.token_fusion import Features, TokenFusionModel
from models.token_map import LiftActivation, TokenMap
from models.tone import mean_level

_MAPS = 5
"""Gains of two parts of two sources, and an offset."""

_RESIDUAL_GAIN = 0.1
"""Makes the free residual learn that much slower than the gains."""

_STYLE_GAIN = 4.0
"""Makes the weights behind it learn that much faster under Adam; they start at zero."""


@dataclass(frozen=True)
class TiTokSTEConfig:
    """Architecture of the fusion network.

    What the tokens are (quantized or not) is a property of the tokenizer; where they are edited, of the slot
    file.

    Attributes:
        width: Feature channels D; ``heads`` must divide it.
        stem_blocks: Restormer blocks before the split into base and detail.
        decoder_blocks: Restormer blocks of the decoder.
        detail_nodes: Coupling steps of the detail branch.
        heads: Attention heads of every block.
        ref_mode: Reference to which stage II adds the residual: ``sum`` (paper), ``centred`` (the sum without its
            saturation), ``salient`` (that of the coarse parts, and the stronger fine part), ``mean``, ``max``, ``a``.
        out_mode: ``linear`` (clamped once, after the loss) or ``sigmoid`` (for comparison with CDDFuse only).
        lift_act: Nonlinearity between the token lift and the map.
        detail: Feed image detail into π; ``False`` for the ablation.
        exp_limit: Bound on the exponent of the detail nodes, or ``None``.
        fold: Side of the squares of pixels that one position of the features stands for. 1 is the paper's network;
            2 computes at half the resolution and unfolds the residual at the end, at a quarter of the cost.
        style: Let all tokens of an image together also scale and shift its features, one number per channel. An edit
            moves one token of 32 a little, which the map alone carries too weakly to be learnt soon.
        gains: Predict smooth gains of the coarse and fine parts of both sources beside the residual. A free residual
            costs likeness in every flat area until it is exact, so short runs learn to leave it at zero; a gain acts
            only where a source has structure.
    """

    width: int = 64
    stem_blocks: int = 4
    decoder_blocks: int = 4
    detail_nodes: int = 3
    heads: int = 8
    ref_mode: Literal["sum", "centred", "salient", "mean", "max", "a"] = "mean"
    out_mode: Literal["linear", "sigmoid"] = "linear"
    lift_act: LiftActivation = "gelu"
    detail: bool = True
    exp_limit: float | None = 6.0
    fold: int = 1
    style: bool = False
    gains: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("ref_mode", tuple(REFERENCES)), ("out_mode", ("linear", "sigmoid"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")


PROFILES: dict[str, TiTokSTEConfig] = {
    "paper": TiTokSTEConfig(ref_mode="sum"),
    "product": TiTokSTEConfig(ref_mode="salient", fold=2, style=True, gains=True),
    "mean": TiTokSTEConfig(),
    "d48": TiTokSTEConfig(width=48),
    "d32": TiTokSTEConfig(width=32),
    "d32-short": TiTokSTEConfig(width=32, stem_blocks=2, decoder_blocks=2),
}


class TiTokSTE(TokenFusionModel):
    """The fusion network around a frozen tokenizer; the paper's has 1,325,111 trainable parameters (K = 32).

    The network is symmetric in its two images, except for ``ref_mode="a"``.

    Args:
        tokenizer: Frozen by this constructor.
        slots: Where tokens are edited; ``None`` for a model without edit slots.
        config: The architecture; the ``product`` profile by default.
    """

    def __init__(self, tokenizer: TokenSource, slots: SlotSpec | None, config: TiTokSTEConfig | None = None) -> None:
        super().__init__(tokenizer, slots)
        self.config = config = config or PROFILES["product"]
        width, heads = config.width, config.heads
        self.token_map = TokenMap(
            tokenizer.num_tokens,
            token_dim=tokenizer.token_dim,
            width=width,
            lift_act=config.lift_act,
            detail=config.detail,
            fold=config.fold,
        )
        self.stem = _restormer(config.stem_blocks, width, heads)
        self.style = nn.Linear(tokenizer.num_tokens * tokenizer.token_dim, 2 * width) if config.style else None
        if self.style is not None:
            nn.init.zeros_(self.style.weight)
            nn.init.zeros_(self.style.bias)
        self.base_branch = BaseBlock(width, heads=heads)
        self.detail_branch = nn.Sequential(
            *(DetailNode(width, exp_limit=config.exp_limit) for _ in range(config.detail_nodes))
        )
        self.base_fusion = BaseBlock(width, heads=heads)
        self.detail_fusion = DetailNode(width, exp_limit=config.exp_limit)
        self.projector = nn.Conv2d(2 * width, width, 1, bias=False)
        self.decoder = _restormer(config.decoder_blocks, width, heads)
        self.head = _head(config)

    def features(
        self, image: Tensor, code: Tensor, *, edit: Tensor | None = None, box: Tensor | None = None
    ) -> Features:
        """Split one image into base and detail features, each (N, D, H / fold, W / fold).

        Args:
            image: (N, 1, H, W) in [0, 1], its sides multiples of ``fold``.
            code: Tokens of the image, (N, K, C).
            edit: Strength per slot, (N, S); ``None`` leaves the tokens unedited (stage I).
            box: If ``image`` is a crop: its place in the encoded image, (N, 4), y0, x0, y1, x1 as fractions.
        """
        tokens = code if edit is None else self.ste(code, edit)  # (N, K, C)
        x = self.stem(self.token_map(tokens, image, box=box))  # (N, D, H / fold, W / fold)
        if self.style is not None:
            style = _STYLE_GAIN * self.style(tokens.flatten(1))  # (N, 2·D)
            scale, shift = style[..., None, None].chunk(2, dim=1)  # (N, D, 1, 1) each
            x = x * (1.0 + scale) + shift
        return Features(self.base_branch(x), self.detail_branch(x))

    def decode_single(self, features: Features, reference: Tensor) -> Tensor:
        """Rebuild an image from features, un-clamped: of one image (stage I, eq. 14), or fused (stage II)."""
        return self._decode(features, reference, reference, reference, mean_level(reference, reference))

    def _decode(self, features: Features, reference: Tensor, a: Tensor, b: Tensor, centre: Tensor) -> Tensor:
        fold = self.config.fold
        x = self.head(self.decoder(self.projector(torch.cat(features, dim=1))))  # (N, out, H / fold, W / fold)
        residual, maps = x[:, : fold**2], x[:, fold**2 :]
        if fold > 1:
            residual = F.pixel_shuffle(residual, fold)
        if self.config.gains:
            residual = _RESIDUAL_GAIN * residual + _apply(maps, a, b, centre)
        out: Tensor = reference + residual  # (N, 1, H, W)
        return out.sigmoid() if self.config.out_mode == "sigmoid" else out

    def decode_pair(
        self, a: Tensor, b: Tensor, features_a: Features, features_b: Features, *, centre: Tensor | None = None
    ) -> Tensor:
        """Fused image, un-clamped: features are summed, and each part passes one layer (stage II)."""
        fused = Features(
            self.base_fusion(features_a.base + features_b.base),
            self.detail_fusion(features_a.detail + features_b.detail),
        )
        centre = mean_level(a, b) if centre is None else centre
        return self._decode(fused, self.reference(a, b, centre=centre), a, b, centre)

    def reference(self, a: Tensor, b: Tensor, *, centre: Tensor | None = None) -> Tensor:
        """Stage II reference of a pair, (N, 1, H, W); a sum lies in [0, 2]. ``centre`` as in ``decode_pair``."""
        return REFERENCES[self.config.ref_mode](a, b, mean_level(a, b) if centre is None else centre)

    def fuse_unclamped(
        self,
        a: Tensor,
        b: Tensor,
        code_a: Tensor,
        code_b: Tensor,
        edit: Tensor,
        *,
        box: Tensor | None = None,
    ) -> Tensor:
        """Fuse without the final clamp; arguments as in ``fuse`` and, for ``box``, as in ``features``."""
        self.check_pair(a, b, code_a, code_b)
        H, W = a.shape[-2:]
        if self.config.fold > 1:
            a, b = (replicate_to_multiple(x, self.config.fold) for x in (a, b))
        features_a = self.features(a, code_a, edit=edit, box=box)
        features_b = self.features(b, code_b, edit=edit, box=box)
        return self.decode_pair(a, b, features_a, features_b)[..., :H, :W]

    def fusion_parameters(self) -> list[nn.Parameter]:
        """The fusion layers, new in stage II."""
        return [*self.base_fusion.parameters(), *self.detail_fusion.parameters()]


def _head(config: TiTokSTEConfig) -> nn.Sequential:
    """The last layers: a small residual at the start; with gains, all of them and the residual zero."""
    width, half = config.width, config.width // 2
    last = nn.Conv2d(half, config.fold**2 + (_MAPS if config.gains else 0), 3, padding=1, bias=False)
    with torch.no_grad():
        last.weight.mul_(0.0 if config.gains else 0.1)
    return nn.Sequential(nn.Conv2d(width, half, 3, padding=1, bias=False), nn.LeakyReLU(0.01), last)


def _apply(maps: Tensor, a: Tensor, b: Tensor, centre: Tensor) -> Tensor:
    """Gains of the coarse and fine parts of both sources, and an offset: (N, 5, H / fold, W / fold) -> (N, 1, H, W)."""
    maps = F.interpolate(maps.float(), size=a.shape[-2:], mode="bilinear", align_corners=False)
    (coarse_a, fine_a), (coarse_b, fine_b) = split(a), split(b)
    parts = (coarse_a - centre, coarse_b - centre, fine_a, fine_b, torch.ones_like(a))
    return (maps * torch.cat(parts, dim=1)).sum(dim=1, keepdim=True)


def _restormer(count: int, width: int, heads: int) -> nn.Sequential:
    return nn.Sequential(*(RestormerBlock(width, heads=heads) for _ in range(count)))
