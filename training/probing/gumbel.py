"""Slot selection by Gumbel-Softmax (paper eq. 6-7): learn which positions to edit, and in which direction.

Each slot s holds logits a_s over the K positions and a direction u_s. A position is drawn for every pair,
y_s = softmax((a_s + g) / τ) with Gumbel noise g, made one-hot in the forward pass; the tokens receive
Σ_s y_s ⊗ ε u_s/‖u_s‖. Only a_s and u_s learn: the tokenizer and the network are frozen.

Shape letters: N pairs, S slots, K tokens, C token channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from training.probing.edited import EditedFusion
from training.probing.settings import SearchSettings

_CURVE_POINTS = 60


class Selector(nn.Module):
    """What the search learns.

    Args:
        slots: S.
        num_tokens: K.
        token_dim: C.
        generator: Source of the initial values.
    """

    def __init__(self, slots: int, num_tokens: int, token_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.logits = nn.Parameter(0.01 * torch.randn(slots, num_tokens, generator=generator))
        self.directions = nn.Parameter(torch.randn(slots, token_dim, generator=generator))

    def offsets(self, epsilon: float) -> Tensor:
        """The vector that each slot adds to a token, (S, C), each of norm ``epsilon``."""
        return epsilon * F.normalize(self.directions, dim=1)

    def draw(self, count: int, tau: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one position per pair and slot (eq. 6); a later slot never gets the position of an earlier one.

        Without that rule all slots settle on one strong position: the price on overlap is small beside its score.

        Args:
            count: Pairs N.
            tau: Temperature τ.
            generator: On the CPU, so that a seed gives the same noise on every device.

        Returns:
            The one-hot choice with the gradient of the soft one, and the soft choice, each (N, S, K).
        """
        uniform = torch.rand(count, *self.logits.shape, generator=generator).clamp(1e-10, 1.0 - 1e-7)
        noise = -(-uniform.log()).log()
        noisy = (self.logits + noise.to(self.logits.device)) / tau
        taken = torch.zeros_like(noisy[:, 0], dtype=torch.bool)  # (N, K)
        choices, softs = [], []
        for row in noisy.unbind(dim=1):
            soft = F.softmax(row.masked_fill(taken, -torch.inf), dim=-1)
            hard = F.one_hot(soft.argmax(dim=-1), soft.shape[-1])
            taken = taken | hard.bool()
            choices.append(hard.to(soft.dtype) + soft - soft.detach())
            softs.append(soft)
        return torch.stack(choices, dim=1), torch.stack(softs, dim=1)


@dataclass(frozen=True)
class Selection:
    """What one search found.

    Attributes:
        seed: Of the search.
        positions: Position of each slot, all different.
        offsets: The learned ε u_s/‖u_s‖, (S, C).
        frequency: How often each position was chosen in the last steps, (S, K); each row sums to 1.
        mean_soft: Mean of the soft choice y over the same steps, (S, K).
        curve: Mean score per block of steps.
        score: Mean score of all pairs with the final positions and offsets, without noise.
    """

    seed: int
    positions: tuple[int, ...]
    offsets: Tensor
    frequency: Tensor
    mean_soft: Tensor
    curve: tuple[float, ...]
    score: float

    @property
    def entropy(self) -> list[float]:
        """Entropy of each slot's frequency in bits: 0 for a settled choice, log₂ K for none."""
        return [max(0.0, float(torch.special.entr(p).sum()) / math.log(2.0)) for p in self.frequency]


def temperature(step: int, settings: SearchSettings) -> float:
    """τ at a step: exponential from ``tau_start`` to ``tau_end``."""
    progress = step / max(1, settings.steps - 1)
    return settings.tau_start * (settings.tau_end / settings.tau_start) ** progress


def overlap(soft: Tensor) -> Tensor:
    """Σ_{s<s'} ⟨y_s, y_s'⟩, mean over the pairs: (N, S, K) -> scalar. Price on slots that want one position."""
    products = soft @ soft.transpose(1, 2)  # (N, S, S)
    return products.triu(diagonal=1).sum(dim=(1, 2)).mean()


def distinct_positions(frequency: Tensor) -> tuple[int, ...]:
    """The position of each slot, all different, with the largest total frequency: (S, K) -> S numbers."""
    _, columns = linear_sum_assignment(-frequency.numpy())
    return tuple(int(k) for k in columns)


def search(subject: EditedFusion, slots: int, settings: SearchSettings, seed: int) -> Selection:
    """Run one search.

    Args:
        subject: Network and pairs.
        slots: Budget S, at least 1.
        settings: Steps, rates, temperatures.
        seed: Decides the start, the noise and the order of the pairs.

    Raises:
        ValueError: There are more slots than token positions.
    """
    if not 1 <= slots <= subject.num_tokens:
        raise ValueError(f"{slots} slots do not fit {subject.num_tokens} token positions")
    generator = torch.Generator().manual_seed(seed)
    selector = Selector(slots, subject.num_tokens, subject.token_dim, generator).to(subject.a.device)
    rates = ((selector.logits, settings.lr_logits), (selector.directions, settings.lr_direction))
    optimizer = torch.optim.Adam([{"params": [parameter], "lr": rate} for parameter, rate in rates])
    scores, counted = [], min(settings.window, settings.steps)
    frequency, mean_soft = torch.zeros(2, slots, subject.num_tokens).unbind()
    bar = trange(settings.steps, desc=f"{slots} slots, seed {seed}", dynamic_ncols=True, leave=False, mininterval=2.0)
    for step in bar:
        optimizer.zero_grad(set_to_none=True)
        loss, gain, hard, soft = search_loss(subject, selector, settings, step, generator)
        loss.backward()
        optimizer.step()
        scores.append(float(gain))
        bar.set_postfix(score=f"{scores[-1]:.4f}", refresh=False)
        if step >= settings.steps - counted:
            frequency += hard.mean(dim=0).cpu() / counted
            mean_soft += soft.mean(dim=0).cpu() / counted
    positions, offsets = distinct_positions(frequency + mean_soft), selector.offsets(settings.epsilon).detach().cpu()
    final = _final_score(subject, positions, offsets)
    return Selection(seed, positions, offsets, frequency, mean_soft, _blocks(scores), final)


def search_loss(
    subject: EditedFusion, selector: Selector, settings: SearchSettings, step: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss of one step on random pairs: -J, and the price on slots that want one position.

    Returns:
        Loss; mean J, the hard choice (N, S, K) and the soft one, the last three without gradient.
    """
    batch = min(settings.batch, len(subject))
    rows = torch.randperm(len(subject), generator=generator)[:batch].to(subject.a.device)
    choice, soft = selector.draw(batch, temperature(step, settings), generator)
    edit = torch.einsum("nsk,sc->nkc", choice, selector.offsets(settings.epsilon))
    gain = subject.score(rows, edit).mean()
    loss = settings.penalty * overlap(soft) - gain
    return loss, gain.detach(), choice.detach().round(), soft.detach()


def _blocks(scores: list[float]) -> tuple[float, ...]:
    """Means of at most 60 blocks of equal length."""
    size = math.ceil(len(scores) / _CURVE_POINTS)
    return tuple(sum(part) / len(part) for part in (scores[i : i + size] for i in range(0, len(scores), size)))


def _final_score(subject: EditedFusion, positions: tuple[int, ...], offsets: Tensor) -> float:
    edit = torch.zeros(1, subject.num_tokens, subject.token_dim)
    for position, offset in zip(positions, offsets, strict=True):
        edit[0, position] = offset
    return float(subject.score_all(edit.to(subject.a.device)).mean())
