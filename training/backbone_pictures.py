"""Pictures of what a backbone sees: features as colours, and which patch was found where.

Shape letters: E channels, h and w the patch grid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from models.unifusion.config import STRIDE
from training.backbone_matching import Matches, Shift

LINES = 60
"""Most matches that are drawn as lines."""

_RIGHT, _WRONG = "#3fa34d", "#d1495b"
_GAP = STRIDE


def components(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The three main components of two maps together as red, green and blue.

    One basis and one scale for both: the same colour means the same features.

    Args:
        a: (E, h, w).
        b: (E, h', w').

    Returns:
        (3, h, w) and (3, h', w') in [0, 1].
    """
    rows = torch.cat([a.flatten(1), b.flatten(1)], dim=1).T.double()  # (Q, E)
    rows = rows - rows.mean(dim=0)
    basis = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -3:].flip(1)  # (E, 3), the strongest first
    basis = basis * basis.sum(dim=0).sign()  # or a picture could turn into its negative from machine to machine
    values = rows @ basis
    low, high = torch.quantile(values, torch.tensor([0.02, 0.98], dtype=values.dtype), dim=0)
    colours = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float().T  # (3, Q)
    first, second = colours.split([a[0].numel(), b[0].numel()], dim=1)
    return first.reshape(3, *a.shape[1:]), second.reshape(3, *b.shape[1:])


def save_components(a: Tensor, b: Tensor, features_a: Tensor, features_b: Tensor, path: Path) -> None:
    """Both images, and below them their features as colours, at native size.

    Args:
        a: First image, (1, 1, H, W) in [0, 1].
        b: Second image, the same size.
        features_a: (E, h, w).
        features_b: (E, h, w).
        path: Of the PNG.
    """
    above = _beside(*(image[0].expand(3, -1, -1) for image in (a, b)))
    colours = (F.interpolate(c[None], scale_factor=STRIDE)[0] for c in components(features_a, features_b))
    picture = torch.cat([above, torch.ones(3, _GAP, above.shape[2]), _beside(*colours)], dim=1)
    Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


def _beside(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, torch.ones(3, left.shape[1], _GAP), right], dim=2)


def save_matches(a: Tensor, b: Tensor, matches: Matches, shift: Shift, path: Path) -> None:
    """Both parts of a pair with lines between matched patches, and where each patch of the first was found.

    Args:
        a: First part, (1, 1, H, W) in [0, 1].
        b: Second part, the same size.
        matches: Of the patches of the first that the second shows too.
        shift: Of the parts.
        path: Of the PNG.
    """
    figure = Figure(figsize=(11.0, 7.5), layout="constrained")
    halves = figure.add_gridspec(2, 1)
    top, bottom = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    _draw_lines(top, a, b, matches, shift)
    _draw_maps(bottom, matches, a.shape[-2] // STRIDE, a.shape[-1] // STRIDE, shift)
    figure.savefig(path, dpi=100)


def _draw_lines(figure: SubFigure, a: Tensor, b: Tensor, matches: Matches, shift: Shift) -> None:
    axes = figure.subplots()
    W = a.shape[-1]
    axes.imshow(
        torch.cat([a[0, 0], b.new_ones(a.shape[-2], _GAP), b[0, 0]], dim=1).numpy(), cmap="gray", vmin=0, vmax=1
    )
    count = len(matches.found)
    for index in np.linspace(0, count - 1, min(count, LINES)).round().astype(int):
        begin = (matches.wanted[index] + torch.tensor(shift) + 0.5) * STRIDE
        end = (matches.found[index] + 0.5) * STRIDE
        colour = _RIGHT if matches.steps[index] <= 1 else _WRONG
        xs, ys = zip(begin.tolist()[::-1], (float(end[1]) + W + _GAP, float(end[0])), strict=True)
        axes.plot(xs, ys, color=colour, linewidth=0.8, marker=".", markersize=3)
    near = float((matches.steps <= 1).float().mean())
    axes.set_title(f"green: at most one patch from the right place ({100 * near:.0f} % of all patches)", fontsize=9)
    axes.set_axis_off()


def _draw_maps(figure: SubFigure, matches: Matches, h: int, w: int, shift: Shift) -> None:
    """Places as colours: as they should be, and as they were found."""
    shape = (h - shift[0], w - shift[1])
    panels = figure.subplots(1, 3)
    for axes, places, title in ((panels[0], matches.wanted, "right places"), (panels[1], matches.found, "found")):
        down, across = (places[:, axis].float() / max(1, n - 1) for axis, n in enumerate((h, w)))
        colours = torch.stack([down, 1 - across, across], dim=1).reshape(*shape, 3)
        axes.imshow(colours.numpy(), vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
    drawn = panels[2].imshow(matches.distances.reshape(shape).numpy(), cmap="magma_r", vmin=0)
    panels[2].set_title("distance in patches", fontsize=9)
    figure.colorbar(drawn, ax=panels[2], shrink=0.8)
    for axes in panels:
        axes.set_axis_off()
