"""Overload, deadlines, callers that leave, failing runs, and the end of the process."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

# Rounds of the moody model's loop, in thousands: long enough that a test can act meanwhile on any machine.
LONG, LONGER = 60, 400


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def form(pair, **fields):
    """Returns head and body of a raw POST /fuse."""
    parts = [
        f'--abc\r\nContent-Disposition: form-data; name="image_{side}"; filename="x"\r\n\r\n'.encode() + data + b"\r\n"
        for side, data in zip("ab", pair, strict=True)
    ]
    for name, value in fields.items():
        parts.append(f'--abc\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    body = b"".join(parts) + b"--abc--\r\n"
    head = "POST /fuse HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=abc\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body


@contextlib.contextmanager
def half_sent(service, pair, **fields):
    """Holds a request whose body is not complete; yields the connection and the rest of the body."""
    head, body = form(pair, **fields)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head + body[:-20])
        service.until(lambda: service.metric("pairfuse_inflight") == 1)
        yield connection, body[-20:]


def status_of(connection):
    return int(connection.recv(12).split()[1])


def test_a_full_service_says_when_to_come_back(start_service, threads, pair):
    service = start_service(max_inflight=1)
    slow = threads.submit(service.fuse, *pair, model="moody", delay=LONG)
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 1)
    response = service.fuse(*pair)
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.json()["type"] == "urn:pairfuse:problem:queue-full"
    assert slow.result().status_code == 200
    assert service.fuse(*pair).status_code == 200
    assert service.metric('pairfuse_rejected_total{reason="queue-full"}') == 1


def test_callers_that_send_nothing_take_no_places(start_service, pair):
    service = start_service(max_inflight=1)
    with half_sent(service, pair) as (connection, rest):
        assert service.fuse(*pair).status_code == 200
        connection.sendall(rest)
        assert status_of(connection) == 200


def test_bodies_together_are_bounded(start_service, pair):
    service = start_service(max_body_bytes=len(pair[0]) + len(pair[1]) + 600)
    with half_sent(service, pair) as (connection, rest):
        assert service.fuse(*pair).status_code == 503
        connection.sendall(rest)
        assert status_of(connection) == 200
    assert service.fuse(*pair).status_code == 200


def test_pixels_are_bounded_too(start_service, threads, pair):
    service = start_service(max_inflight_pixels=48 * 64 * 2)
    slow = threads.submit(service.fuse, *pair, model="moody", delay=LONG)
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 1)
    assert service.fuse(*pair).status_code == 503
    assert slow.result().status_code == 200
    assert service.fuse(*pair).status_code == 200


def test_past_the_deadline(start_service, pair):
    service = start_service(deadline_s=0.05)
    response = service.fuse(*pair, model="moody", delay=LONG)
    assert response.status_code == 504
    assert "0.05 s" in response.json()["detail"]
    service.until(lambda: service.fuse(*pair, model="plain").status_code == 200)


def test_a_slow_upload_is_ended(start_service, pair):
    service = start_service(upload_timeout_s=0.1)
    with half_sent(service, pair) as (connection, _):
        assert status_of(connection) == 408


def test_the_work_of_callers_that_left_is_dropped(start_service, threads, pair):
    service = start_service()
    slow = threads.submit(service.fuse, *pair, model="moody", delay=LONG)
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 1)
    with half_sent_complete(service, pair, model="moody", delay=LONGER):
        service.until(lambda: service.metric("pairfuse_queue_depth") == 1)
    service.until(lambda: service.metric("pairfuse_queue_depth") == 0)
    assert slow.result().status_code == 200
    assert service.fuse(*pair, model="moody").status_code == 200
    assert service.metric("pairfuse_batch_size_count") == 2
    assert service.metric('pairfuse_rejected_total{reason="client-gone"}') == 1
    assert service.metric('pairfuse_requests_total{model="moody",status="499"}') == 1


@contextlib.contextmanager
def half_sent_complete(service, pair, **fields):
    """Sends a whole request and closes the connection at the end without reading the answer."""
    head, body = form(pair, **fields)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head + body)
        yield connection


def test_a_caller_that_leaves_during_the_upload(start_service, pair):
    service = start_service()
    with half_sent(service, pair):
        pass
    service.until(lambda: service.metric('pairfuse_rejected_total{reason="client-gone"}') == 1)
    assert service.metric("pairfuse_inflight") == 0
    assert "exception" not in service.log.read_text()


def test_a_failing_pair_costs_nobody_else(start_service, threads, pair):
    service = start_service(max_batch=4)
    slow = threads.submit(service.fuse, *pair, model="moody", delay=LONG)
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 1)
    waiting = [threads.submit(service.fuse, *pair, model="moody", fault=fault) for fault in (0, 1, 0)]
    service.until(lambda: service.metric("pairfuse_queue_depth") == 3)
    assert slow.result().status_code == 200
    assert [future.result().status_code for future in waiting] == [200, 500, 200]
    failed = waiting[1].result()
    assert failed.headers["content-type"] == "application/problem+json"
    assert "Gather" not in failed.text
    assert failed.json()["request_id"] in service.log.read_text()
    assert service.metric('pairfuse_run_failures_total{model="moody"}') == 2
    assert service.client.get("/readyz").status_code == 200


def test_three_failures_in_a_row_are_checked_with_a_good_pair(start_service, pair):
    service = start_service()
    for _ in range(3):
        assert service.fuse(*pair, model="moody", fault=1).status_code == 500
    service.until(lambda: "passed its check run" in service.log.read_text())
    service.until(lambda: service.client.get("/readyz").status_code == 200)
    assert service.fuse(*pair, model="moody").status_code == 200


def test_sigterm_lets_accepted_requests_finish(start_service, pair):
    service = start_service()
    with half_sent(service, pair) as (connection, rest):
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: service.client.get("/readyz").status_code == 503)
        assert service.client.get("/healthz").status_code == 200
        refused = service.fuse(*pair)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["type"] == "urn:pairfuse:problem:draining"
        connection.sendall(rest)
        assert status_of(connection) == 200
    assert service.process.wait(30) == 0


def test_sigterm_when_idle(start_service):
    assert start_service().stop() == 0


def test_a_service_without_models_does_not_start(tmp_path):
    environment = os.environ | {"PAIRFUSE_WEIGHTS": str(tmp_path), "PAIRFUSE_PORT": "0"}
    command = [sys.executable, "-m", "app", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pairfuse: No usable model")
    assert "Traceback" not in done.stderr
