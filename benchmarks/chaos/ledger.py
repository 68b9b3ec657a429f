"""Holds what the clients saw against what the service counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from benchmarks.chaos.wire import Outcome, Sending
from benchmarks.scrape import Counts

UNAVAILABLE = 503


@dataclass
class Ledger:
    """What became of every client.

    Attributes:
        ends: Number of clients by kind and how it ended: a status, or ``left``, ``lost`` or ``hung``.
        heads: Requests of which the service has seen a complete head.
        statuses: Statuses that arrived at the clients of those.
        left: Clients of those that closed before a status arrived.
        wrong: Clients whose end was not a right one, in words.
    """

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    heads: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """All clients."""
        return sum(ends.total() for ends in self.ends.values())

    def add(self, number: int, sending: Sending, outcome: Outcome) -> None:
        """Enters one client."""
        end = outcome.end if outcome.status is None else str(outcome.status)
        self.ends.setdefault(sending.kind, Counter())[end] += 1
        if fault := _fault(sending, outcome):
            self.wrong.append(f"client {number} ({sending.kind}): {fault}")
        if sending.counted:
            self.heads += 1
            self.left += outcome.end == "left"
            if outcome.status is not None:
                self.statuses[outcome.status] += 1

    def differences(self, before: Counts, after: Counts) -> list[str]:
        """Returns in words what does not add up between clients and counters; nothing if all does.

        Args:
            before: Counters before the first client.
            after: Counters after the last one.
        """
        counted = Counter(after.by_status)
        counted.subtract(before.by_status)
        found = []
        if counted.total() != self.heads:
            found.append(f"{self.heads} requests were sent, the service counted {counted.total()}")
        unseen = {status: counted[status] - self.statuses[status] for status in counted | self.statuses}
        for status, number in sorted(unseen.items()):
            if number < 0:
                seen, known = self.statuses[status], counted[status]
                found.append(f"{seen} clients were answered {status}, the service counted {known}")
        if sum(unseen.values()) != self.left:
            found.append(f"{sum(unseen.values())} counted answers reached nobody, {self.left} clients had left")
        refused = sum(number for status, number in counted.items() if status != 200)
        if after.rejected - before.rejected != refused:
            found.append(f"{refused} answers were refusals, rejected_total counts {after.rejected - before.rejected}")
        if failures := sum(number for status, number in counted.items() if status in {0, 500}):
            found.append(f"the service counted {failures} answers of status 500, or without any")
        if not after.idle:
            found.append(f"at rest, inflight is {after.inflight} and queue_depth {after.queue_depth}")
        return found


def _fault(sending: Sending, outcome: Outcome) -> str | None:
    if outcome.end in {"lost", "hung"}:
        return {"lost": "the connection was closed without an answer", "hung": "no answer in time"}[outcome.end]
    if outcome.status == UNAVAILABLE:
        return None if outcome.retry_after else "503 without Retry-After"
    if outcome.status is not None and outcome.status not in sending.expected:
        return f"answered {outcome.status} instead of {sorted(sending.expected)}: {outcome.body[:200]!r}"
    return None
