"""A frozen network with its probing pairs: fuses them under any token offset and measures what changes.

Shape letters: P probing pairs, N chosen pairs, E edits, K tokens, C token channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from models.token_fusion import TokenFusionModel
from training.config import PairFolder
from training.data.folders import find_pairs
from training.data.images import DataError, check_pairs, read_luminance
from training.probing.measures import measure, score
from training.probing.settings import Modality, PairSettings


def read_pairs(root: Path, folder: PairFolder, settings: PairSettings) -> tuple[Tensor, Tensor]:
    """The probing images a and b, each (P, 1, side, side) in [0, 1], at equal steps through the folders.

    Raises:
        DataError: Names do not match, a pair's sizes differ, there are fewer than two pairs, or an image is smaller
            than the crop.
    """
    files = find_pairs(root, folder).files
    if len(files) < 2:
        raise DataError(f"{folder.a} holds {len(files)} pair: the probe needs at least 2")
    chosen = [files[i] for i in evenly(len(files), settings.pairs)]
    check_pairs(chosen)
    rows = [torch.cat([_square(path, settings) for path in pair], dim=1) for pair in chosen]
    a, b = torch.cat(rows).split(1, dim=1)
    return a.contiguous(), b.contiguous()


def evenly(total: int, wanted: int) -> list[int]:
    """At most ``wanted`` rows of ``total``, at equal steps, first and last included."""
    return [int(i) for i in torch.linspace(0, total - 1, min(wanted, total)).round()]


def _square(path: Path, settings: PairSettings) -> Tensor:
    image = torch.from_numpy(read_luminance(path).copy())[None, None].float() / 255.0
    side, (H, W) = settings.side, image.shape[-2:]
    if settings.fit == "squash":
        return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    if min(H, W) < side:
        raise DataError(f"{path} is {W}×{H}, smaller than --side {side}: choose a smaller side, or --fit squash")
    top, left = (H - side) // 2, (W - side) // 2
    return image[..., top : top + side, left : left + side]


class EditedFusion:
    """Fuses probing pairs with an offset on their tokens; the network's own edit stays off.

    Args:
        model: Frozen; only its token offsets' effect is studied.
        a: First sources, (P, 1, H, W) in [0, 1].
        b: Second sources.
        weights: Of EI, AG, SF and SSIM in the score.
        modality: Whose tokens receive the offset.

    Attributes:
        unedited: Measures without edit, (P, 4).
    """

    def __init__(
        self, model: TokenFusionModel, a: Tensor, b: Tensor, weights: Sequence[float], modality: Modality = "both"
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.a, self.b, self.weights, self.modality = a, b, tuple(weights), modality
        self.code_a, self.code_b = (torch.cat([model.encode(x) for x in images.split(32)]) for images in (a, b))
        self.num_tokens, self.token_dim = self.code_a.shape[1:]
        none = a.new_zeros(1, self.num_tokens, self.token_dim)
        self.unedited = torch.cat([self._measured_one(row, none) for row in range(len(a))])

    def __len__(self) -> int:
        return len(self.a)

    def editing(self, modality: Modality) -> Self:
        """The same pairs, with the offset on other tokens."""
        other = copy(self)
        other.modality = modality
        return other

    def fused(self, rows: Tensor, edit: Tensor) -> Tensor:
        """Fused images, un-clamped: pairs (N,) and offsets (N, K, C) -> (N, 1, H, W)."""
        a, b, code_a, code_b = (x[rows] for x in (self.a, self.b, self.code_a, self.code_b))
        if self.modality != "b":
            code_a = code_a + edit
        if self.modality != "a":
            code_b = code_b + edit
        return self.model.decode_pair(a, b, self.model.features(a, code_a), self.model.features(b, code_b))

    def measured(self, rows: Tensor, edit: Tensor) -> Tensor:
        """EI, AG, SF and SSIM of fused images, (N, 4); arguments as in ``fused``."""
        return measure(self.a[rows], self.b[rows], self.fused(rows, edit).float())

    def score(self, rows: Tensor, edit: Tensor) -> Tensor:
        """J of each pair, (N,); arguments as in ``fused``."""
        return score(self.measured(rows, edit), self.unedited[rows], self.weights)

    @torch.no_grad()
    def _measured_one(self, row: int, edits: Tensor) -> Tensor:
        return self.measured(torch.full((len(edits),), row, device=self.a.device), edits)

    def measured_all(self, edits: Tensor, rows: Sequence[int] | None = None, *, chunk: int = 16) -> Tensor:
        """Measures of every pair under every edit, without gradients.

        Args:
            edits: (E, K, C).
            rows: Which pairs; all by default.
            chunk: Edits per forward pass.

        Returns:
            (N, E, 4).
        """
        rows = range(len(self)) if rows is None else rows
        return torch.stack([torch.cat([self._measured_one(row, part) for part in edits.split(chunk)]) for row in rows])

    def score_all(self, edits: Tensor, rows: Sequence[int] | None = None, *, chunk: int = 16) -> Tensor:
        """J of every pair under every edit, (N, E), without gradients; arguments as in ``measured_all``."""
        measured = self.measured_all(edits, rows, chunk=chunk)
        unedited = self.unedited if rows is None else self.unedited[list(rows)]
        return score(measured, unedited[:, None].expand_as(measured), self.weights)
