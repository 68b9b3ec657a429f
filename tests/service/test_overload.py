"""More requests than the service can do: time limits of callers, refusals in time, and a stop under load."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import signal
import socket

import numpy as np
import pytest
from PIL import Image

from tests.service.test_trouble import LONG, form

# Likewise; the latter takes hours.
SHORT, FOR_EVER = 2, 1_000_000


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


def fuse(service, pair, timeout=None, **fields):
    """Sends one request on a connection of its own."""
    files = {"image_a": ("a", pair[0]), "image_b": ("b", pair[1])}
    headers = {} if timeout is None else {"X-Request-Timeout": timeout}
    data = {key: str(value) for key, value in fields.items()}
    return service.client.post("/fuse", files=files, data=data, headers=headers)


@pytest.mark.parametrize("timeout", ["2.5", "1e3", "0030", "1000000"])
def test_a_time_limit_of_the_caller_is_taken(service, pair, timeout):
    assert fuse(service, pair, timeout, model="plain").status_code == 200


@pytest.mark.parametrize("timeout", ["0", "-1", "soon", "", "nan", "inf", "1,5", "5s", "1" * 400])
def test_a_bad_time_limit_is_refused_with_cause_and_cure(service, pair, timeout):
    response = fuse(service, pair, timeout, model="plain")
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "urn:pairfuse:problem:bad-field"
    assert problem["errors"][0]["field"] == "X-Request-Timeout"
    assert "seconds above 0" in problem["detail"]
    assert len(problem["detail"]) < 300


def test_the_caller_may_wait_less_or_longer_than_usual(start_service, pair):
    service = start_service(deadline_s=0.05, max_deadline_s=60)
    short = fuse(service, pair, model="moody", delay=LONG)
    assert (short.status_code, "0.05 s" in short.json()["detail"]) == (504, True)
    shorter = fuse(service, pair, "0.02", model="moody", delay=LONG)
    assert shorter.status_code in {503, 504}
    service.until(lambda: service.metric("pairfuse_queue_depth") == 0)
    assert fuse(service, pair, "50", model="moody", delay=1).status_code == 200


def test_no_caller_waits_longer_than_the_maximum(start_service, pair):
    service = start_service(deadline_s=0.01, max_deadline_s=0.05)
    response = fuse(service, pair, "1000", model="moody", delay=LONG)
    assert (response.status_code, "0.05 s" in response.json()["detail"]) == (504, True)


def test_a_maximum_below_the_usual_time_does_not_lower_it(start_service, pair):
    service = start_service(deadline_s=30, max_deadline_s=0.001)
    assert fuse(service, pair, model="moody", delay=1).status_code == 200


def a_queue(service, threads, pair, length):
    """A long run, the second of the service, and so many pairs that wait behind it; their answers to come."""
    running = threads.submit(fuse, service, pair, "600", model="moody", delay=LONG)
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 2)
    waiting = [threads.submit(fuse, service, pair, "600", model="moody") for _ in range(length)]
    service.until(lambda: service.metric("pairfuse_queue_depth") == length)
    return [running, *waiting]


def test_what_cannot_be_done_in_time_is_refused_at_once(start_service, threads, pair):
    service = start_service(max_deadline_s=600)
    assert fuse(service, pair, "600", model="moody", delay=SHORT).status_code == 200
    accepted = a_queue(service, threads, pair, 4)
    refused = fuse(service, pair, "0.01", model="moody")
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:pairfuse:problem:queue-full"
    assert "4 pairs before this one" in refused.json()["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    # Another model has no queue: it never refuses for that reason.
    assert fuse(service, pair, "30", model="plain").status_code == 200
    assert [future.result().status_code for future in accepted] == [200] * 5


def test_a_full_queue_says_when_it_will_be_empty(start_service, threads, pair):
    service = start_service(max_queue=2, max_deadline_s=600)
    first = fuse(service, pair, "600", model="moody", delay=LONG)
    seconds = float(first.headers["server-timing"].split("fuse;dur=")[1].split(",")[0]) / 1000
    accepted = a_queue(service, threads, pair, 2)
    refused = fuse(service, pair, "600", model="moody")
    assert refused.status_code == 503
    assert "2 pairs wait for moody" in refused.json()["detail"]
    # Two pairs at the pace of the first one, and at most the whole of the run.
    assert min(60, 2 * seconds) <= int(refused.headers["retry-after"]) <= 3 * seconds + 2
    assert [future.result().status_code for future in accepted] == [200] * 3


def test_no_accepted_request_is_lost_when_the_service_is_stopped_under_load(start_service, threads, pair):
    service = start_service(max_deadline_s=600, drain_timeout_s=600)
    accepted = [threads.submit(fuse, service, pair, "600", model="moody", delay=LONG)]
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 1)
    accepted += [threads.submit(fuse, service, pair, "600", model="moody", delay=SHORT) for _ in range(9)]
    service.until(lambda: service.metric("pairfuse_queue_depth") == 9)
    service.process.send_signal(signal.SIGTERM)
    service.until(lambda: service.client.get("/readyz").status_code == 503)
    assert fuse(service, pair).json()["type"] == "urn:pairfuse:problem:draining"
    assert [future.result().status_code for future in accepted] == [200] * 10
    assert service.process.wait(60) == 0


def test_a_run_that_nobody_waits_for_is_ended(start_service, pair):
    service = start_service()
    assert fuse(service, pair, "0.2", model="moody", delay=FOR_EVER).status_code == 504
    assert fuse(service, pair, model="moody").status_code == 200
    assert "model run ended early: nobody waits" in service.log.read_text()
    assert service.metric('pairfuse_run_failures_total{model="moody"}') == 0


def test_the_stop_has_a_limit(start_service, threads, pair):
    service = start_service(drain_timeout_s=0.1, max_deadline_s=600)
    running = threads.submit(fuse, service, pair, "600", model="moody", delay=FOR_EVER)
    service.until(lambda: service.metric("pairfuse_batch_size_count") == 1)
    assert service.stop() == 0
    assert running.exception() is not None or running.result().status_code >= 500


@contextlib.contextmanager
def unread_answer(service, files, **fields):
    """Asks for a picture and does not read it."""
    head, body = form(files, **fields)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(head + body)
        yield connection


@pytest.fixture(scope="module")
def noise(to_file):
    """Two files of noise, of 8 MB each: far more than fits into the buffers of a connection."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 2800, 2900), np.uint8)
    return [to_file(picture, "TIFF") for picture in pictures]


