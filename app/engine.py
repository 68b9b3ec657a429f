"""Runs one model on a batch of pairs: codes from the cache or the encoder, then the fusion graph."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.backend import Backend, Tensor
from app.cache import CodeCache, image_key
from app.card import ModelCard
from app.color import Plane
from app.errors import OutOfMemoryError
from app.out_of_memory import is_out_of_memory
from app.runs import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One pair to fuse.

    Attributes:
        a: Luminance, or one colour channel, (H, W) of image_a in [0, 1].
        b: The same of image_b.
        edit: Strength of each edit slot (S,).
        keys: Cache keys of both images; empty for a model without an encoder.
    """

    a: Plane
    b: Plane
    edit: tuple[float, ...] = ()
    keys: tuple[bytes, bytes] = (b"", b"")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.a.shape
        return height, width


@dataclass(frozen=True)
class Fused:
    """Result of one job.

    Attributes:
        luma: Fused luminance or channel (H, W) in [0, 1].
        encode_s: Seconds that the batch spent on codes.
        fuse_s: Seconds that the batch spent in the fusion graph.
    """

    luma: Plane
    encode_s: float
    fuse_s: float


class Engine:
    """Runs one model; several threads at once may, each with a run of its own, but for ``reopen``.

    Args:
        card: The model's card.
        backend: Runs its graphs.
        cache_bytes: Memory for cached codes.
        count_lookup: Called with True for each code found in the cache and with False for each that was not.
        count_shortage: Called when memory does not suffice, with what is done: ``halved``, ``tiled`` or ``refused``.
    """

    def __init__(
        self,
        card: ModelCard,
        backend: Backend,
        cache_bytes: int,
        count_lookup: Callable[[bool], None],
        count_shortage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.card = card
        self.backend = backend
        self._cache = CodeCache(cache_bytes)
        self._count_lookup = count_lookup
        self._count_shortage = count_shortage

    @property
    def needs_codes(self) -> bool:
        """Whether jobs must carry cache keys."""
        return self.card.encoder is not None

    def job(self, a: Plane, b: Plane, edit: tuple[float, ...]) -> Job:
        """Makes a job of two planes (H, W) in [0, 1], luminances or channels, and the slot strengths (S,)."""
        keys = (image_key(a), image_key(b)) if self.needs_codes else (b"", b"")
        return Job(a, b, edit, keys)

    def probe_job(self) -> Job:
        """Returns a small pair that every sound model can fuse."""
        multiple = self.card.size.multiple
        side = -(-max(64, self.card.size.min_side) // multiple) * multiple
        ramp = np.linspace(0, 1, side * side, dtype=np.float32).reshape(side, side)
        return self.job(ramp, np.ascontiguousarray(ramp.T), tuple(slot.default for slot in self.card.edit_slots))

    def check(self) -> None:
        """Runs a known-good pair.

        Raises:
            RuntimeError: The result has values that are not finite; any other error comes from the run.
        """
        if not np.isfinite(self.run([self.probe_job()])[0].luma).all():
            raise RuntimeError("the check run returned values that are not finite")

    def rest(self) -> None:
        """Gives back the memory that earlier runs have kept; only a run can, of each graph where each keeps its own."""
        probe, run = self.probe_job(), Run(last=True)
        for key in probe.keys:
            self._cache.drop(key)  # Else the encoder would not run.
        try:
            self._run([probe], run)
            if self.backend.has_tiles:
                self._run([probe], run, in_tiles=True)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # Somebody else has taken it all: no sign of a broken model.
            log.warning("memory does not suffice to rest", extra=self._facts([probe]) | {"error": str(error)[:300]})

    def reopen(self) -> None:
        """Opens the graphs again, and forgets what the failing ones have computed.

        Raises:
            BundleError: The bundle has changed or is damaged.
            StartupError: The device is not there any more.
        """
        self._cache.clear()
        self.backend.reopen()

    def run(self, jobs: Sequence[Job], run: Run | None = None) -> list[Fused]:
        """Fuses pairs of one size; where memory does not suffice, fewer at a time, and at last in tiles.

        Args:
            jobs: The pairs.
            run: What can end it; without, nothing can.

        Raises:
            AbandonedError: The run was ended before its end.
            OutOfMemoryError: Memory does not suffice for one of the pairs.
            RuntimeError: The graph returned something else than one image per pair.
        """
        return self._run_within_memory(jobs, run or Run())

    def _run_within_memory(self, jobs: Sequence[Job], run: Run) -> list[Fused]:
        started = time.perf_counter()
        try:
            return self._run(jobs, run)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("memory does not suffice", extra=self._facts(jobs) | {"error": str(error)[:300]})
        # Not in the handler: until it ends, the error keeps the arrays of the failed run alive.
        if len(jobs) == 1:
            return self._run_in_tiles(jobs, run)
        self._count_shortage("halved")
        middle = (len(jobs) + 1) // 2
        halves = (self._run_within_memory(half, run) for half in (jobs[:middle], jobs[middle:]))
        fused = [each for half in halves for each in half]
        # To its callers it was one run.
        encode_s = fused[0].encode_s + fused[-1].encode_s
        fuse_s = time.perf_counter() - started - encode_s
        return [replace(each, encode_s=encode_s, fuse_s=fuse_s) for each in fused]

    def _run_in_tiles(self, jobs: Sequence[Job], run: Run) -> list[Fused]:
        """Fuses a pair for which memory does not suffice as a whole."""
        if self.backend.has_tiles:
            self._count_shortage("tiled")
            try:
                return self._run(jobs, run, in_tiles=True)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("memory does not suffice for tiles", extra=self._facts(jobs) | {"error": str(error)[:300]})
        self._count_shortage("refused")
        height, width = jobs[0].size
        raise OutOfMemoryError(width, height)

    def _facts(self, jobs: Sequence[Job]) -> dict[str, object]:
        return {"model": self.card.name, "pairs": len(jobs), "size": jobs[0].size}

    def _run(self, jobs: Sequence[Job], run: Run, *, in_tiles: bool = False) -> list[Fused]:
        started = time.perf_counter()
        inputs = {"a": _stack([job.a for job in jobs]), "b": _stack([job.b for job in jobs])}
        if self.needs_codes:
            inputs |= self._codes(jobs, inputs, run)
        if self.card.edit_slots:
            inputs["edit"] = np.array([job.edit for job in jobs], np.float32)
        encoded = time.perf_counter()
        fuse = self.backend.fuse_in_tiles if in_tiles else self.backend.fuse
        fused = fuse(inputs, run)
        if fused.shape != inputs["a"].shape:
            raise RuntimeError(f"the fusion graph of {self.card.name} returned {fused.shape} for {inputs['a'].shape}")
        encode_s, fuse_s = encoded - started, time.perf_counter() - encoded
        return [Fused(fused[index, 0], encode_s, fuse_s) for index in range(len(jobs))]

    def _codes(self, jobs: Sequence[Job], inputs: dict[str, Tensor], run: Run) -> dict[str, Tensor]:
        """Returns code_a and code_b (N, ...), with one encoder run for all images that are not cached."""
        images: dict[bytes, Tensor] = {}
        for index, job in enumerate(jobs):
            images[job.keys[0]] = inputs["a"][index]
            images[job.keys[1]] = inputs["b"][index]
        cached = {key: self._cache.get(key) for key in images}
        found = {key: code for key, code in cached.items() if code is not None}
        missing = [key for key in images if key not in found]
        for key in images:
            self._count_lookup(key in found)
        if missing:
            fresh = self.backend.encode(np.stack([images[key] for key in missing]), run)
            for key, code in zip(missing, fresh, strict=True):
                # A copy: a view would keep the whole batch alive as long as one code of it is cached.
                found[key] = code.copy()
                self._cache.put(key, found[key])
        side_a = [found[job.keys[0]] for job in jobs]
        side_b = [found[job.keys[1]] for job in jobs]
        return {"code_a": np.stack(side_a), "code_b": np.stack(side_b)}


def _stack(planes: Sequence[Plane]) -> Tensor:
    """Stacks N planes (H, W) to (N, 1, H, W), without a copy if N is 1."""
    if len(planes) == 1:
        return planes[0][None, None]
    return np.stack(planes)[:, None]
