"""Selective Token Editing (paper eq. 8): a few learned numbers, added to chosen token positions and channels.

Shape letters: N batch, K tokens, C token channels, S slots, G edited channels per slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_TINY = 1e-12
_REQUIRED = ("tokenizer_id", "sha256", "K", "C", "positions", "channels", "names")
_EVIDENCE = (
    "method",
    "budget",
    "per_slot_frequency",
    "per_group_stability",
    "per_group_score",
    "score_curve",
    "slot_effects",
    "joint_effect",
    "agreement",
    "per_modality",
    "seed",
    "seeds",
    "settings",
)
"""What a slot file may tell about the probe; all optional."""


def channels_per_slot(channels: Sequence[int] | Sequence[Sequence[int]], num_slots: int) -> tuple[tuple[int, ...], ...]:
    """Write channels as one tuple per slot.

    Args:
        channels: Either the channels that all slots share, or one sequence of equal length for each slot.
        num_slots: Number of slots S.

    Returns:
        S tuples of G channels.

    Raises:
        ValueError: The two forms are mixed, or counts differ, or a slot names a channel twice.
    """
    shared = tuple(c for c in channels if isinstance(c, int))
    own = tuple(tuple(c) for c in channels if not isinstance(c, int))
    if shared and own:
        raise ValueError(f"channels must be numbers or one list per slot, not both: {channels!r}")
    result = own or (shared,) * num_slots
    if len(result) != num_slots:
        raise ValueError(f"{len(result)} lists of channels for {num_slots} slots")
    if len({len(slot) for slot in result}) > 1:
        raise ValueError(f"every slot must edit the same number of channels: {channels!r}")
    if any(not slot or len(set(slot)) != len(slot) for slot in result):
        raise ValueError(f"a slot needs at least one channel, and none twice: {channels!r}")
    return result


def _check_range(what: str, values: Sequence[int], size: int) -> None:
    if wrong := [value for value in values if not 0 <= value < size]:
        raise ValueError(f"{what} {wrong} outside 0…{size - 1}")


@dataclass(frozen=True)
class SlotSpec:
    """Which tokens of one tokenizer are edited: the content of a slot file.

    Positions and channels count from 0. They mean nothing for a tokenizer other than the one that was probed.

    Attributes:
        tokenizer_id: Identity of the probed tokenizer.
        sha256: Checksum of that tokenizer's weights.
        num_tokens: K.
        token_dim: C.
        positions: Token position of each slot.
        channels: Edited channels of each slot; one shared sequence is accepted and repeated.
        names: What a user calls each slot.
        evidence: Results of the probe that chose the slots; kept for the record.
    """

    tokenizer_id: str
    sha256: str
    num_tokens: int
    token_dim: int
    positions: tuple[int, ...]
    channels: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", tuple(self.positions))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "channels", channels_per_slot(self.channels, len(self.positions)))
        _check_range("slot positions", self.positions, self.num_tokens)
        _check_range("slot channels", [c for slot in self.channels for c in slot], self.token_dim)
        if len(self.names) != len(self.positions) or len(set(self.names)) != len(self.names):
            raise ValueError(f"{len(self.positions)} slots need as many different names, not {list(self.names)}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SlotSpec:
        """Build from the parsed JSON of a slot file.

        Args:
            data: Keys ``tokenizer_id, sha256, K, C, positions, channels, names`` and, optionally, the probe's evidence:
                ``per_slot_frequency, per_group_stability, score_curve, slot_effects, seed`` and others.

        Raises:
            ValueError: A key is missing or unknown, or a value does not fit the others.
        """
        if missing := [key for key in _REQUIRED if key not in data]:
            raise ValueError(f"the slot file lacks {', '.join(missing)}")
        if unknown := sorted(data.keys() - {*_REQUIRED, *_EVIDENCE}):
            raise ValueError(f"the slot file has unknown keys: {', '.join(unknown)}")
        return cls(
            tokenizer_id=data["tokenizer_id"],
            sha256=data["sha256"],
            num_tokens=data["K"],
            token_dim=data["C"],
            positions=data["positions"],
            channels=data["channels"],
            names=data["names"],
            evidence={key: data[key] for key in _EVIDENCE if key in data},
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a slot file; ``from_dict`` reads it back."""
        return {
            "tokenizer_id": self.tokenizer_id,
            "sha256": self.sha256,
            "K": self.num_tokens,
            "C": self.token_dim,
            "positions": list(self.positions),
            "channels": [list(slot) for slot in self.channels],
            "names": list(self.names),
            **self.evidence,
        }

    def check_tokenizer(self, tokenizer_id: str) -> None:
        """Refuse a tokenizer other than the probed one.

        Raises:
            ValueError: The identities differ.
        """
        if tokenizer_id != self.tokenizer_id:
            raise ValueError(
                f"these edit slots were probed on the tokenizer {self.tokenizer_id!r} and mean nothing for "
                f"{tokenizer_id!r}: probe that tokenizer and use its slot file"
            )