def test_an_answer_that_is_not_read_counts_with_the_bodies(start_service, noise):
    service = start_service(max_body_bytes=17_000_000, send_timeout_s=600, deadline_s=600)
    with unread_answer(service, noise, model="plain", format="tiff"):
        service.until(lambda: service.metric("pairfuse_pixels_total") == 2800 * 2900)
        refused = fuse(service, noise, model="plain")
        assert refused.status_code == 503
        assert "unsent answers" in refused.json()["detail"]
    service.until(lambda: fuse(service, noise, model="plain").status_code == 200)


def test_a_caller_that_does_not_read_is_given_up(start_service, noise):
    service = start_service(max_body_bytes=17_000_000, send_timeout_s=0.3, deadline_s=600)
    with unread_answer(service, noise, model="plain", format="tiff"):
        service.until(lambda: "caller does not read its answer" in service.log.read_text())
        assert fuse(service, noise, model="plain").status_code == 200


def test_a_large_answer_arrives_whole(service, noise):
    response = service.fuse(*noise, model="plain", format="tiff")
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(response.content)
    fused = np.asarray(Image.open(io.BytesIO(response.content)), np.float64)
    sources = [np.asarray(Image.open(io.BytesIO(file)), np.float64) for file in noise]
    assert np.abs(fused - sum(sources) / 2).max() <= 1
