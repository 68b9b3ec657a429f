"""The cores that a container may use, by both versions of cgroups."""

from __future__ import annotations

import pytest

from app.cores import usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files below a root for a process that may run on twelve cores, and counts what is usable."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)

    def count(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return usable_cores(tmp_path)

    def write(files):
        return count(**{name.replace("/", "__"): text for name, text in files.items()})

    return write


@pytest.mark.parametrize(("text", "most"), [("150000 100000", 2), ("50000 100000", 1), ("1 100000", 1)])
def test_the_quota_of_a_container_counts(machine, text, most):
    assert machine({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text}) == most
    assert machine({"sys/fs/cgroup/cpu.max": text}) == most


@pytest.mark.parametrize("text", ["max 100000", "nonsense", "1 2 3", "100000 0x", ""])
def test_without_a_quota_the_affinity_counts(machine, text):
    assert machine({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text}) == 12


def test_without_cgroups_the_affinity_counts(machine):
    assert machine({}) == 12


def test_the_affinity_may_be_narrower_than_the_quota(machine):
    assert machine({"sys/fs/cgroup/cpu.max": "9900000 100000"}) == 12


def test_the_smallest_quota_of_all_levels_counts(machine):
    files = {
        "proc/self/cgroup": "0::/system.slice/pairfuse.service\n",
        "sys/fs/cgroup/system.slice/cpu.max": "300000 100000",
        "sys/fs/cgroup/system.slice/pairfuse.service/cpu.max": "500000 100000",
    }
    assert machine(files) == 3
    assert machine({"sys/fs/cgroup/system.slice/pairfuse.service/cpu.max": "200000 100000"}) == 2


def v1(path, quota, period="100000"):
    return {f"sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us": quota, f"sys/fs/cgroup/cpu{path}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(("quota", "most"), [("250000\n", 3), ("-1\n", 12), ("x", 12)])
def test_version_1_within_a_container(machine, quota, most):
    membership = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n0::/\n"
    assert machine({"proc/self/cgroup": membership} | v1("", quota)) == most


def test_version_1_on_a_host(machine):
    files = {"proc/self/cgroup": "4:cpuacct,cpu:/system.slice/pairfuse.service\n"}
    assert machine(files | v1("/system.slice/pairfuse.service", "400000", "200000")) == 2


def test_version_1_without_a_period(machine):
    files = {"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000"}
    assert machine(files) == 12
