"""Attention between the two streams at each pixel: IPA, its forerunner PA, and token exchange (Table 5).

A token attends to two keys, its own and one of the aligned token of the other stream. The softmax over two keys is the
sigmoid of the difference of their logits. In that difference the bias of the keys and all that both have in common
cancel, which leaves one weight α per pixel and head,

    out = W_O [(1 - α) V_own + α V_other],    α = sigmoid(Q · W_K g / √d),

with the difference g of the two keys before their projection. The residual (paper eq. 2 and 3) is added by the block.

Each pixel is treated alone, so tokens may come in any order. Shape letters: N batch, P windows, S tokens of a window,
D channels, M heads, d = D / M. Tokens are (N, P, S, D).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.tita.config import RelationActivation, TITAConfig
from models.tita.layers import Pair, linear

_EXCHANGE_BELOW = 0.02


class Relation(nn.Module):
    """Relation discriminator φ: how a token relates to the aligned one, per channel: 10,920 parameters.

    With a softmax the scores of a token sum to 1, so their mean is 1/D; with a sigmoid each lies in (0, 1) by itself.
    """

    def __init__(self, dim: int, activation: RelationActivation) -> None:
        super().__init__()
        self.layers = nn.Sequential(linear(2 * dim, dim), nn.GELU(), linear(dim, dim))
        self.activation = activation

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Scores of ``own``: two (N, P, S, D) -> (N, P, S, D)."""
        scores = self.layers(torch.cat([own, other], dim=-1))
        return scores.softmax(dim=-1) if self.activation == "softmax" else scores.sigmoid()


class TwoKeyAttention(nn.Module):
    """The attention of one direction in its closed form: 14,580 parameters.

    The authors' layer has D parameters more, the bias of its keys, which has no effect.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.out = linear(dim, dim)
        bound = math.sqrt(6.0 / (dim + 3 * dim))  # Xavier for the three as one layer, as multi-head attentions start
        for layer in (self.query, self.key, self.value):
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.value.bias)

    def forward(self, x: Tensor, gap: Tensor, own: Tensor, other: Tensor) -> Tensor:
        """Attend.

        Args:
            x: What the query is made of, (N, P, S, D).
            gap: The other key minus the own key, before their projection, same shape.
            own: What the own value is made of.
            other: What the other value is made of.

        Returns:
            (N, P, S, D).
        """
        heads = (self.heads, x.shape[-1] // self.heads)
        products = (self.query(x) * self.key(gap)).unflatten(-1, heads)  # (N, P, S, M, d)
        alpha = torch.sigmoid(products.sum(dim=-1, keepdim=True) / math.sqrt(heads[1]))  # (N, P, S, M, 1)
        own, other = self.value(own).unflatten(-1, heads), self.value(other).unflatten(-1, heads)
        out: Tensor = self.out((own + alpha * (other - own)).flatten(-2))
        return out


class PixelAttention(nn.Module, ABC):
    """What both kinds share: one attention per direction, φ for both, two noise tables; 40,320 parameters.

    A noise table has one learnt row per direction.
    """

    def __init__(self, dim: int, *, heads: int, activation: RelationActivation) -> None:
        super().__init__()
        self.relation = Relation(dim, activation)
        self.attention_a, self.attention_b = TwoKeyAttention(dim, heads), TwoKeyAttention(dim, heads)
        self.noise1, self.noise2 = nn.Parameter(torch.randn(2, dim)), nn.Parameter(torch.randn(2, dim))

    def forward(self, u: Tensor, v: Tensor) -> Pair:
        """Add to the tokens of both streams, (N, P, S, D) each, what they attend to."""
        noise_a, noise_b = torch.stack([self.noise1, self.noise2], dim=1)  # each (2, D)
        gap_a, own_a = self._terms(u, self.relation(u, v), noise_a)
        gap_b, own_b = self._terms(v, self.relation(v, u), noise_b)
        return Pair(u + self.attention_a(u, gap_a, own_a, v), v + self.attention_b(v, gap_b, own_b, u))

    @abstractmethod
    def _terms(self, x: Tensor, score: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Gap of the keys, and what the own value is made of, of tokens ``x`` with scores φ; ``noise`` is (2, D)."""


class InteractionPixelAttention(PixelAttention):
    """IPA (paper eq. 3): both keys come from the own token, N₁ + x - x ⊙ φ and N₂ + x + x ⊙ φ; values x and o."""

    def _terms(self, x: Tensor, score: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise[1] - noise[0] + 2.0 * x * score, x


class PlainPixelAttention(PixelAttention):
    """PA (paper eq. 2, GeminiFusion): keys N_K + x and x ⊙ φ, values N_V + x and o, with N_K, N_V = N₁, N₂."""

    def _terms(self, x: Tensor, score: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return x * score - (noise[0] + x), noise[1] + x


class TokenExchange(nn.Module):
    """TE (paper eq. 9): channels of a token whose score is below 0.02 are taken from the other stream.

    The paper leaves open what scores. Here φ does, shared by both directions, which gives the paper's parameter count;
    with a softmax over 60 channels its scores lie around the threshold. The decision is hard, its gradient is that of
    the score (straight-through).
    """

    def __init__(self, dim: int, activation: RelationActivation) -> None:
        super().__init__()
        self.relation = Relation(dim, activation)

    def forward(self, u: Tensor, v: Tensor) -> Pair:
        """Exchange between the tokens of both streams, (N, P, S, D) each."""
        return Pair(self._exchange(u, v), self._exchange(v, u))

    def _exchange(self, own: Tensor, other: Tensor) -> Tensor:
        score = self.relation(own, other)
        keep = (score >= _EXCHANGE_BELOW).to(score.dtype) + (score - score.detach())
        return other + keep * (own - other)


def make_mixer(config: TITAConfig) -> nn.Module | None:
    """The module that ``config.pixel_attention`` names; ``None`` for ``none``."""
    dim, heads, activation = config.dim, config.pixel_heads, config.relation_act
    if config.pixel_attention == "ipa":
        return InteractionPixelAttention(dim, heads=heads, activation=activation)
    if config.pixel_attention == "pa":
        return PlainPixelAttention(dim, heads=heads, activation=activation)
    return TokenExchange(dim, activation) if config.pixel_attention == "te" else None
