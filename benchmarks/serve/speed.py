"""Throughput and latency: the bare pipeline and every server in turn, round after round."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from benchmarks.errors import BenchError
from benchmarks.serve.bare import Bare, all_cores, one_by_one
from benchmarks.serve.load import LATE, NO_ANSWER, OK, UNAVAILABLE, Load, closed_loop, first_answer
from benchmarks.serve.profile import MIXED, Profile
from benchmarks.serve.subjects import PAIRFUSE, Subject

ONE_SIZE = "one size"
WAYS: dict[str, Callable[[str, float], Bare]] = {"one by one": one_by_one, "one on each core": all_cores}
# Mean grey levels between the luminances of two servers. Colour may differ: where it does not fit, each has its way.
LARGEST_DIFFERENCE = 1.0


@dataclass(frozen=True)
class Cell:
    """What is measured in one turn.

    Attributes:
        name: Of the server.
        pairs: ``one size`` or ``mixed``.
        clients: Number of clients at once.
    """

    name: str
    pairs: str
    clients: int


@dataclass
class Speed:
    """All turns; each list has one entry a round.

    Attributes:
        bare: The bare pipeline, by pairs and way.
        loads: The servers.
    """

    bare: dict[tuple[str, str], list[Bare]] = field(default_factory=dict)
    loads: dict[Cell, list[Load]] = field(default_factory=dict)

    def best_bare(self, pairs: str) -> list[float]:
        """Returns pictures a second of the better way in each round."""
        ways = [self.bare[pairs, way] for way in WAYS]
        return [max(turn.throughput for turn in turns) for turns in zip(*ways, strict=True)]

    def capacity(self) -> float:
        """Returns the pictures a second that pairfuse reached with the number of clients that suits it best."""
        of_one_size = [loads for cell, loads in self.loads.items() if (cell.name, cell.pairs) == (PAIRFUSE, ONE_SIZE)]
        return max(float(np.median([load.throughput for load in loads])) for loads in of_one_size)


def measure_speed(
    subjects: Sequence[Subject],
    bare: ProcessPoolExecutor,
    clients: ProcessPoolExecutor,
    profile: Profile,
    on_turn: Callable[[], object],
) -> Speed:
    """Gives each its turn in every round, in every second round backwards.

    Args:
        subjects: The servers, asleep.
        bare: The process of the bare pipeline.
        clients: The process of the clients.
        profile: Lengths and counts.
        on_turn: Called after each turn.

    Raises:
        BenchError: A server answered something else than a picture, or another picture than the others.
    """
    _check_pictures(subjects, clients)
    speed, turns = Speed(), _turns(subjects, bare, clients, profile)
    for number in range(profile.rounds):
        for turn in turns[:: -1 if number % 2 else 1]:
            turn(speed)
            on_turn()
    return speed


def count_turns(subjects: int, profile: Profile) -> int:
    """Returns the number of turns with so many servers."""
    cells = len(profile.clients) + 1 + (subjects - 1) * (len(profile.rival_clients) + 1)
    return profile.rounds * (2 * len(WAYS) + cells)


def _turns(
    subjects: Sequence[Subject], bare: ProcessPoolExecutor, clients: ProcessPoolExecutor, profile: Profile
) -> list[Callable[[Speed], None]]:
    turns: list[Callable[[Speed], None]] = []
    for pairs in (ONE_SIZE, MIXED):
        turns += [partial(_bare_turn, bare, pairs, way, profile.seconds) for way in WAYS]
        for subject in subjects:
            several = profile.clients if subject.name == PAIRFUSE else profile.rival_clients
            for number in several if pairs == ONE_SIZE else (profile.mixed_clients,):
                cell = Cell(subject.name, pairs, number)
                turns.append(partial(_server_turn, subject, clients, cell, profile.seconds))
    return turns


def _bare_turn(process: ProcessPoolExecutor, pairs: str, way: str, seconds: float, speed: Speed) -> None:
    speed.bare.setdefault((pairs, way), []).append(process.submit(WAYS[way], pairs, seconds).result())


def _server_turn(subject: Subject, clients: ProcessPoolExecutor, cell: Cell, seconds: float, speed: Speed) -> None:
    with subject.awake() as server:
        run = partial(closed_loop, server.port, cell.pairs, clients=cell.clients, seconds=seconds)
        load = clients.submit(run).result()
    strange = {shot.status for shot in load.shots} - {OK, UNAVAILABLE, LATE}
    if strange or not load.times:
        what = "a lost connection" if NO_ANSWER in strange else f"{sorted(strange) or 'nothing but refusals'}"
        raise BenchError(
            f"{subject.name} gave {what} with {cell.clients} clients; its log: {subject.server.log_tail()}"
        )
    speed.loads.setdefault(cell, []).append(load)


def _check_pictures(subjects: Sequence[Subject], clients: ProcessPoolExecutor) -> None:
    """Makes sure that all servers do the same work; warms them up on the way."""
    pictures = {}
    for subject in subjects:
        with subject.awake() as server:
            answer = clients.submit(first_answer, server.port, ONE_SIZE).result()
            clients.submit(partial(closed_loop, server.port, MIXED, clients=2, requests=4)).result()
        try:
            pictures[subject.name] = np.asarray(Image.open(io.BytesIO(answer)).convert("L"), np.float32)
        except OSError:
            raise BenchError(f"{subject.name} answered no picture: {answer[:300]!r}") from None
    expected = pictures[PAIRFUSE]
    for name, found in pictures.items():
        difference = float(np.abs(found - expected).mean()) if found.shape == expected.shape else float("inf")
        if difference > LARGEST_DIFFERENCE:
            raise BenchError(f"the picture of {name} differs from that of pairfuse by {difference:.1f} grey levels")
