"""How many CPU cores this process may really use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Returns the number of cores allowed by CPU affinity and by the container's quota, at least 1.

    ``os.cpu_count`` counts the host's cores; threads beyond the quota of a container only wait for each
    other. A quota may be set on the process's own cgroup or on any above it; the smallest counts.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yields every quota that counts for this process, in cores, of cgroup v2 and of v1."""
    mount = root / "sys/fs/cgroup"
    for hierarchy, path in _cgroups(root):
        # In a container the path may be the host's, which is not there; then its own cgroup is at the mount.
        above = [PurePosixPath(path), *PurePosixPath(path).parents]
        for folder in [str(level).strip("/") for level in above]:
            quota = _v1(mount / hierarchy / folder) if hierarchy else _v2(mount / folder)
            if quota is not None:
                yield quota


def _cgroups(root: Path) -> Iterator[tuple[str, str]]:
    """Yields mount folder (empty for v2) and path of each cgroup of this process that can bound its CPU time."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield "", path
        elif "cpu" in controllers.split(","):
            # Distributions mount it as cpu, or as cpu,cpuacct with a link named cpu.
            yield "cpu", path


def _v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)  # "max" for no quota is no number.
    except (OSError, ValueError):
        return None


def _v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None
