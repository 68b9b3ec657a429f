"""The service with a backend that fails on command; started as a process of its own, like ``python -m app``.

The file that FAULTS names holds what goes wrong at present: ``run`` (every run fails until the graphs are opened
again), ``restart`` (opening them again fails as well), ``memory`` (there is memory for one pair at a time),
``no-memory`` (there is none), ``hang`` (a run does not end while this stands there, whatever it is told).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from app import lane, server
from app.cli import main
from app.onnx_backend import OnnxBackend

ARENA = "bfc_arena.cc:376 onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"
FAULTS = Path(os.environ["FAULTS"])

fuse, reopen = OnnxBackend.fuse, OnnxBackend.reopen


def faulty_fuse(self, inputs, *more):
    while "hang" in (faults := FAULTS.read_text().split()):
        time.sleep(0.01)
    if {"run", "restart"} & set(faults):
        raise RuntimeError("the device is gone")
    if "no-memory" in faults or ("memory" in faults and len(inputs["a"]) > 1):
        raise RuntimeError(ARENA)
    return fuse(self, inputs, *more)


def faulty_reopen(self):
    if "restart" in FAULTS.read_text().split():
        raise RuntimeError("the device is still gone")
    reopen(self)
    FAULTS.write_text("")


if __name__ == "__main__":
    lane.STUCK_AFTER_S, server.LAST_RUNS_S = 0.3, 0.3
    OnnxBackend.fuse, OnnxBackend.reopen = faulty_fuse, faulty_reopen
    main()
