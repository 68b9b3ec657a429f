"""Whether UniFusion uses its backbone, and how well its adapters keep the sources.

The adapters may learn to copy the image through their skip, which satisfies the reconstruction loss without any tap.
Without taps nothing would change then: neither the reconstruction nor the fused image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from training.tita_validation import Example, psnr
from training.unifusion_levels import Outcome, TwoLevels
from training.unifusion_loss import reconstruction_loss

USE = ("fused_without_taps", "rec_without_taps", "PSNR_rebuilt_a", "PSNR_rebuilt_b")
"""Names that `backbone_use` measures."""

_LEVELS = 255.0
"""Grey levels in the range of an image."""


@torch.no_grad()
def backbone_use(model: TwoLevels, examples: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    """What the model makes of examples with its taps, and with zeros in their place.

    Args:
        model: Put into eval mode.
        examples: By task.

    Returns:
        By ``val/TASK/NAME`` means over the examples. ``PSNR_rebuilt_a`` and ``_b``: of both reconstructions, dB.
        ``rec_without_taps``: by how much the reconstruction loss grows without taps, grey levels; negative if it falls.
        ``fused_without_taps``: mean absolute change of the fused image, grey levels.
    """
    model.eval()
    scores = dict[str, float]()
    for task, pairs in examples.items():
        rows = [_measure(model, pair) for pair in pairs]
        scores |= {f"val/{task}/{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return scores


def _measure(model: TwoLevels, pair: Example) -> dict[str, float]:
    device = next(model.parameters()).device
    a, b = pair.a.to(device), pair.b.to(device)
    codes = model.network.encode(a), model.network.encode(b)
    rebuild = model.heads is not None
    whole: Outcome = model(a, b, codes, rebuild=rebuild, fuse=True)
    blind: Outcome = model(a, b, (codes[0] * 0, codes[1] * 0), rebuild=rebuild, fuse=True)
    assert whole.fused is not None
    assert blind.fused is not None
    change = whole.fused.clamp(0, 1) - blind.fused.clamp(0, 1)
    values = {"fused_without_taps": _LEVELS * float(change.abs().mean())}
    if whole.rebuilt is not None and blind.rebuilt is not None:
        sources = model.seen(a), model.seen(b)
        grown = reconstruction_loss(blind.rebuilt, sources) - reconstruction_loss(whole.rebuilt, sources)
        values["rec_without_taps"] = _LEVELS * float(grown)
        for name, image, source in zip("ab", whole.rebuilt, sources, strict=True):
            values[f"PSNR_rebuilt_{name}"] = psnr(image.clamp(0, 1), source)
    return values
