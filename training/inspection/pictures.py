"""Pictures of an inspection: images above their reconstructions, and the use of codes at each position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from training.inspection.measures import CodeUse

_LABEL = 16
_GAP = 2


def save_reconstructions(rows: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """One strip per folder: images, and their reconstructions below.

    Args:
        rows: By folder, images and reconstructions, both (n, 1, S, S) in [0, 1].
        path: Of the PNG.
    """
    strips = [_strip(name, x, y) for name, (x, y) in rows.items()]
    sheet = Image.new("L", (max(s.width for s in strips), sum(s.height for s in strips)), 255)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    sheet.save(path)


def _strip(name: str, x: Tensor, y: Tensor) -> Image.Image:
    step = x.shape[-1] + _GAP
    label = f"{name}: images, reconstructions"
    strip = Image.new("L", (max(len(x) * step, 8 * len(label)), 2 * step + _LABEL), 255)
    ImageDraw.Draw(strip).text((_GAP, _GAP), label, fill=0)
    for column, pair in enumerate(zip(x, y, strict=True)):
        for row, image in enumerate(pair):
            pixels = image[0].mul(255).round().to(torch.uint8).numpy()
            strip.paste(Image.fromarray(pixels), (column * step, _LABEL + row * step))
    return strip


def save_usage(uses: Mapping[str, CodeUse], path: Path) -> None:
    """Distinct codes and entropy at each position, by folder."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name, use in uses.items():
        images = use.tokens // len(use.position_used)
        _steps(above, use.position_used, name)
        _steps(below, use.position_entropy, f"{name} (at most {math.log2(min(images, use.codebook)):.1f} bits)")
    above.set_ylabel("distinct codes")
    below.set_ylabel("entropy, bits")
    below.set_xlabel("token position")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(*below.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=8)
    figure.savefig(path, dpi=130)


def _steps(axes: Axes, values: Sequence[float], label: str) -> None:
    edges = np.arange(len(values) + 1) - 0.5
    axes.stairs(values, edges, label=label, baseline=None, linewidth=1.4)
