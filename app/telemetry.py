"""The metrics of the service, in base units, under the prefix ``pairfuse_``."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STAGE_SECONDS = (0.0005, 0.001, 0.0025, *SECONDS)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Telemetry:
    """All metrics in a registry of their own, so that two services in one process do not collide.

    The modes of the gauges count where several workers share their metrics: waiting pairs and requests add up over
    the workers that live.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._collect_processes()
        self.requests = Counter(
            "pairfuse_requests",
            "Answered POST /fuse by model and HTTP status.",
            ["model", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "pairfuse_request_seconds",
            "Time of POST /fuse, upload included.",
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "pairfuse_stage_seconds",
            "Time of one stage.",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram("pairfuse_batch_size", "Pairs per model run.", buckets=BATCHES, registry=registry)
        self.queue_depth = Gauge(
            "pairfuse_queue_depth",
            "Decoded pairs that wait for a run.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.inflight = Gauge(
            "pairfuse_inflight",
            "POST /fuse requests in the service.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.pixels = Counter("pairfuse_pixels", "Pixels of all fused images.", registry=registry)
        self.rejected = Counter(
            "pairfuse_rejected", "Requests without a picture, by reason.", ["reason"], registry=registry
        )
        self.model_info = Gauge(
            "pairfuse_model_info",
            "1 for every loaded model.",
            ["model", "backend", "device", "sha256"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.encoder_cache = Counter(
            "pairfuse_encoder_cache", "Code lookups by result: hit or miss.", ["result"], registry=registry
        )
        self.run_failures = Counter("pairfuse_run_failures", "Model runs that failed.", ["model"], registry=registry)
        self.model_up = Gauge(
            "pairfuse_model_up",
            "1 while a model takes work, in every worker.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.restarts = Counter(
            "pairfuse_restarts", "Restarts of a model by result: ok or failed.", ["model", "result"], registry=registry
        )
        self.shortages = Counter(
            "pairfuse_out_of_memory",
            "Runs for which memory did not suffice, by what was done: halved, tiled or refused.",
            ["model", "action"],
            registry=registry,
        )
        self.expired = Counter(
            "pairfuse_expired",
            "Pairs whose deadline passed in the queue.",
            ["model"],
            registry=registry,
        )
        self.fell_back = Gauge(
            "pairfuse_fell_back",
            "1 if a model runs on the CPU although onnxruntime offers CUDA.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def _collect_processes(self) -> None:
        """Adds the memory, CPU time and open files of this process."""
        ProcessCollector(registry=self._registry)

    def expect(self, model: str) -> None:
        """Shows counters of a model's faults at 0: of one that first appears at 1, Prometheus sees no increase."""
        self.run_failures.labels(model)
        self.expired.labels(model)
        for result in ("ok", "failed"):
            self.restarts.labels(model, result)
        for action in ("halved", "tiled", "refused"):
            self.shortages.labels(model, action)

    def count_lookup(self, hit: bool) -> None:
        """Counts one lookup of a code in the cache."""
        self.encoder_cache.labels("hit" if hit else "miss").inc()

    def count_shortage(self, model: str, action: str) -> None:
        """Counts one run of a model for which memory did not suffice."""
        self.shortages.labels(model, action).inc()

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Records the seconds of each stage of one request."""
        for stage, value in seconds.items():
            self.stage_seconds.labels(stage).observe(value)

    def render(self) -> bytes:
        """Returns all metrics in the Prometheus text format."""
        return generate_latest(self._registry)
