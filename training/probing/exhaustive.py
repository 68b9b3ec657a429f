"""Exhaustive cross-check (§3.3): edit every position, channel group and sign, and see what changes, and how steadily.

Shape letters: P pairs, K tokens, C token channels, G channel groups, E edits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.probing.edited import EditedFusion, evenly
from training.probing.measures import score
from training.probing.settings import CheckSettings
from training.probing.slots import GROUP

SIGNS = (1.0, -1.0)
_TINY = 1e-6


@dataclass(frozen=True)
class Check:
    """Effect of every position, channel group and sign.

    Attributes:
        mean: Mean change of EI, AG, SF, SSIM over the pairs, (K, G, 2, 4).
        std: Its standard deviation over the pairs, same shape.
        score: Mean J, (K, G, 2).
        min_share: Groups with less than this share of their position's largest |J| are never chosen.
    """

    mean: Tensor
    std: Tensor
    score: Tensor
    min_share: float

    @property
    def stability(self) -> Tensor:
        """|mean| / standard deviation, averaged over the measures and signs: (K, G)."""
        return (self.mean.abs() / self.std.clamp_min(_TINY)).mean(dim=(2, 3))

    @property
    def best(self) -> Tensor:
        """Largest J of each position over groups and signs: (K,)."""
        return self.score.amax(dim=(1, 2))

    def ranked(self) -> list[int]:
        """All positions, best first.

        By J, not by stability: an edit that hardly does anything is often the steadiest.
        """
        return [int(k) for k in self.best.argsort(descending=True, stable=True)]

    def group(self, position: int) -> int:
        """The steadiest channel group of a position, among those with a notable effect."""
        effect = self.score[position].abs().amax(dim=1)  # (G,)
        eligible = effect >= self.min_share * effect.max()
        return int(self.stability[position].masked_fill(~eligible, -1.0).argmax())


def group_edits(num_tokens: int, token_dim: int, amplitude: float) -> Tensor:
    """Every tested edit, (K · G · 2, K, C), signs fastest: equal numbers on a group, together of norm ``amplitude``."""
    groups = token_dim // GROUP
    edits = torch.zeros(num_tokens, groups, len(SIGNS), num_tokens, token_dim)
    for k in range(num_tokens):
        for g in range(groups):
            for s, sign in enumerate(SIGNS):
                edits[k, g, s, k, GROUP * g : GROUP * (g + 1)] = sign * amplitude / GROUP**0.5
    return edits.flatten(0, 2)


def check_all(subject: EditedFusion, settings: CheckSettings) -> Check:
    """Run the check.

    Returns:
        The statistics over ``settings.check_pairs`` pairs.
    """
    K, C = subject.num_tokens, subject.token_dim
    rows = evenly(len(subject), settings.check_pairs)
    edits = group_edits(K, C, settings.amplitude).to(subject.a.device)
    measured = subject.measured_all(edits, rows, chunk=settings.chunk)  # (P, E, 4)
    unedited = subject.unedited[rows, None].expand_as(measured)
    change = (measured - unedited).cpu().unflatten(1, (K, C // GROUP, len(SIGNS)))  # (P, K, G, 2, 4)
    gain = score(measured, unedited, subject.weights).cpu().unflatten(1, (K, C // GROUP, len(SIGNS)))
    return Check(change.mean(dim=0), change.std(dim=0), gain.mean(dim=0), settings.min_share)


def channel_slopes(subject: EditedFusion, position: int, settings: CheckSettings) -> Tensor:
    """Change of J per unit of each single channel at one position, (C,): half the difference of both signs."""
    K, C = subject.num_tokens, subject.token_dim
    edits = torch.zeros(C, len(SIGNS), K, C)
    for c in range(C):
        for s, sign in enumerate(SIGNS):
            edits[c, s, position, c] = sign * settings.amplitude
    rows = evenly(len(subject), settings.check_pairs)
    gain = subject.score_all(edits.flatten(0, 1).to(subject.a.device), rows, chunk=settings.chunk)  # (P, 2 C)
    plus, minus = gain.mean(dim=0).cpu().unflatten(0, (C, 2)).unbind(dim=1)
    return (plus - minus) / (2.0 * settings.amplitude)
