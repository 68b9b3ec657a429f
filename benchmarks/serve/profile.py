"""How long everything is measured."""

from __future__ import annotations

from dataclasses import dataclass

MIXED = "mixed"
SIZE = (480, 640)
MIXED_SIZES = ((240, 320), (360, 480), (480, 640), (600, 800))  # Height, width; each as often as the others.
PAIRS_A_SIZE = 4


@dataclass(frozen=True)
class Profile:
    """Lengths and counts of one run.

    Attributes:
        name: Of the profile.
        rounds: How often each server gets its turn.
        seconds: Length of a turn.
        clients: Numbers of clients at once with pairs of one size.
        rival_clients: Those at which other servers are measured as well.
        mixed_clients: Number of clients at once with pairs of mixed sizes.
        idle_seconds: Time without requests.
        memory_requests: Requests while memory is watched.
        overload_seconds: Length of the overload.
        drain_clients: Clients at work when SIGTERM comes.
        drain_seconds: Time that they have worked by then.
    """

    name: str
    rounds: int
    seconds: float
    clients: tuple[int, ...] = (1, 4, 16, 64)
    rival_clients: tuple[int, ...] = (1, 16)
    mixed_clients: int = 16
    idle_seconds: float = 60.0
    memory_requests: int = 10_000
    overload_seconds: float = 60.0
    drain_clients: int = 8
    drain_seconds: float = 5.0


FULL = Profile("full", rounds=7, seconds=12.0)
QUICK = Profile(
    "quick",
    rounds=3,
    seconds=3.0,
    clients=(1, 4, 16),
    rival_clients=(1, 4),
    mixed_clients=4,
    idle_seconds=20.0,
    memory_requests=100,
    overload_seconds=6.0,
    drain_seconds=2.0,
)
