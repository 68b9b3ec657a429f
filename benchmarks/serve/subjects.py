"""The servers that are compared: all up from the start, but only the one whose turn it is may run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Server, free_port, running, running_pairfuse

PAIRFUSE, FASTAPI, LITSERVE, LITSERVE_BATCHED = "pairfuse", "FastAPI", "LitServe", "LitServe, batches of 4"
BATCH = 4
RIVAL_PATIENCE_S = 2.0  # LitServe goes on for half a minute, with nothing to finish.
NO_LITSERVE = (
    "LitServe is left out: it is not installed. pip install litserve, or give --litserve PYTHON, the interpreter of an "
    "environment that has litserve, onnxruntime, pillow and python-multipart"
)


@dataclass(frozen=True)
class Subject:
    """One server.

    Attributes:
        name: For people.
        server: The running server.
    """

    name: str
    server: Server

    @contextlib.contextmanager
    def awake(self) -> Iterator[Server]:
        """Lets it run for a while: LitServe keeps a core busy even without requests."""
        self.server.resume()
        try:
            yield self.server
        finally:
            self.server.suspend()


@contextlib.contextmanager
def all_subjects(bundle: Path, threads: int, litserve: str | None, folder: Path) -> Iterator[list[Subject]]:
    """Starts pairfuse and its rivals, each asleep until it is ``awake``.

    Args:
        bundle: The model's folder.
        threads: CPU threads of one model run.
        litserve: An interpreter that has LitServe; without one it is left out.
        folder: For logs.

    Raises:
        BenchError: A server did not start.
    """
    weights = folder / "weights"
    weights.mkdir()
    (weights / bundle.name).symlink_to(bundle.resolve(), target_is_directory=True)
    # Without cached codes, since the same few pairs come again and again, and the others have no cache.
    settings = {"weights": weights, "threads": threads, "cache_bytes": 0}
    arguments = [str(bundle.resolve()), "{port}", str(threads)]
    rivals = {FASTAPI: [sys.executable, "-m", "benchmarks.rivals.fastapi_server", *arguments]}
    if litserve:
        command = [litserve, "-m", "benchmarks.rivals.litserve_server", *arguments]
        rivals |= {LITSERVE: [*command, "1"], LITSERVE_BATCHED: [*command, f"{BATCH}"]}
    with contextlib.ExitStack() as stack:
        subjects = [Subject(PAIRFUSE, stack.enter_context(running_pairfuse(folder / "pairfuse.log", **settings)))]
        for name, command in rivals.items():
            subjects[-1].server.suspend()
            stack.callback(subjects[-1].server.resume)
            subjects.append(Subject(name, stack.enter_context(running_rival(name, command, folder))))
        subjects[-1].server.suspend()
        stack.callback(subjects[-1].server.resume)
        yield subjects


def find_litserve(asked: str | None) -> str | None:
    """Returns an interpreter that has LitServe: the one asked for, or this one."""
    return asked or (sys.executable if importlib.util.find_spec("litserve") else None)


def running_rival(name: str, command: list[str], folder: Path) -> contextlib.AbstractContextManager[Server]:
    """Starts another server, with its port for ``{port}`` among the arguments, and ends it at the end.

    Raises:
        BenchError: It did not start.
    """
    port = free_port()
    filled = [argument.format(port=port) for argument in command]
    # The interpreter may be that of another environment, which must not find the packages of this one.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    log = folder / f"{name}.log"
    return running(filled, environment, port, log, "/health", patience_s=RIVAL_PATIENCE_S)
