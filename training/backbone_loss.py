"""Losses of a backbone's training without labels, in the manner of DINO and iBOT, and what tells of a collapse.

The teacher says of each patch, and of each image, how much it is like each of K prototypes. The student, which sees
another tone, another window, and not all patches, is to say the same.

Three answers are always right and worth nothing:

- One prototype for everything. Targets are balanced over the prototypes of each batch (Sinkhorn's iteration). A running
  centre alone, as in DINO, was too slow for small batches and a young network: all patches had one prototype after
  fifty steps.
- All prototypes alike for everything. Targets have a lower temperature than what is compared with them, and patches of
  the batch are to be told apart by their projections, which keeps these spread out.
- Where the patch lies. A running mean of the scores of every place of the grid is subtracted, and with it any answer
  that only tells the place.

Shape letters: N canvases, P patches of a window, T of a canvas, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.backbone_edges import edge_directions
from training.backbone_recipe import LossConfig
from training.backbone_student import Scores
from training.backbone_views import Views

_TOLD_APART = 1024
"""Most patches of a batch that are told apart from each other."""

_ITERATIONS = 3
"""Of Sinkhorn's balancing."""

Mean = Callable[[Tensor], Tensor]


def _own(value: Tensor) -> Tensor:
    return value


class Centres:
    """Running means of what the teacher says at each place of every size of grid.

    Args:
        decay: Share of the old mean that stays.
        mean: Turns means of this process into means over all of a parallel run.
    """

    def __init__(self, decay: float, mean: Mean = _own) -> None:
        self.decay, self.mean = decay, mean
        self._centres: dict[str, Tensor] = {}

    def centred(self, name: str, scores: Tensor) -> Tensor:
        """Scores without what is usual, and remember them for the next time.

        Args:
            name: Whose scores; each name has a centre of its own.
            scores: (N, ..., K); the mean is over N.
        """
        new = self.mean(scores.mean(dim=0))
        old = self._centres.get(name, new)
        # what is subtracted contains nothing of this batch, or a small one would lose what sets it apart
        self._centres[name] = torch.lerp(new, old, self.decay)
        return scores - old

    def state_dict(self) -> dict[str, Tensor]:
        """The means by name."""
        return dict(self._centres)

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take back what ``state_dict`` returned."""
        self._centres = {name: value.to(device) for name, value in state.items()}


class Targets(NamedTuple):
    """What the teacher says of the canvases.

    Attributes:
        cls: Distribution of each over the prototypes, (N, K).
        patches: Of each of their patches, (N, T, K).
        keys: Unit vectors by which these are told apart, (N, T, C).
    """

    cls: Tensor
    patches: Tensor
    keys: Tensor


@torch.no_grad()
def teacher_targets(scores: Scores, centres: Centres, temperature: float) -> Targets:
    """Targets from the teacher's scores; what is usual of each place is taken away, and remembered anew."""
    T = scores.patches.shape[1]
    patches = centres.centred(f"patches {T}", scores.patches)
    keys = centres.centred(f"keys {T}", scores.projected)
    return Targets(
        balanced(scores.cls, temperature, centres.mean),
        balanced(patches.flatten(0, 1), temperature, centres.mean).view_as(patches),
        F.normalize(keys, dim=-1),
    )


def balanced(scores: Tensor, temperature: float, mean: Mean = _own) -> Tensor:
    """Distributions over the prototypes of which the batch uses all alike, by Sinkhorn's iteration.

    Args:
        scores: (M, K).
        temperature: How sharp they are.
        mean: Turns means of this process into means over all of a parallel run.

    Returns:
        (M, K); every row sums to 1, and every column to about M / K.
    """
    x = (scores - mean(scores.mean(dim=0))) / temperature  # from here a few iterations are enough
    for _ in range(_ITERATIONS):
        used = mean(x.softmax(dim=1).mean(dim=0))  # (K,)
        x = x - used.clamp_min(1e-12).log()
    return x.softmax(dim=1)


def teacher_losses(student: Scores, targets: Targets, views: Views, config: LossConfig) -> dict[str, Tensor]:
    """The weighted terms of what the teacher says.

    Args:
        student: Of the windows.
        targets: Of the canvases.
        views: Which patch is which, and which were hidden.
        config: Weights and temperatures.
    """
    misses = cross_entropy(student.patches, at_places(targets.patches, views.places), config.student_temperature)
    across = targets.cls.roll(len(targets.cls) // 2, dims=0)  # the other canvas of the same image
    keys = at_places(targets.keys, views.places)
    return {
        "masked": config.masked * misses[views.mask].mean(),
        "visible": config.visible * misses[~views.mask].mean(),
        "cls": config.cls * cross_entropy(student.cls, across, config.student_temperature).mean(),
        "apart": config.apart * told_apart(student.projected, keys, config.student_temperature),
    }


def edge_loss(student: Scores, views: Views, config: LossConfig) -> dict[str, Tensor]:
    """The weighted squared error of the edges of all patches, hidden ones too; nothing if its weight is 0."""
    if not config.edges:
        return {}
    wrong = (student.edges - edge_directions(views.partner)).square().sum(dim=2)  # (N, P)
    return {"edges": config.edges * wrong.mean()}


def at_places(canvas: Tensor, places: Tensor) -> Tensor:
    """What belongs to the patches of the windows: (N, T, X) and (N, P) -> (N, P, X)."""
    return canvas.gather(1, places.unsqueeze(2).expand(-1, -1, canvas.shape[2]))


def told_apart(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Surprise, in nats, at which key belongs to which query, among those of 1024 random patches of the batch.

    Args:
        queries: Unit vectors of the student, (N, P, C).
        keys: Unit vectors of the teacher for the same patches, (N, P, C).
        temperature: Of the choice.
    """
    queries, keys = queries.flatten(0, 1), keys.flatten(0, 1)
    chosen = torch.randperm(len(queries))[:_TOLD_APART].to(queries.device)
    likeness = queries[chosen] @ keys[chosen].T / temperature
    return F.cross_entropy(likeness, torch.arange(len(chosen), device=likeness.device))


def cross_entropy(scores: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Surprise at a distribution, in nats: scores and target (..., K) -> (...)."""
    return -(target * (scores / temperature).log_softmax(dim=-1)).sum(dim=-1)


@torch.no_grad()
def collapse(targets: Tensor, features: Tensor) -> dict[str, Tensor]:
    """What tells of a collapse.

    Args:
        targets: The teacher's distributions of patches, (N, T, K).
        features: Its patches, (N, T, E).

    Returns:
        ``use``: entropy of the mean distribution, from 0 (one prototype for all) to 1 (all used alike). ``doubt``: mean
        entropy of a distribution, from 0 (one prototype each) to 1 (targets say nothing). ``cosine``: mean cosine of
        two patches of the batch; 1 where all are the same.
    """
    K = targets.shape[-1]
    unit = F.normalize(features, dim=-1).flatten(0, 1)  # (N · T, E)
    pairs = len(unit) * (len(unit) - 1)
    return {
        "use": _entropy(targets.mean(dim=(0, 1))) / math.log(K),
        "doubt": _entropy(targets).mean() / math.log(K),
        "cosine": (unit.sum(dim=0).square().sum() - len(unit)) / pairs,
    }


def _entropy(distribution: Tensor) -> Tensor:
    """In nats: (..., K) -> (...)."""
    return torch.special.entr(distribution).sum(dim=-1)
