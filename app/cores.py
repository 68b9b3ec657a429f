"""How many CPU cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota_file: Path = CGROUP_QUOTA) -> int:
    """Returns the number of cores allowed by CPU affinity and by the container's quota, at least 1.

    ``os.cpu_count`` counts the host's cores; threads beyond the quota of a container only wait for each
    other.

    Args:
        quota_file: The cgroup v2 file with "quota period" in microseconds, or "max period" for no limit.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # No cgroup v2 here: nothing limits the process beyond its affinity.
    return max(1, cores)
