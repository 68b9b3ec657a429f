"""Several workers on one port: one set of metrics, replaced workers, and no request lost at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict

import httpx
import psutil
import pytest

from tests.service.conftest import READY_SECONDS, running_service
from tests.service.test_trouble import form, status_of

LONG = 60  # Rounds of the moody model's loop, in thousands.


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where the service puts its folder of metrics."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def service(start_service, scratch):
    """A service with two workers, both of which listen."""
    live = start_service(workers=2, threads=1)
    live.until(lambda: len(ready_pids(live)) == 2, READY_SECONDS)
    return live


@pytest.fixture(scope="module")
def shared(weights, tmp_path_factory):
    """A service with two workers for tests that do it no harm."""
    with running_service(weights, tmp_path_factory.mktemp("workers") / "log", workers=2, threads=1) as live:
        live.until(lambda: len(ready_pids(live)) == 2, READY_SECONDS)
        yield live
        assert live.stop() == 0


def events(live, message):
    """Returns the log entries with a message, oldest first."""
    lines = [line for line in live.log.read_text().splitlines() if line.startswith("{")]
    return [entry for entry in map(json.loads, lines) if entry["message"] == message]


def ready_pids(live):
    """Returns the process of every worker that was started, oldest first."""
    return [entry["pid"] for entry in events(live, "worker ready")]


def fuse(live, pair, **fields):
    """Fuses a pair over a connection of its own, so that the kernel chooses the worker."""
    files = {"image_a": ("a", pair[0]), "image_b": ("b", pair[1])}
    return httpx.post(f"http://127.0.0.1:{live.port}/fuse", files=files, data=fields, timeout=60)


def samples(live):
    """Returns the samples of /metrics by name and labels, from whichever worker answers."""
    text = httpx.get(f"http://127.0.0.1:{live.port}/metrics", timeout=60).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def answered_by(live, response):
    """Returns the number of the worker that answered."""
    (entry,) = [each for each in events(live, "request") if each["request_id"] == response.headers["x-request-id"]]
    return entry["worker"]


@contextlib.contextmanager
def occupied(live, pair):
    """Gives both workers slow requests; yields the connections that each process answers."""
    head, body = form(pair, model="moody", delay=LONG)
    with contextlib.ExitStack() as stack:
        held = defaultdict(list)
        while len(held) < 2:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=60))
            connection.sendall(head + body)
            live.until(lambda connection=connection: owner(live, connection) is not None)
            held[owner(live, connection)].append(connection)
            assert sum(map(len, held.values())) < 30, "only one worker gets connections"
        live.until(lambda: samples(live)["pairfuse_inflight"] == sum(map(len, held.values())))
        yield held


def owner(live, connection):
    """Returns the process that has accepted a connection, or None."""
    local = connection.getsockname()
    for pid in ready_pids(live):
        if any(link.raddr == local for link in psutil.Process(pid).net_connections("tcp")):
            return pid
    return None


def test_whichever_worker_is_asked_has_the_metrics_of_all(shared, pair):
    before = samples(shared)
    answers = [fuse(shared, pair) for _ in range(24)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answered_by(shared, answer) for answer in answers} == {0, 1}
    assert fuse(shared, (b"no image", pair[1])).status_code == 400
    expected = {
        'pairfuse_requests_total{model="coded",status="200"}': 24,
        'pairfuse_rejected_total{reason="not-an-image"}': 1,
        "pairfuse_request_seconds_count": 25,
        'pairfuse_stage_seconds_count{stage="fuse"}': 24,
        "pairfuse_inflight": 0,
        "pairfuse_queue_depth": 0,
    }
    # a request counts when its answer has been sent
    count = "pairfuse_request_seconds_count"
    shared.until(lambda: samples(shared)[count] - before.get(count, 0) == expected[count])
    for after in [samples(shared) for _ in range(12)]:
        assert {name: after[name] - before.get(name, 0) for name in expected} == expected
        models = {name: value for name, value in after.items() if name.startswith("pairfuse_model_info")}
        assert len(models) == 3
        assert set(models.values()) == {1}
        assert {f'process_resident_memory_bytes{{worker="{number}"}}' for number in "01"} <= set(after)
        assert not [name for name in after if "pid=" in name]


def test_one_worker_and_several_have_the_same_metrics(shared, weights, tmp_path, pair):
    with running_service(weights, tmp_path / "log-alone") as alone:
        names = []
        for live in (shared, alone):
            assert fuse(live, pair).status_code == 200
            assert fuse(live, (b"no image", pair[1])).status_code == 400
            bare = {name.split("{")[0] for name in samples(live)}
            names.append({name for name in bare if not name.endswith("_created")})
    assert names[0] == names[1]


def test_a_killed_worker_is_replaced_while_the_other_goes_on(service, pair):
    assert fuse(service, pair).status_code == 200
    victim, survivor = ready_pids(service)
    os.kill(victim, signal.SIGKILL)
    service.until(lambda: not alive(victim))
    codes = []
    while len(ready_pids(service)) == 2:
        codes.append(fuse(service, pair).status_code)
    assert set(codes) == {200}
    assert alive(survivor)
    (ended,) = events(service, "worker ended")
    assert (ended["worker"], ended["code"]) == (0, -signal.SIGKILL)
    answers = [fuse(service, pair) for _ in range(24)]
    assert {answered_by(service, answer) for answer in answers} == {0, 1}
    service.until(
        lambda: samples(service)['pairfuse_requests_total{model="coded",status="200"}'] == 1 + len(codes) + 24
    )


def test_the_requests_of_a_killed_worker_do_not_stay_in_the_gauges(service, pair):
    with occupied(service, pair) as held:
        (victim, lost), (_, kept) = held.items()
        os.kill(victim, signal.SIGKILL)
        assert {status_of(connection) for connection in kept} == {200}
        for connection in lost:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    service.until(lambda: samples(service)["pairfuse_inflight"] == 0)
    service.until(lambda: samples(service)["pairfuse_queue_depth"] == 0)
    assert samples(service)['pairfuse_requests_total{model="moody",status="200"}'] == len(kept)


def test_sigterm_loses_no_accepted_request(service, scratch, pair):
    with occupied(service, pair) as held:
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: refusal(service, pair) == "urn:pairfuse:problem:draining")
        assert {status_of(connection) for connections in held.values() for connection in connections} == {200}
    assert service.process.wait(60) == 0
    assert not [pid for pid in held if alive(pid)]
    assert list(scratch.iterdir()) == []
    assert events(service, "worker ended") == []


def alive(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def refusal(live, pair):
    """Returns the kind of problem that a new request meets, or None."""
    response = fuse(live, pair)
    return response.json()["type"] if response.status_code != 200 else None


def test_workers_end_with_their_supervisor(service, pair):
    with occupied(service, pair) as held:
        service.process.kill()
        service.process.wait(30)
        assert {status_of(connection) for connections in held.values() for connection in connections} == {200}
    service.until(lambda: not any(alive(pid) for pid in held))


def test_a_worker_that_cannot_start_is_tried_again_later_and_later(tmp_path, scratch, weights, pair):
    folder, away = tmp_path / "weights", tmp_path / "away"
    shutil.copytree(weights, folder)
    with running_service(folder, tmp_path / "log", workers=2) as live:
        live.until(lambda: len(ready_pids(live)) == 2, READY_SECONDS)
        folder.rename(away)
        os.kill(ready_pids(live)[1], signal.SIGKILL)
        for count in (1, 2, 3):
            live.until(lambda count=count: len(events(live, "worker ended")) == count, READY_SECONDS)
        assert [entry["restart_in_s"] for entry in events(live, "worker ended")] == [0, 1, 2]
        assert fuse(live, pair).status_code == 200
        away.rename(folder)
        live.until(lambda: len(ready_pids(live)) == 3, 2 * READY_SECONDS)
        assert live.stop() == 0


def start(**settings):
    environment = os.environ | {"PAIRFUSE_WORKERS": "2", "PAIRFUSE_DEVICE": "cpu"} | settings
    command = [sys.executable, "-m", "app", "serve"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_fault_of_every_worker_is_told_once(tmp_path, scratch):
    done = start(PAIRFUSE_WEIGHTS=str(tmp_path), PAIRFUSE_PORT="0")
    assert done.returncode == 1
    assert done.stderr.count("pairfuse: No usable model") == 1
    assert "Traceback" not in done.stderr
    assert list(scratch.iterdir()) == []


def test_a_taken_port_is_not_shared_with_a_stranger(shared, weights):
    done = start(PAIRFUSE_WEIGHTS=str(weights), PAIRFUSE_PORT=str(shared.port))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"pairfuse: Cannot listen on 127.0.0.1:{shared.port}")
    assert "Traceback" not in done.stderr


def test_a_port_taken_by_something_else(weights):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = start(PAIRFUSE_WEIGHTS=str(weights), PAIRFUSE_PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "Cannot listen" in done.stderr.splitlines()[-1]


def test_without_a_place_for_the_metrics_the_cure_is_named(weights, monkeypatch, tmp_path):
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    code = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']; from app.cli import main; main()"
    environment = os.environ | {"PAIRFUSE_WEIGHTS": str(weights), "PAIRFUSE_WORKERS": "2", "PAIRFUSE_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, "serve"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "PAIRFUSE_WORKERS=1" in done.stderr.splitlines()[-1]