class SelectiveTokenEditing(nn.Module):
    """Adds g_s·Δ_s to the edited channels of each slot's token.

    One offset per slot serves both modalities. It starts at zero. The strength is clipped to
    [0, min(max_strength, max_offset / ‖Δ_s‖)] inside the graph: tokens have norm 1, and a larger offset would
    leave the region that training has seen.

    Args:
        num_tokens: K.
        token_dim: C.
        positions: Token position of each slot; may be empty, then nothing is ever edited.
        channels: Channels that all slots edit, or one sequence per slot.
        max_strength: Upper end of the strength.
        max_offset: Largest norm of g_s·Δ_s.
        enabled: ``False`` returns the tokens as they are.
    """

    scatter: Tensor

    def __init__(
        self,
        num_tokens: int,
        *,
        token_dim: int = 12,
        positions: Sequence[int],
        channels: Sequence[int] | Sequence[Sequence[int]],
        max_strength: float = 2.0,
        max_offset: float = 0.75,
        enabled: bool = True,
    ) -> None:
        super().__init__()
        rows = channels_per_slot(channels, len(positions))
        _check_range("slot positions", positions, num_tokens)
        _check_range("slot channels", [c for row in rows for c in row], token_dim)
        self.num_slots = len(positions)
        self.max_strength = max_strength
        self.max_offset = max_offset
        self.enabled = enabled
        num_channels = len(rows[0]) if rows else 0
        scatter = torch.zeros(self.num_slots, num_channels, num_tokens, token_dim)
        for s, (position, row) in enumerate(zip(positions, rows, strict=True)):
            for g, channel in enumerate(row):
                scatter[s, g, position, channel] = 1.0
        self.register_buffer("scatter", scatter, persistent=False)  # (S, G, K, C)
        self.delta = nn.Parameter(torch.zeros(self.num_slots, num_channels))  # (S, G)

    @classmethod
    def from_spec(cls, spec: SlotSpec) -> SelectiveTokenEditing:
        """Build for the slots of a slot file."""
        return cls(spec.num_tokens, token_dim=spec.token_dim, positions=spec.positions, channels=spec.channels)

    def strength_limit(self) -> Tensor:
        """Largest strength of each slot, (S,). Carries no gradient."""
        norm: Tensor = torch.linalg.vector_norm(self.delta.detach(), dim=1)  # (S,)
        return (self.max_offset / norm.clamp_min(_TINY)).clamp(max=self.max_strength)

    def forward(self, tokens: Tensor, strength: Tensor) -> Tensor:
        """Edit tokens.

        Args:
            tokens: (N, K, C).
            strength: g, (N, S), or (S,) for the whole batch; values outside the slot's range are clipped.
                Zero leaves the tokens exactly as they are.

        Returns:
            The edited tokens, (N, K, C).
        """
        if strength.shape[-1] != self.num_slots or strength.ndim > 2:
            S = self.num_slots
            raise ValueError(f"the strength must be (N, {S}) or ({S},), not {tuple(strength.shape)}")
        if not self.enabled or self.num_slots == 0:
            return tokens
        gain = torch.minimum(strength.clamp(min=0.0), self.strength_limit())  # (N, S) or (S,)
        offset = gain.reshape(-1, self.num_slots, 1) * self.delta  # (N or 1, S, G)
        # A product and a sum, not a matrix product: exact in float32 whatever the matrix precision is set to.
        return tokens + (offset[..., None, None] * self.scatter).sum(dim=(1, 2))

    @torch.no_grad()
    def project_norm_(self, max_norm: float = 0.375) -> None:
        """Shrink every longer offset to ``max_norm``; call after each optimiser step.

        At the default the whole range of strengths 0–2 stays inside the bound of 0.75.
        """
        norm = torch.linalg.vector_norm(self.delta, dim=1, keepdim=True)  # (S, 1)
        self.delta.mul_((max_norm / norm.clamp_min(_TINY)).clamp(max=1.0))
