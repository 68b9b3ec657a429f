"""A model that breaks while it is served: restarts, too little memory, and what the others notice of it."""

from __future__ import annotations

import concurrent.futures
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.service.conftest import Live

# Rounds of the moody model's loop, in thousands: long enough that a test can act meanwhile.
LONG = 60
UP = 'pairfuse_model_up{model="plain"}'


@pytest.fixture
def faults(tmp_path):
    """The file that says what goes wrong in the service."""
    path = tmp_path / "faults"
    path.write_text("")
    return path


@pytest.fixture
def start_faulty(start_service, faults) -> Callable[..., Live]:
    return lambda **settings: start_service(module="tests.service.faulty_server", faults=faults, **settings)


@pytest.fixture
def threads() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def fail_three_times(service, pair):
    assert [service.fuse(*pair, model="plain").status_code for _ in range(3)] == [500] * 3


def test_a_broken_model_is_restarted_and_served_again(start_faulty, faults, pair):
    service = start_faulty()
    before = service.fuse(*pair, model="plain")
    faults.write_text("run")
    fail_three_times(service, pair)
    service.until(lambda: service.metric('pairfuse_restarts_total{model="plain",result="ok"}') == 1)
    service.until(lambda: service.client.get("/readyz").status_code == 200)
    assert service.metric('pairfuse_run_failures_total{model="plain"}') == 3
    assert service.metric(UP) == 1
    after = service.fuse(*pair, model="plain")
    assert (after.status_code, after.content) == (200, before.content)
    log = service.log.read_text()
    assert "model is being restarted" in log
    assert "the device is gone" in log


def test_while_a_model_is_down_it_says_so_and_the_others_work(start_faulty, faults, pair):
    service = start_faulty()
    faults.write_text("restart")
    fail_three_times(service, pair)
    failed = 'pairfuse_restarts_total{model="plain",result="failed"}'
    service.until(lambda: service.metric(failed) >= 1)
    ready = service.client.get("/readyz")
    assert ready.status_code == 503
    assert "plain" in ready.json()["detail"]
    refused = service.fuse(*pair, model="plain")
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:pairfuse:problem:not-ready"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "gone" not in refused.text
    assert service.metric(UP) == 0
    assert service.client.get("/healthz").status_code == 200
    faults.write_text("")
    service.until(lambda: service.client.get("/readyz").status_code == 200)
    assert service.fuse(*pair, model="plain").status_code == 200
    assert service.fuse(*pair, model="coded").status_code == 200


def test_a_run_that_hangs_is_noticed_and_forgiven(start_faulty, faults, pair):
    service = start_faulty(threads=2)
    before = service.fuse(*pair, model="plain")
    faults.write_text("hang")
    assert give_up_soon(service, pair).status_code == 504
    service.until(lambda: service.client.get("/readyz").status_code == 503)
    assert service.metric(UP) == 0
    assert "model run does not end" in service.log.read_text()
    refused = service.fuse(*pair, model="plain")
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:pairfuse:problem:not-ready"
    assert int(refused.headers["retry-after"]) == 60
    faults.write_text("")
    service.until(lambda: service.client.get("/readyz").status_code == 200)
    assert service.fuse(*pair, model="plain").content == before.content
    assert service.metric(UP) == 1


def test_a_run_that_hangs_does_not_keep_the_process(start_faulty, faults, pair):
    service = start_faulty(drain_timeout_s=0.5)
    faults.write_text("hang")
    assert give_up_soon(service, pair).status_code == 504
    assert service.stop() == 1
    assert "the process ends without it" in service.log.read_text()


def test_a_run_that_hangs_does_not_keep_the_process_after_a_second_signal(start_faulty, faults, threads, pair):
    service = start_faulty(drain_timeout_s=2)
    faults.write_text("hang")
    threads.submit(service.fuse, *pair, model="plain")
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 1)
    service.process.send_signal(signal.SIGINT)
    service.until(lambda: not listens(service))
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(20) == 1
    assert "the process ends without it" in service.log.read_text()


def listens(service):
    try:
        socket.create_connection(("127.0.0.1", service.port)).close()
    except OSError:
        return False
    return True


def give_up_soon(service, pair):
    files = {"image_a": ("a", pair[0]), "image_b": ("b", pair[1])}
    return service.client.post("/fuse", files=files, data={"model": "plain"}, headers={"X-Request-Timeout": "0.1"})


def test_a_damaged_bundle_is_not_taken_back(start_faulty, faults, pair, weights, tmp_path):
    service = start_faulty(weights=copy_of(weights, tmp_path))
    graph = tmp_path / "weights" / "plain" / "fusion.onnx"
    sound = graph.read_bytes()
    graph.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    faults.write_text("run")
    fail_three_times(service, pair)
    service.until(lambda: service.metric('pairfuse_restarts_total{model="plain",result="failed"}') >= 1)
    assert "fusion.onnx' has sha256" in service.log.read_text()
    graph.write_bytes(sound)
    service.until(lambda: service.client.get("/readyz").status_code == 200)
    assert service.fuse(*pair, model="plain").status_code == 200


def copy_of(weights, tmp_path):
    folder = tmp_path / "weights"
    for path in sorted(weights.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(weights)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def test_a_batch_that_does_not_fit_is_halved(start_faulty, faults, threads, pair):
    service = start_faulty(max_batch=8)
    alone = service.fuse(*pair, model="moody").content
    faults.write_text("memory")
    slow = threads.submit(service.fuse, *pair, model="moody", delay=LONG)
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 2)
    waiting = [threads.submit(service.fuse, *pair, model="moody") for _ in range(4)]
    service.until(lambda: service.metric("pairfuse_queue_depth") == 4)
    assert slow.result().status_code == 200
    assert [future.result().content for future in waiting] == [alone] * 4
    assert service.metric('pairfuse_out_of_memory_total{action="halved",model="moody"}') == 3
    assert service.metric('pairfuse_run_failures_total{model="moody"}') == 0
    assert service.client.get("/readyz").status_code == 200


def test_a_pair_that_does_not_fit_at_all_is_refused(start_faulty, faults, pair):
    service = start_faulty()
    faults.write_text("no-memory")
    for _ in range(4):
        refused = service.fuse(*pair, model="plain")
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:pairfuse:problem:out-of-memory"
        assert "64×48 pixels. Send a smaller pair" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "30"
    assert service.client.get("/readyz").status_code == 200
    assert service.metric('pairfuse_out_of_memory_total{action="refused",model="plain"}') == 4
    faults.write_text("")
    assert service.fuse(*pair, model="plain").status_code == 200
