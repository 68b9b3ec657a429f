"""Qabf and Nabf: edges of the sources that the fused image keeps, and edges in it that no source has."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from training.evaluation.metrics.common import Image, Triple, smaller_to_larger, sobel


class Edges(NamedTuple):
    """Strength and orientation (radians, -π/2..π/2) of the gradient at each pixel, both (H, W)."""

    strength: Image
    angle: Image


def _sigmoid(x: Image, top: float, slope: float, centre: float) -> Image:
    result: Image = top / (1.0 + np.exp(-slope * (x - centre)))
    return result


def _edges(image: Image) -> Edges:
    """Sobel edges with a zero border. Vertical derivative counts upward; a zero horizontal one means π/2."""
    gx, down = sobel(image, "constant")
    vertical = gx == 0.0
    angle = np.arctan(-down / np.where(vertical, 1.0, gx))
    return Edges(np.hypot(gx, down), np.where(vertical, math.pi / 2.0, angle))


def _preserved(source: Edges, fused: Edges) -> Image:
    """Edge preservation 0..1: Qg(G) Qa(A), constants of Petrović.

    Where both strengths are equal G is that strength, not 1, as in every public implementation.
    """
    same = source.strength == fused.strength
    strength = np.where(same, fused.strength, smaller_to_larger(source.strength, fused.strength))
    alignment = 1.0 - np.abs(source.angle - fused.angle) / (math.pi / 2.0)
    return _sigmoid(strength, 0.9994, 15.0, 0.5) * _sigmoid(alignment, 0.9879, 22.0, 0.8)


def edge_preservation(t: Triple) -> float:
    """Qabf = Σ (Q_af g_a + Q_bf g_b) / Σ (g_a + g_b), 0..1; NaN where both sources are black."""
    a, b, f = (_edges(image) for image in t)
    weight = float((a.strength + b.strength).sum())
    kept = float((_preserved(a, f) * a.strength + _preserved(b, f) * b.strength).sum())
    return kept / weight if weight > 0.0 else math.nan


def _mirrored_edges(image: Image) -> Edges:
    """Sobel / 8 with a mirrored border; angle 0 where the gradient is 0."""
    across, down = (derivative / 8.0 for derivative in sobel(image, "mirror"))
    steep = across == 0.0
    angle = np.arctan(down / np.where(steep, 1.0, across))
    angle = np.where(steep, np.sign(down) * math.pi / 2.0, angle)
    return Edges(np.hypot(across, down), angle)


def _agreement(source: Edges, fused: Edges) -> Image:
    """sqrt(Qg Qa) of strength and orientation, 0..1; opposite directions count as equal."""
    ratio = smaller_to_larger(source.strength, fused.strength)
    alignment = np.abs(np.abs(source.angle - fused.angle) - math.pi / 2.0) * 2.0 / math.pi
    quality: Image = np.sqrt(_sigmoid(ratio, 0.9999, 19.0, 0.5) * _sigmoid(alignment, 0.9995, 22.0, 0.5))
    return quality


def edge_artefacts(t: Triple) -> float:
    """Nabf = Σ' ((1 - Q_af) w_a + (1 - Q_bf) w_b) / Σ (w_a + w_b), 0..1, lower is better.

    Σ' runs over the pixels whose gradient in f exceeds both sources'; w = g^1.5 where g >= 2, else 0.001.
    """
    a, b, f = (_mirrored_edges(image) for image in t)
    weight_a, weight_b = (np.where(x.strength >= 2.0, x.strength**1.5, 0.001) for x in (a, b))
    added = (f.strength > a.strength) & (f.strength > b.strength)
    lost = (1.0 - _agreement(a, f)) * weight_a + (1.0 - _agreement(b, f)) * weight_b
    return float(lost[added].sum()) / float((weight_a + weight_b).sum())
