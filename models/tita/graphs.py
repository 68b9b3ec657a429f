"""Both passes of tiled fusion as modules of their own, for export; whole images are the network itself.

Shape letters: N batch, H height, W width, D channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.tita.network import TITA


class FeatureSums(nn.Module):
    """First pass of tiled fusion; see ``TITA.feature_sums``."""

    def __init__(self, model: TITA) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor, counted: Tensor) -> Tensor:
        """A tile of both sources and the pixels that count, (N, 1, H, W) each -> (N, 2 · D)."""
        return self.model.feature_sums(a, b, counted)


class FuseGiven(nn.Module):
    """Second pass of tiled fusion; see ``TITA.fuse_given``."""

    def __init__(self, model: TITA) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor, mean: Tensor) -> Tensor:
        """A tile of both sources, (N, 1, H, W) each, and the mean features, (N, 2 · D) -> (N, 1, H, W) in [0, 1]."""
        return self.model.fuse_given(a, b, mean)
