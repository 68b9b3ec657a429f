"""Traces arrive at a collector where the environment asks for them, and are no condition for anything else."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import threading
from collections import defaultdict

import pytest

INSTALLED = importlib.util.find_spec("opentelemetry.sdk") and importlib.util.find_spec("opentelemetry.exporter")
needs_packages = pytest.mark.skipif(not INSTALLED, reason="pairfuse[otel] is not installed")
STAGES = ["decode", "queue", "encode_code", "fuse", "encode"]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(http.server.ThreadingHTTPServer):
    """An OTLP collector that keeps what it is sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self):
        """Returns all spans by name, and the names of the services that sent them."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found, services = defaultdict(list), set()
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {each.key: each.value.string_value for each in resource.resource.attributes}
                services.add(named["service.name"])
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found[span.name].append(span)
        return found, services


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces" and self.headers.get("Content-Encoding") is None:
            self.server.bodies.append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_inherited_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def attributes(span):
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def requests(service):
    entries = [json.loads(line) for line in service.log.read_text().splitlines()]
    return [entry for entry in entries if entry["message"] == "request" and entry["path"] == "/fuse"]


@needs_packages
def test_a_request_becomes_a_span_with_its_stages(start_service, collector, monkeypatch, pair):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    service = start_service()
    files = {"image_a": ("a", pair[0]), "image_b": ("b", pair[1])}
    response = service.client.post("/fuse", files=files, headers={"traceparent": PARENT})
    assert response.status_code == 200
    assert service.client.get("/metrics").status_code == 200
    assert service.stop() == 0
    spans, services = collector.spans()
    assert services == {"pairfuse"}
    assert set(spans) == {"POST /fuse", *STAGES}
    (request,) = spans["POST /fuse"]
    assert request.trace_id.hex() == PARENT.split("-")[1]
    assert request.parent_span_id.hex() == PARENT.split("-")[2]
    told = attributes(request)
    assert told["http.response.status_code"] == 200
    assert (told["pairfuse.model"], told["pairfuse.width"], told["pairfuse.height"]) == ("coded", 64, 48)
    stages = [spans[name][0] for name in STAGES]
    assert all(stage.parent_span_id == request.span_id for stage in stages)
    times = [time for stage in stages for time in (stage.start_time_unix_nano, stage.end_time_unix_nano)]
    assert [request.start_time_unix_nano, *times, request.end_time_unix_nano] == sorted(
        [request.start_time_unix_nano, *times, request.end_time_unix_nano]
    )
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    for name, stage in zip(STAGES, stages, strict=True):
        assert (stage.end_time_unix_nano - stage.start_time_unix_nano) / 1e6 == pytest.approx(
            float(timing[name]), abs=0.01
        )
    assert requests(service)[0]["trace_id"] == PARENT.split("-")[1]


@needs_packages
def test_a_failed_request_is_a_failed_span_without_stages(start_service, collector, monkeypatch, pair):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "night-watch")
    service = start_service()
    assert service.fuse(*pair, model="moody", fault=1).status_code == 500
    assert service.stop() == 0
    spans, services = collector.spans()
    assert services == {"night-watch"}
    assert set(spans) == {"POST /fuse"}
    assert spans["POST /fuse"][0].status.code == 2


@needs_packages
def test_every_worker_sends_its_spans(start_service, collector, monkeypatch, pair):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    service = start_service(workers=2, threads=1)
    assert service.fuse(*pair).status_code == 200
    assert service.stop() == 0
    assert set(collector.spans()[0]) == {"POST /fuse", *STAGES}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "URL"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "URL"},
        {"OTEL_SERVICE_NAME": "named"},
    ],
    ids=lambda variables: "+".join(variables) or "nothing",
)
def test_nothing_is_sent_unless_asked_for(start_service, collector, monkeypatch, pair, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("URL", collector.url))
    service = start_service()
    assert service.fuse(*pair).status_code == 200
    assert service.stop() == 0
    assert collector.bodies == []
    assert "no traces" not in service.log.read_text()
    assert "trace_id" not in requests(service)[0]


@needs_packages
@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")]
)
def test_what_cannot_be_followed_is_a_warning(start_service, collector, monkeypatch, pair, name, value):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv(name, value)
    service = start_service()
    assert service.fuse(*pair).status_code == 200
    (warning,) = [line for line in service.log.read_text().splitlines() if "no traces" in line]
    assert value in json.loads(warning)["reason"]


def test_without_the_packages_it_serves_and_says_what_to_install(start_service, collector, monkeypatch, tmp_path, pair):
    blocked = tmp_path / "site" / "opentelemetry" / "sdk"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError('no SDK here', name='opentelemetry.sdk')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    service = start_service()
    assert service.fuse(*pair).status_code == 200
    (warning,) = [json.loads(line) for line in service.log.read_text().splitlines() if "no traces" in line]
    assert warning["level"] == "warning"
    assert "pairfuse[otel]" in warning["cure"]
