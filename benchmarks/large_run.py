"""Fuses one pair once, in a process of its own, and prints how much memory and time that took.

    python -m benchmarks.large_run BUNDLE whole|tiled FOLDER THREADS BYTES

FOLDER holds ``a.npy`` and ``b.npy``, luminance (1, 1, H, W). BYTES is the most memory that the process may take; if
that is too little, it ends with the exit code ``TOO_LITTLE_MEMORY``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from app.bundles import read_bundle
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings
from benchmarks.memory import watch_peak

WHOLE, TILED = "whole", "tiled"
TOO_LITTLE_MEMORY = 3


def main(folder: str, way: str, images: str, threads: str, most_bytes: str) -> int:
    """Runs the command and returns its exit code."""
    _limit_memory(int(most_bytes))
    try:
        bundle = read_bundle(Path(folder))
        backend = OnnxBackend(bundle, Settings(threads=int(threads), device="cpu"))
        inputs = {name: np.load(Path(images, f"{name}.npy")) for name in ("a", "b")}
        if bundle.card.edit_slots:
            inputs["edit"] = np.array([[slot.default for slot in bundle.card.edit_slots]], np.float32)
        fuse = backend.fuse_in_tiles if way == TILED else backend.fuse_whole
        with watch_peak(os.getpid()) as peak:
            started = time.perf_counter()
            if bundle.card.encoder is not None:
                inputs |= {f"code_{name}": backend.encode(inputs[name], Run()) for name in ("a", "b")}
            fuse(inputs, Run())
            seconds = time.perf_counter() - started
    except Exception as error:  # onnxruntime's own exception classes share no public base.
        if isinstance(error, MemoryError) or "alloc" in str(error).lower():
            return TOO_LITTLE_MEMORY
        raise
    print(json.dumps({"peak": peak.bytes, "seconds": seconds}))  # noqa: T201
    return 0


def _limit_memory(most_bytes: int) -> None:
    """Makes allocations beyond a bound fail, so that they do not bring the machine into trouble."""
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 There is none on other systems.

        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
