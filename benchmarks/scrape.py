"""Reads the counters of a running service."""

from __future__ import annotations

import http.client
from collections import Counter
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import HOST, PROBE_SECONDS


@dataclass(frozen=True)
class Counts:
    """What the service has counted since it started.

    Attributes:
        by_status: Answered POST /fuse by status.
        rejected: Requests without a picture.
        inflight: Requests inside at this moment.
        queue_depth: Pairs that wait at this moment.
    """

    by_status: Counter[int]
    rejected: int
    inflight: int
    queue_depth: int

    @property
    def answered(self) -> int:
        """All answered requests."""
        return self.by_status.total()

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        return self.inflight == self.queue_depth == 0


def scrape(port: int) -> Counts:
    """Returns the counters of the service at a port of 127.0.0.1.

    Raises:
        OSError: Nothing answers there.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/metrics")
        return parse_counts(connection.getresponse().read().decode())
    finally:
        connection.close()


def parse_counts(text: str) -> Counts:
    """Reads counters from Prometheus text; what is not there yet is 0."""
    by_status: Counter[int] = Counter()
    totals: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += round(sample.value) if sample.name in SUMMED else 0
            if sample.name == "pairfuse_requests_total":
                by_status[int(sample.labels["status"])] += round(sample.value)
    return Counts(by_status, *(totals[name] for name in SUMMED))


SUMMED = ("pairfuse_rejected_total", "pairfuse_inflight", "pairfuse_queue_depth")
