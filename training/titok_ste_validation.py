"""A quick look at a fusion model during training. The evaluate command measures the exported bundle in full."""

from __future__ import annotations

import torch
from torch import Tensor

from models.token_fusion import TokenFusionModel
from training.data.pairs import ImagePairs
from training.losses import gradient, scd, ssim

STRENGTHS = (0.0, 1.0, 2.0)


def entropy(image: Tensor) -> float:
    """Shannon entropy of the 8-bit histogram of an image in [0, 1], in bits."""
    p = torch.histc((image * 255).round(), bins=256, min=0, max=255) / image.numel()
    p = p[p > 0]
    return float(-(p * p.log2()).sum())


@torch.no_grad()
def validate(model: TokenFusionModel, pairs: ImagePairs, *, limit: int) -> tuple[dict[str, float], Tensor]:
    """Fuse the first ``limit`` pairs at native size.

    Returns:
        Means of EN, SD (grey levels), SCD, SSIM (sum over both sources), clipped share (percent, beyond the
        sources' own), and of the gradient at each strength; and a picture row of the first pair.
    """
    model.eval()
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    picture = torch.zeros(0)
    count = min(limit, len(pairs))
    for row in range(count):
        a, b = (x.to(device) for x in pairs.full(row))
        code_a, code_b = model.encode(a), model.encode(b)
        outs = {g: model.fuse(a, b, code_a, code_b, a.new_full((1, len(model.slots)), g)).float() for g in STRENGTHS}
        fused = outs[1.0]
        at_limit = (fused <= 0) | (fused >= 1)
        own = (a <= 0) | (a >= 1) | (b <= 0) | (b >= 1)
        values = {
            "EN": entropy(fused),
            "SD": float(fused.std()) * 255,
            "SCD": float(scd(a, b, fused)),
            "SSIM": float(ssim(a, fused) + ssim(b, fused)),
            "clipped": 100 * float((at_limit & ~own).float().mean()),
            "change01": 255 * float((outs[1.0] - outs[0.0]).abs().mean()),
            "change02": 255 * float((outs[2.0] - outs[0.0]).abs().mean()),
            **{f"gradient{g:.0f}": float(gradient(outs[g]).mean()) for g in STRENGTHS},
        }
        for name, value in values.items():
            sums[f"val/{name}"] = sums.get(f"val/{name}", 0.0) + value / count
        if row == 0:
            picture = torch.cat([a, b, *outs.values()], dim=3)[0, 0].cpu()
    return sums, picture
