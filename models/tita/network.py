"""TITA: one network for every kind of pair, without a task label.

Reproduces "Balancing Task-invariant Interaction and Task-specific Adaptation for Unified Image Fusion" (ICCV 2025).
Two streams are extracted by window attention and interact by window and pixel attention between each other. Then
operations fuse them whose operands and weights are predicted from the images themselves (OAF); what differs from task
to task differs there. In the published network a token is a pixel; ``fold`` makes it a square of pixels.

Shape letters: N batch, H height, W width, f pixels that a token is wide, h and w the padded sides in tokens,
D channels, O operations. Images are (N, 1, H, W), maps of tokens channels-last, (N, h, w, D), and inside the blocks
sorted by P windows of S tokens, (N, P, S, D).
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import FusionModel, check_sources
from models.padding import mirror_to_multiple
from models.tita.blocks import InterBlock, IntraBlock, IntraPair
from models.tita.config import PROFILES, TITAConfig
from models.tita.layers import Pair
from models.tita.oaf import OAF, ConvHead
from models.tita.output import make_output
from models.tita.windows import Grid


class TITA(FusionModel):
    """The network: 1,377,475 parameters in the published form.

    It is not symmetric in its two images, has no edit slots, and nothing to encode ahead. Sides that are no multiple of
    the window are padded inside.

    Args:
        config: The architecture; the profile ``code`` by default.
    """

    def __init__(self, config: TITAConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PROFILES["code"]
        D = config.dim
        self.shallow = nn.Sequential(nn.PixelUnshuffle(config.fold), *_conv(config.fold**2, D // 2), *_conv(D // 2, D))
        self.norm = nn.LayerNorm(D)  # one for all places where a map becomes tokens
        self.extract = nn.ModuleList(_extract_layers(config))
        self.extract_norms = nn.ModuleList([nn.LayerNorm(D), nn.LayerNorm(D)])
        self.interact = nn.ModuleList(_interact_layers(config))
        self.interact_norms = nn.ModuleList([nn.LayerNorm(D), nn.LayerNorm(D)])
        oaf = config.fusion_head == "oaf"
        self.fusion = OAF(D, config.operations, dynamic=config.dynamic_weights) if oaf else ConvHead(D)
        self.rebuild = nn.ModuleList(_rebuild_layers(config))
        self.rebuild_norm = nn.LayerNorm(D)
        self.output = make_output(config)
        last = nn.Conv2d(D // 4, self.output.maps * config.fold**2, 3, padding=1)
        if config.output == "blend":  # which begins as a useful one: the network learns what to change
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.head = nn.Sequential(*_conv(D, D // 2), *_conv(D // 2, D // 4), last, nn.PixelShuffle(config.fold))

    def encode(self, image: Tensor) -> Tensor:
        """Nothing: (N, 1, H, W) -> (N, 0, 0)."""
        return image.new_zeros(image.shape[0], 0, 0)

    def fuse_unclamped(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor, edit: Tensor) -> Tensor:
        """Fuse without the final clamp; codes and ``edit`` are empty. See ``FusionModel.fuse``."""
        check_sources(a, b)
        padded = self.pad(a), self.pad(b)
        x, y = self._features(*padded)
        return self._decode(x, y, _mean(x, y), *padded)[..., : a.shape[2], : a.shape[3]]

    def operation_weights(self, a: Tensor, b: Tensor) -> Tensor:
        """How much each operation of each stream counts for a pair (the paper's Table 9).

        Args:
            a: First source image, (N, 1, H, W) in [0, 1].
            b: Second source image, same shape.

        Returns:
            (N, 2, O): first the stream of ``a``, then that of ``b``; operations as in ``config.operations``. The sum
            over both streams is 1.

        Raises:
            ValueError: A convolution fuses the streams of this network.
        """
        if not isinstance(self.fusion, OAF):
            raise ValueError("this network fuses by a convolution, which has no operations: use fusion_head='oaf'")
        check_sources(a, b)
        return self.fusion.weights(_mean(*self._features(self.pad(a), self.pad(b))))

    def pad(self, image: Tensor) -> Tensor:
        """Pad a whole image as ``fuse`` does: (N, 1, H, W) -> (N, 1, f · h, f · w), multiples of a window's side."""
        return mirror_to_multiple(image, self.config.multiple, at_least=int(self.config.pad_mode == "authors"))

    def feature_sums(self, a: Tensor, b: Tensor, counted: Tensor) -> Tensor:
        """First pass of tiled fusion: what a tile adds to the sum of the features over the whole image.

        Args:
            a: Tile of the first source image, (N, 1, H, W), cut from the padded image along the grid of windows.
            b: The same tile of the second.
            counted: 1 where a pixel counts, 0 where another tile counts it, (N, 1, H, W), the same for all pixels of a
                token.

        Returns:
            (N, 2 · D), both streams, in pixels. The total of all tiles divided by the number of pixels is the mean.
        """
        check_sources(a, b)
        features = torch.cat(self._features(self._aligned(a), self._aligned(b)), dim=-1)
        pixels = F.pixel_unshuffle(self._aligned(counted), self.config.fold).sum(dim=1).unsqueeze(-1)  # (N, h, w, 1)
        return (features * pixels).sum(dim=(1, 2))

    def fuse_given(self, a: Tensor, b: Tensor, mean: Tensor) -> Tensor:
        """Second pass of tiled fusion: fuse a tile with the mean of the features over the whole image.

        Args:
            a: Tile of the first source image, as in ``feature_sums``.
            b: The same tile of the second.
            mean: (N, 2 · D).

        Returns:
            (N, 1, H, W) in [0, 1].
        """
        check_sources(a, b)
        aligned = self._aligned(a), self._aligned(b)
        fused = self._decode(*self._features(*aligned), mean, *aligned)
        return fused[..., : a.shape[2], : a.shape[3]].clamp(0.0, 1.0)

    def _aligned(self, tile: Tensor) -> Tensor:
        """The tile itself. An exported graph is told by this padding of nothing that the sides are multiples."""
        return mirror_to_multiple(tile, self.config.multiple)

    def _features(self, a: Tensor, b: Tensor) -> Pair:
        """Features of two padded images after the streams have interacted, (N, h, w, D) each."""
        x, y = (self.norm(self.shallow(image).permute(0, 2, 3, 1)) for image in (a, b))
        grid = Grid.of(x, self.config.window)
        x, y = grid.split(x), grid.split(y)  # (N, P, S, D) each
        for layer in self.extract:
            x, y = layer(x, y, grid)
        x, y = (self.norm(norm(z)) for norm, z in zip(self.extract_norms, (x, y), strict=True))
        for layer in self.interact:
            x, y = layer(x, y, grid)
        return Pair(*(grid.join(norm(z)) for norm, z in zip(self.interact_norms, (x, y), strict=True)))

    def _decode(self, x: Tensor, y: Tensor, mean: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Fuse features (N, h, w, D) with their mean (N, 2 · D) and rebuild an image of the padded sources' size."""
        fused = self.fusion(x, y, mean)  # (N, h, w, D)
        grid = Grid.of(fused, self.config.window)
        z = grid.split(self.norm(fused))  # (N, P, S, D)
        for layer in self.rebuild:
            z = layer(z, grid)
        image: Tensor = self.output(self.head(grid.join(self.rebuild_norm(z)).permute(0, 3, 1, 2)), a, b)
        return image


def _mean(x: Tensor, y: Tensor) -> Tensor:
    """Mean over all pixels of both maps: two (N, H, W, D) -> (N, 2 · D)."""
    return torch.cat([x.mean(dim=(1, 2)), y.mean(dim=(1, 2))], dim=-1)


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(0.2)]


def _rates(config: TITAConfig, depth: int) -> list[float]:
    """Drop-path rates that grow linearly from 0."""
    return torch.linspace(0.0, config.drop_path, depth, device="cpu").tolist()


def _extract_layers(config: TITAConfig) -> list[IntraPair]:
    rates = _rates(config, config.extract_depth)
    return [IntraPair(config, shifted=i % 2 == 1, drop_path=rate) for i, rate in enumerate(rates)]


def _interact_layers(config: TITAConfig) -> list[IntraPair | InterBlock]:
    """The layers of all fusion groups; the pattern of shifts begins anew in each, the drop-path rates do not."""
    first_inter = {"inter": 0.0, "mixed": 0.5, "intra": 1.0}[config.fusion_blocks]
    places = chain.from_iterable(((i, depth) for i in range(depth)) for depth in config.fusion_depths)
    rates = _rates(config, sum(config.fusion_depths))
    return [
        (InterBlock if i >= first_inter * depth else IntraPair)(config, shifted=i % 2 == 1, drop_path=rate)
        for (i, depth), rate in zip(places, rates, strict=True)
    ]


def _rebuild_layers(config: TITAConfig) -> list[IntraBlock]:
    rates = _rates(config, config.rebuild_depth)
    return [IntraBlock(config, shifted=i % 2 == 1, drop_path=rate) for i, rate in enumerate(rates)]
