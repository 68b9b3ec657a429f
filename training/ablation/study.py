"""What a model must bring along for its ablations to be run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from training.ablation.measured import Measured
from training.config import Recipe


class Job(Protocol):
    """A row that can be run."""

    @property
    def settings(self) -> tuple[str, ...]:
        """What the row changes in the recipe, as ``--set`` takes it."""

    @property
    def departures(self) -> tuple[str, ...]:
        """Those of its settings that the table is not about: the reader must be warned of them."""

    def facts(self) -> dict[str, str]:
        """What the table says about the row, by column."""

    def record(self) -> dict[str, Any]:
        """The same for programs."""


class MeasuredPairs(Protocol):
    """The pairs that are measured."""

    @property
    def names(self) -> list[str]:
        """Of every pair."""

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each folder."""


@dataclass(frozen=True)
class Skip:
    """A row that cannot be run, and why."""

    reason: str


JobT = TypeVar("JobT", bound=Job)


class Study(ABC, Generic[JobT]):
    """One table of one model, with what the user gave for it.

    Attributes:
        recipe: Of every row, before the row changes it.
        val: The pairs that are measured.
    """

    recipe: Recipe
    val: MeasuredPairs

    def notes(self) -> tuple[str, ...]:
        """What a reader must know of this recipe, beside the table's own notes."""
        return ()

    @property
    def runs(self) -> int:
        """Runs of each row, each with the seed after that of the one before."""
        return 1

    @abstractmethod
    def build(self, row: str) -> JobT | Skip:
        """What a row needs, or why it must be left out.

        Raises:
            DataError: A file that was given for it is missing, damaged or does not fit.
        """

    @abstractmethod
    def run(self, job: JobT, folder: Path) -> Measured:
        """Train a row unless it is finished, and measure it unless that is done.

        Raises:
            DataError: The folder holds another run, or the run or a metric failed.
        """
