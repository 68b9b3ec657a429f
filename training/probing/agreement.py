"""Do different methods choose the same positions?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.probing.exhaustive import Check


def compare(chosen: Sequence[int], others: Mapping[str, Sequence[int]], check: Check) -> dict[str, Any]:
    """The positions that other methods chose, which of them are shared, and the chosen ones' ranks by score.

    Args:
        chosen: Positions of the slot file.
        others: Positions by method.
        check: Ranks all positions by score, 1 is best.
    """
    ranked = check.ranked()
    return {
        "ranks_by_score": [ranked.index(position) + 1 for position in chosen],
        **{name: {"positions": list(own), "shared": sorted({*chosen} & {*own})} for name, own in others.items()},
    }


def agreement_lines(method: str, chosen: Sequence[int], result: Mapping[str, Any], num_tokens: int) -> list[str]:
    """The comparison in plain words, one line for each other method."""
    if not chosen:
        return []
    ranks = _words(result["ranks_by_score"])
    lines = [f"{method} chose {_words(chosen)}; by score in the exhaustive check: rank {ranks} of {num_tokens}"]
    for name, own in result.items():
        if name == "ranks_by_score":
            continue
        shared = own["shared"]
        wanted = min(len(chosen), len(own["positions"]))
        verdict = "agrees" if len(shared) == wanted else f"agrees on {_words(shared)}" if shared else "disagrees"
        lines.append(f"{name} chose {_words(own['positions'])}: {verdict} ({len(shared)} of {wanted})")
    return lines


def seed_line(seeds: Sequence[Mapping[str, Any]], chosen: Sequence[int]) -> str:
    """How many searches ended at the same positions."""
    same = sum({*seed["positions"]} == {*chosen} for seed in seeds)
    return f"{same} of {len(seeds)} seeds ended at these positions; the one with the largest score was taken"


def _words(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
