"""``encode`` and ``fuse`` as modules of their own, for export.

Shape letters: N batch, H height, W width, E channels of a tap, h and w the sides in patches, rounded up.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.unifusion.network import UniFusion


class EncoderGraph(nn.Module):
    """The taps of one image; see ``UniFusion.encode``."""

    def __init__(self, model: UniFusion) -> None:
        super().__init__()
        self.model, self.backbone = model, model.backbone  # not part of the model, but of the graph

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1] -> (N, 4 · E, h, w)."""
        return self.model.encode(image)


class FusionGraph(nn.Module):
    """A pair with its codes; see ``UniFusion.fuse``."""

    def __init__(self, model: UniFusion) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor) -> Tensor:
        """Sources (N, 1, H, W) in [0, 1] and codes (N, 4 · E, h, w) -> (N, 1, H, W) in [0, 1]."""
        return self.model.fuse(a, b, code_a, code_b, a.new_zeros(a.shape[0], 0))
