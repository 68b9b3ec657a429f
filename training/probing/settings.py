"""Every number of the probe, with its default; each is an option of ``python -m training probe``."""

from __future__ import annotations

import argparse
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from training.config import Strict
from training.data.images import DataError

Modality = Literal["both", "a", "b"]
"""Whose tokens are edited."""


class PairSettings(Strict):
    """Probing pairs: read once, tokens encoded once."""

    pairs: int = Field(64, ge=2, description="pairs, taken at equal steps from the folder")
    side: int = Field(128, ge=32, multiple_of=8, description="their side in pixels, a multiple of 8")
    fit: Literal["squash", "crop"] = Field("squash", description="squash whole frames, or crop their centre")


class SearchSettings(Strict):
    """Gumbel-Softmax search."""

    steps: int = Field(600, gt=0, description="optimiser steps of each seed")
    batch: int = Field(8, gt=0, description="pairs per step")
    seeds: int = Field(5, gt=0, description="searches, with seeds --seed, --seed + 1, …; the best one is taken")
    epsilon: float = Field(0.5, gt=0, description="norm of each slot's edit; a token has norm 1")
    lr_logits: float = Field(0.05, gt=0, description="learning rate of the positions")
    lr_direction: float = Field(0.01, gt=0, description="learning rate of the directions")
    tau_start: float = Field(4.0, gt=0, description="temperature of the first step")
    tau_end: float = Field(0.3, gt=0, description="temperature of the last step; it falls exponentially")
    penalty: float = Field(0.1, ge=0, description="price on two slots at one position")
    window: int = Field(100, gt=0, description="last steps over which selections are counted")


class CheckSettings(Strict):
    """Score, and exhaustive check of every position, channel group and sign."""

    score_weights: tuple[float, float, float, float] = Field(
        (1.0, 1.0, 1.0, 3.0), description="weights of EI, AG, SF and SSIM in the score"
    )
    amplitude: float = Field(0.25, gt=0, description="norm of each tested edit")
    check_pairs: int = Field(8, ge=2, description="pairs of the check")
    min_share: float = Field(
        0.25, ge=0, le=1, description="groups with less than this share of the position's largest effect are left out"
    )
    chunk: int = Field(16, gt=0, description="edits per forward pass")


SettingsT = TypeVar("SettingsT", bound=Strict)


def add_options(parser: argparse.ArgumentParser, section: type[Strict]) -> None:
    """Add one option for each field of a section, with the field's default and description."""
    group = parser.add_argument_group((section.__doc__ or "").rstrip("."))
    for name, field in section.model_fields.items():
        default = field.default
        several = isinstance(default, tuple)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default[0] if several else default),
            nargs=len(default) if several else None,
            metavar="X" if isinstance(default, float) or several else "NAME" if isinstance(default, str) else "N",
            default=default,
            help=f"{field.description} ({' '.join(f'{x:g}' for x in default) if several else default})",
        )


def from_args(section: type[SettingsT], args: argparse.Namespace) -> SettingsT:
    """Read a section back from parsed options.

    Raises:
        DataError: A value is out of range; the message names the option.
    """
    try:
        return section.model_validate({name: getattr(args, name) for name in section.model_fields})
    except ValidationError as error:
        problems = (f"--{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise DataError("; ".join(problems)) from error
