"""The log has one line for each request, with all that one wants to know about it."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime

import pytest

STAGES = ["decode_ms", "queue_ms", "encode_code_ms", "fuse_ms", "encode_ms"]


def lines_so_far(service, response):
    """Returns the whole lines in the log that name a request."""
    lines = service.log.read_text().splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and response.headers["x-request-id"] in line]


def line_of(service, response):
    """Waits for the one line of a request: it is written when the answer has been sent."""
    service.until(lambda: lines_so_far(service, response))
    (line,) = lines_so_far(service, response)
    return line


def test_a_fused_pair(service, pair):
    response = service.fuse(*pair, model="plain")
    entry = json.loads(line_of(service, response))
    assert (entry["message"], entry["method"], entry["path"]) == ("request", "POST", "/fuse")
    assert (entry["status"], entry["model"], entry["width"], entry["height"]) == (200, "plain", 64, 48)
    assert entry["bytes_in"] == int(response.request.headers["content-length"])
    assert entry["bytes_out"] == len(response.content)
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert {stage: entry[stage] for stage in STAGES} == {f"{name}_ms": float(ms) for name, ms in timing.items()}
    assert entry["ms"] >= sum(entry[stage] for stage in STAGES) - 1


def test_a_refused_pair_has_the_reason(service, pair):
    response = service.fuse(b"no image", pair[1])
    entry = json.loads(line_of(service, response))
    assert (entry["status"], entry["model"], entry["reason"]) == (400, "coded", "not-an-image")
    assert entry["detail"] == response.json()["detail"]
    assert entry["bytes_out"] == len(response.content)
    assert not {"width", *STAGES} & set(entry)


def test_other_calls_have_no_model(service):
    response = service.client.get("/models/nobody")
    entry = json.loads(line_of(service, response))
    assert (entry["path"], entry["status"], entry["reason"]) == ("/models/nobody", 404, "unknown-model")
    assert "model" not in entry


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_leave_no_line(service, path):
    probe = service.client.get(path)
    line_of(service, service.client.get("/models"))  # answered later, on the same connection
    assert lines_so_far(service, probe) == []


def test_text_for_people(start_service, pair):
    service = start_service(log_format="text")
    response = service.fuse(*pair)
    line = line_of(service, response)
    assert f"bytes_out={len(response.content)} model=coded width=64 height=48 decode_ms=" in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


@pytest.mark.parametrize("path", ["/healthz", "/models/none", "/nowhere"])
def test_every_answer_says_when_it_was_made(service, path):
    before = int(time.time())
    made = parsedate_to_datetime(service.client.get(path).headers["date"]).timestamp()
    assert before <= made <= time.time()
