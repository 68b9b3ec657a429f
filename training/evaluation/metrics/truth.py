"""What only pairs with a truth allow: how close the fused image is to it.

The truth is the picture that a synthesised pair was made from: in focus everywhere, or well exposed.
"""

from __future__ import annotations

import math

from training.evaluation.metrics.common import Image

PSNR_LIMIT = 100.0  # what one pixel that is off by one level leaves of 150,000


def psnr(truth: Image, f: Image) -> float:
    """PSNR_truth = 10 log10(255² / mean (truth - f)²), dB.

    At most 100, which equal images have: infinity would drop out of the mean, and with it the best of all results.
    """
    error = float(((truth - f) ** 2).mean())
    return min(10.0 * math.log10(255.0**2 / error), PSNR_LIMIT) if error > 0.0 else PSNR_LIMIT
