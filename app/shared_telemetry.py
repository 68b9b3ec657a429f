"""One set of metrics for all workers: each keeps its own in files, and whichever is asked adds them up.

The files are named after the worker's number, not its process: a worker that takes the place of another goes on
counting where that one stopped, so counters never fall and no files of the dead pile up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from app.telemetry import Telemetry

PID_SUFFIX = ".pid"


class SharedTelemetry(Telemetry):
    """The metrics of one worker, shown together with those of all others. One to a process.

    Args:
        folder: Folder that all workers of the service share, and nobody else.
        worker: Number of this worker.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = values.MultiProcessValue(lambda: worker)
        self._folder = folder
        super().__init__()
        # Renamed into place, so that nobody reads half a number.
        draft = folder / f"{worker}.new"
        draft.write_text(str(os.getpid()), encoding="ascii")
        draft.rename(folder / f"{worker}{PID_SUFFIX}")

    def _collect_processes(self) -> None:
        """Adds nothing to the metrics of this worker: ``render`` reads all processes itself."""

    def render(self) -> bytes:
        """Returns the metrics of all workers in the Prometheus text format."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))
        registry.register(_Processes(self._folder))
        return generate_latest(registry)


class _Processes(Collector):
    """The metrics ``process_*`` of every worker, with its number as a label."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yields each metric with one sample for each worker that lives."""
        merged: dict[str, Metric] = {}
        for file in sorted(self._folder.glob(f"*{PID_SUFFIX}")):
            for metric in _read_process(file):
                known = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                known.samples += [sample._replace(labels={"worker": file.stem}) for sample in metric.samples]
        yield from merged.values()


def _read_process(file: Path) -> list[Metric]:
    """Returns the metrics of the process that a file names; none if it has ended meanwhile."""
    try:
        pid = int(file.read_text(encoding="ascii"))
    except FileNotFoundError:
        return []
    return list(ProcessCollector(pid=lambda: pid, registry=None).collect())


def forget_worker(folder: Path, worker: int) -> None:
    """Takes a worker that has ended out of the gauges; what it counted stays.

    Args:
        folder: The folder that the workers share.
        worker: Number of the worker.
    """
    mark_process_dead(worker, str(folder))
    (folder / f"{worker}{PID_SUFFIX}").unlink(missing_ok=True)
