"""The same pipeline in one process without HTTP: what the service is held against.

Decode both files, run both graphs, put the colour back, encode; with the service's own functions and options, in
a process of its own, nothing else in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from app import codec
from app.bundles import read_bundle
from app.color import join_color
from app.cores import usable_cores
from app.engine import Engine
from app.onnx_backend import OnnxBackend
from app.settings import Settings

Files = tuple[bytes, bytes]
FIELDS = ("image_a", "image_b")


@dataclass(frozen=True)
class Bare:
    """Pairs fused without HTTP.

    Attributes:
        times: Seconds of each pair.
        seconds: Of all together.
    """

    times: list[float]
    seconds: float

    @property
    def throughput(self) -> float:
        """Pictures a second."""
        return len(self.times) / self.seconds


def bare_process(bundle: Path, threads: int, pairs: Mapping[str, Sequence[Files]]) -> ProcessPoolExecutor:
    """Returns the process that ``one_by_one`` and ``all_cores`` run in.

    Args:
        bundle: The model's folder.
        threads: CPU threads of one run.
        pairs: Files of the pairs, by the name under which a run asks for them.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_load, initargs=(bundle, threads, pairs))


def one_by_one(pairs: str, seconds: float) -> Bare:
    """Fuses pairs of a name one after another, both files decoded side by side as in the service."""
    with ThreadPoolExecutor(len(FIELDS)) as pool:
        decode: Decode = lambda files: list(pool.map(_decode, files, FIELDS))  # noqa: E731
        return _repeat(pairs, [partial(_fuse, _state.engine, decode)], seconds)


def all_cores(pairs: str, seconds: float) -> Bare:
    """Fuses pairs of a name, one on each usable core at once, each run on one thread."""
    decode: Decode = lambda files: [_decode(*each) for each in zip(files, FIELDS, strict=True)]  # noqa: E731
    return _repeat(pairs, [partial(_fuse, engine, decode) for engine in _state.single], seconds)


Decode = Callable[[Files], list[codec.Decoded]]


@dataclass
class _State:
    engine: Engine
    single: list[Engine]
    pairs: Mapping[str, Sequence[Files]]
    edit: tuple[float, ...]


_state: _State


def _load(bundle: Path, threads: int, pairs: Mapping[str, Sequence[Files]]) -> None:
    global _state  # noqa: PLW0603 The state of a worker process has nowhere else to live.
    checked = read_bundle(bundle)

    def engine(threads: int) -> Engine:
        return Engine(checked.card, OnnxBackend(checked, Settings(threads=threads, device="cpu")), 0, lambda _: None)

    single = [engine(1) for _ in range(usable_cores())]
    _state = _State(engine(threads), single, pairs, tuple(slot.default for slot in checked.card.edit_slots))


def _repeat(pairs: str, workers: Sequence[Callable[[Files], None]], seconds: float) -> Bare:
    files, started = _state.pairs[pairs], time.monotonic()

    def work(fuse: Callable[[Files], None]) -> list[float]:
        times: list[float] = []
        while time.monotonic() < started + seconds:
            began = time.monotonic()
            fuse(files[len(times) % len(files)])
            times.append(time.monotonic() - began)
        return times

    with ThreadPoolExecutor(len(workers)) as pool:
        times = [each for found in pool.map(work, workers) for each in found]
    return Bare(times, time.monotonic() - started)


def _fuse(engine: Engine, decode: Decode, files: Files) -> None:
    first, second = decode(files)
    [fused] = engine.run([engine.job(first.luma, second.luma, _state.edit)])
    codec.encode(join_color(fused.luma, first.rgb, second.rgb, "auto"), "png", 90)


def _decode(file: bytes, field: str) -> codec.Decoded:
    return codec.decode(codec.open_image(file, field, Settings().max_pixels), field, "stretch")
