"""The images of which FMI compares small windows: grey levels, gradient, edges, or cosine coefficients."""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn

from training.evaluation.metrics.common import Image, sobel

_EDGE_SCALE = 4.0


def pixels(image: Image) -> Image:
    """The grey levels themselves."""
    return image


def horizontal_gradient(image: Image) -> Image:
    """Central differences along rows, one-sided at the border, grey levels."""
    gradient: Image = np.gradient(image, axis=1)
    return gradient


def cosine_coefficients(image: Image) -> Image:
    """Orthonormal two-dimensional DCT-II of the whole image."""
    coefficients: Image = dctn(image, norm="ortho")
    return coefficients


def edge_map(image: Image) -> Image:
    """Thin Sobel edges, 1 on an edge and 0 elsewhere; never at the image's border.

    An edge exceeds four times the mean squared gradient and is a ridge across its direction: not below the
    neighbour before it and above the one behind it, left to right where the gradient is more horizontal,
    downward where it is more vertical.
    """
    across, down = sobel(image, "nearest")
    power = across * across + down * down
    centre = power[1:-1, 1:-1]
    ridge_across = (power[1:-1, :-2] <= centre) & (centre > power[1:-1, 2:])
    ridge_down = (power[:-2, 1:-1] <= centre) & (centre > power[2:, 1:-1])
    steeper = np.abs(across) - np.abs(down)
    ridge = (ridge_across & (steeper[1:-1, 1:-1] >= 0.0)) | (ridge_down & (steeper[1:-1, 1:-1] <= 0.0))
    edges = np.zeros_like(image)
    edges[1:-1, 1:-1] = ridge & (centre > _EDGE_SCALE * power.mean())
    return edges
