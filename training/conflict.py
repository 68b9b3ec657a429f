"""Do tasks pull the shared weights in different directions? Angles between their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def gradient_cosines(losses: Sequence[Tensor], parameters: Iterable[Tensor]) -> Tensor:
    """Cosine of the angle between the gradients of each two tasks; negative where they conflict.

    No ``.grad`` is touched, and the graphs of the losses are kept.

    Args:
        losses: One scalar for each task.
        parameters: What the tasks share. A task that does not use one of them has gradient 0 there.

    Returns:
        (M, M), symmetric, 1 on the diagonal; NaN in the row and column of a task whose gradient is 0.

    Raises:
        ValueError: There are fewer than two losses, or no parameters.
    """
    shared = [p for p in parameters if p.requires_grad]
    if len(losses) < 2 or not shared:
        raise ValueError(
            f"angles need two losses and a parameter, got {len(losses)} losses, {len(shared)} parameters that train"
        )
    gradients = torch.stack([_flat_gradient(loss, shared) for loss in losses])  # (M, P)
    unit = gradients / gradients.norm(dim=1, keepdim=True)
    return (unit @ unit.T).clamp(-1.0, 1.0)


def gradient_angles(losses: Sequence[Tensor], parameters: Iterable[Tensor]) -> Tensor:
    """The angles themselves in degrees, (M, M): above 90 two tasks conflict (the paper's Figure 2).

    Raises:
        ValueError: As ``gradient_cosines``.
    """
    return torch.rad2deg(torch.acos(gradient_cosines(losses, parameters)))


def _flat_gradient(loss: Tensor, shared: Sequence[Tensor]) -> Tensor:
    parts = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
    flat = [torch.zeros_like(p) if part is None else part for p, part in zip(shared, parts, strict=True)]
    return torch.cat([part.float().flatten() for part in flat])
