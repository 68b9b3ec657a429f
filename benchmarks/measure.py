"""Measures one bundle: its graphs beside reference convolutions, whole requests, and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle

from app.bundles import Bundle
from benchmarks.errors import BenchError
from benchmarks.graphs import CARD_SIZE, Graphs, Operations
from benchmarks.large import NOT_ASKED, Large
from benchmarks.memory import resident_bytes, watch_peak
from benchmarks.pictures import Scene
from benchmarks.rounds import WHOLE, Sample, Step, interleave, timed
from benchmarks.service import Client, running_service
from benchmarks.sessions import (
    CONVOLUTIONS,
    convolution_graph,
    convolution_input,
    convolution_macs,
    open_session,
)

FUSE, FUSE_DEFAULTS, ENCODE = "fuse", "fuse_with_defaults", "encode"
COLD, CACHED = "post_cold", "post_cached"
USUAL_SIZE, USUAL_REQUESTS = (480, 640), 20
LARGE_SIZE, LARGE_REQUESTS = (1080, 1920), 3
STRENGTHS = (0.5, 1.5)


@dataclass(frozen=True)
class Memory:
    """Resident memory of the service in bytes.

    Attributes:
        idle: After start and warm-up.
        used: After requests of the usual size.
        peak: Largest up to the end of the large requests.
        after: After the large requests.
    """

    idle: int
    used: int
    peak: int
    after: int


@dataclass(frozen=True)
class Measured:
    """All raw numbers of one bundle.

    Attributes:
        name: The model's name.
        size: Height and width of the timed pairs.
        operations: Multiply-adds at that size.
        at_card_size: Multiply-adds at the size that cards speak of.
        card: What the card states, by its own keys.
        series: Samples of each step, one a round; seconds.
        memory: Memory of the service.
        upload_bytes: Size of the two files of a request.
        large: Memory against image size, or why it was not measured.
    """

    name: str
    size: tuple[int, int]
    operations: Operations
    at_card_size: Operations
    card: dict[str, float]
    series: dict[str, list[Sample]]
    memory: Memory
    upload_bytes: int
    convolutions: dict[str, int] = field(default_factory=lambda: dict(_convolutions()))
    large: Large | str = NOT_ASKED


def measure(
    bundle: Bundle, threads: int, size: tuple[int, int], rounds: int, on_round: Callable[[], object]
) -> Measured:
    """Measures one bundle; the service runs only meanwhile.

    Args:
        bundle: A checked bundle.
        threads: CPU threads of one model run.
        size: Height and width of the timed pairs.
        rounds: Number of rounds.
        on_round: Called after each round.

    Raises:
        BenchError: The service did not start or did not answer, or the graph cannot be counted.
    """
    card = bundle.card
    graphs = Graphs(bundle, threads, size)
    operations = graphs.operations(size)
    at_card_size = operations if size == CARD_SIZE else graphs.operations(CARD_SIZE)
    with running_service(bundle.fusion.parent, card.name, threads) as (pid, client):
        idle = resident_bytes(pid)
        _send(client, USUAL_SIZE, USUAL_REQUESTS)
        used = resident_bytes(pid)
        pairs = _Pairs(client, Scene(*size), bundle)
        steps = _reference_steps(threads) | _graph_steps(graphs, operations)
        steps |= {COLD: pairs.cold} | ({CACHED: pairs.cached} if bundle.encoder is not None else {})
        series = interleave(steps, rounds, on_round)
        with watch_peak(pid) as peak:
            _send(client, LARGE_SIZE, LARGE_REQUESTS)
        memory = Memory(idle, used, peak.bytes, resident_bytes(pid))
    return Measured(card.name, size, operations, at_card_size, dict(card.macs), series, memory, pairs.upload_bytes)


class _Pairs:
    """Sends new pairs, which miss the service's cache, and the last one again, which hits it.

    Both are checked against the service's own counters: a pair that is not what it should be would give a
    time that looks right and is not.
    """

    def __init__(self, client: Client, scene: Scene, bundle: Bundle) -> None:
        self._client = client
        self._scene = scene
        self._files = scene.files()
        self._strengths = cycle(STRENGTHS if bundle.card.edit_slots else (None,))
        self._has_codes = bundle.encoder is not None

    @property
    def upload_bytes(self) -> int:
        return sum(len(file) for file in self._files)

    def cold(self) -> Sample:
        self._files = self._scene.files()
        return self._fuse("miss")

    def cached(self) -> Sample:
        return self._fuse("hit")

    def _fuse(self, expected: str) -> Sample:
        before = self._client.lookups()[expected]
        answer = self._client.fuse(self._files, next(self._strengths))
        if self._has_codes and self._client.lookups()[expected] != before + 2:
            raise BenchError(f"a pair that the encoder cache should {expected} did not")
        return {WHOLE: answer.seconds} | answer.stages


def _send(client: Client, size: tuple[int, int], requests: int) -> None:
    scene = Scene(*size)
    for _ in range(requests):
        client.fuse(scene.files(), None)


def _convolutions() -> Mapping[str, int]:
    """Returns the multiply-adds of each reference convolution by its name."""
    return {
        f"conv {channels}→{channels}, {height}×{width}": convolution_macs(channels, height, width)
        for channels, height, width in CONVOLUTIONS
    }


def _reference_steps(threads: int) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for name, shape in zip(_convolutions(), CONVOLUTIONS, strict=True):
        session = open_session(convolution_graph(shape[0]), threads, spinning=False)
        steps[name] = timed(partial(session.run, None, {"x": convolution_input(*shape)}))
    return steps


def _graph_steps(graphs: Graphs, operations: Operations) -> dict[str, Step]:
    steps = {FUSE: timed(graphs.fuse), FUSE_DEFAULTS: timed(graphs.fuse_with_defaults)}
    return steps | ({ENCODE: timed(graphs.encode)} if operations.encode is not None else {})
