"""Damages the bytes of valid images, at random but repeatable, and looks for a 500 or for silence."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.chaos import files, forms
from benchmarks.chaos.crowd import perform_all
from benchmarks.chaos.files import Pair
from benchmarks.chaos.wire import Outcome, Sending

RIGHT = frozenset({200, 400, 413, 415, 422})
HEADER_BYTES = 64
MOST_FAULTS = 20
# Values at the edges of the integers that headers are made of.
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
SIZE = files.SIZES[1]


@dataclass
class Fuzzed:
    """What the damaged images met.

    Attributes:
        ends: Number of cases by type of image and end: a status, or ``lost`` or ``hung``.
        faults: Cases with a wrong end, in words.
        kept: Files of those cases.
    """

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """All cases."""
        return sum(ends.total() for ends in self.ends.values())


def fuzz(
    port: int,
    *,
    seconds: float,
    seed: int,
    at_once: int,
    keep: Path,
    on_case: Callable[[], object],
    most: int | None = None,
) -> Fuzzed:
    """Sends damaged images until the time is over or too much is broken.

    Args:
        port: Where the service listens.
        seconds: For how long.
        seed: Case ``n`` of a seed is always the same.
        at_once: Number of clients at once.
        keep: Folder for the images that broke something; made when there is one.
        on_case: Called after each case.
        most: Number of cases after which it ends earlier.
    """
    fuzzed, ends_at = Fuzzed(), time.monotonic() + seconds

    def cases() -> Iterator[tuple[int, Sending]]:
        number = 0
        while time.monotonic() < ends_at and number != most and len(fuzzed.faults) < MOST_FAULTS:
            yield number, _sending(seed, number)
            number += 1

    def enter(number: int, sending: Sending, outcome: Outcome) -> None:
        end = outcome.end if outcome.status is None else str(outcome.status)
        fuzzed.ends.setdefault(sending.kind, Counter())[end] += 1
        if outcome.status not in RIGHT:
            path = keep / f"{seed}-{number}.{sending.kind.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(case(seed, number)[1])
            fuzzed.kept.append(path)
            fuzzed.faults.append(f"case {number} ({sending.kind}): {end}; the image is in {path}")
        on_case()

    asyncio.run(perform_all(port, cases(), at_once, enter))
    return fuzzed


def case(seed: int, number: int) -> tuple[str, bytes]:
    """Returns type and bytes of a damaged image."""
    random = Random(f"fuzz/{seed}/{number}")
    kind = random.choice(files.KINDS)
    deep = kind in {"PNG", "TIFF"} and random.random() < 0.3
    damaged = mutate(files.picture(SIZE, kind, deep), random)
    # The checksums of PNG would hide nearly all damage from the decoder.
    return kind, files.repair_checksums(damaged) if kind == "PNG" and random.random() < 0.8 else damaged


def mutate(data: bytes, random: Random) -> bytes:
    """Returns the data with one to eight damages, half of them in its first bytes."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 8)):
        last = min(len(damaged), HEADER_BYTES) if random.random() < 0.5 else len(damaged)
        if damaged:
            random.choice(DAMAGES)(damaged, random.randrange(last), random)
    return bytes(damaged)


def _flip(data: bytearray, place: int, random: Random) -> None:
    data[place] ^= 1 << random.randrange(8)


def _edge(data: bytearray, place: int, random: Random) -> None:
    width = random.choice((1, 2, 4))
    value = random.choice(EDGES) & (1 << 8 * width) - 1
    data[place : place + width] = value.to_bytes(width, random.choice(("big", "little")))


def _remove(data: bytearray, place: int, random: Random) -> None:
    del data[place : place + random.randint(1, 64)]


def _insert(data: bytearray, place: int, random: Random) -> None:
    data[place:place] = random.randbytes(random.randint(1, 64))


def _repeat(data: bytearray, place: int, random: Random) -> None:
    data[place:place] = data[place : place + random.randint(1, 256)] * random.randint(1, 4)


def _move(data: bytearray, place: int, random: Random) -> None:
    piece = data[place : place + random.randint(1, 64)]
    other = random.randrange(len(data) + 1)
    data[other : other + len(piece)] = piece


def _truncate(data: bytearray, place: int, _: Random) -> None:
    del data[place:]


DAMAGES = (_flip, _flip, _edge, _edge, _remove, _insert, _repeat, _move, _truncate)


def _sending(seed: int, number: int) -> Sending:
    kind, damaged = case(seed, number)
    whole = files.picture(SIZE, "PNG", deep=False)
    pair = Pair(damaged, whole) if number % 2 else Pair(whole, damaged)
    return Sending(kind, (forms.whole(forms.form(forms.parts_of(pair))),), RIGHT)
