"""Traces with OpenTelemetry, where its packages are installed and its own ``OTEL_*`` variables ask for them.

FastAPI makes the span of each request, continues the caller's trace, and keeps to the conventions for HTTP.
Here are only the exporter and the spans of the stages.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

try:
    from opentelemetry import trace
except ImportError:  # It comes with newer releases of FastAPI, or with the extra.
    trace = None

log = logging.getLogger(__name__)

INSTALL = "pip install 'pairfuse[otel]'"
UNNAMED = "unknown_service"


def tracing_options(quiet_paths: frozenset[str]) -> Any:
    """Returns what FastAPI may trace: requests, except those to the given paths; its metrics would double ours."""

    def quiet(scope: MutableMapping[str, Any]) -> bool:
        return scope.get("path") in quiet_paths

    off = dict.fromkeys(("metrics", "logs", "operation_spans", "auto_configure"), False)
    return {**off, "exclude": quiet}


def configure_tracing() -> None:
    """Sends spans where the environment says; does nothing if it says nothing, and only warns where it cannot.

    ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or ``OTEL_TRACES_EXPORTER`` ask for spans.
    What waits to be sent is sent when the process ends.
    """
    if not _asked_for():
        return
    try:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        provider = TracerProvider(resource=_resource())
        provider.add_span_processor(BatchSpanProcessor(_exporter()))
    except ImportError as error:
        log.warning("no traces: a package is missing", extra={"missing": error.name, "cure": INSTALL})
    except ValueError as error:
        log.warning("no traces: the environment cannot be followed", extra={"reason": str(error)})
    else:
        trace.set_tracer_provider(provider)


def _asked_for() -> bool:
    environ = os.environ
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
    return any(environ.get(name) for name in variables)


def _exporter() -> Any:
    """Returns the exporter that the environment names; it reads its address and headers from there itself."""
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    if name != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER={name}: set otlp, console or none")
    general = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or general or "http/protobuf"
    if protocol != "http/protobuf":
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: set http/protobuf, on port 4318 as a rule")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


def _resource() -> Any:
    """Returns what the environment says about this service, named pairfuse if it does not name it."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith(UNNAMED):
        resource = resource.merge(Resource({"service.name": "pairfuse"}))
    return resource


def current_trace_id() -> str:
    """Returns the id of the trace that the current request belongs to, 32 hex digits; empty if it has none."""
    if trace is None:
        return ""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def trace_stages(begun_ns: int, ended_ns: int, seconds: Mapping[str, float], **attributes: str | int) -> None:
    """Adds the stages of a fused pair to the trace of the current request, if it is recorded.

    Args:
        begun_ns: When the first stage began, in nanoseconds since 1970.
        ended_ns: When the last stage ended.
        seconds: Duration of each stage, in their order.
        attributes: Further attributes of the request's span; their names get the prefix ``pairfuse.``.
    """
    if trace is None or not (request := trace.get_current_span()).is_recording():
        return
    request.set_attributes({f"pairfuse.{name}": value for name, value in attributes.items()})
    tracer = trace.get_tracer("pairfuse")
    *first, last = seconds
    for stage in first:
        span = tracer.start_span(stage, start_time=begun_ns)
        begun_ns += round(seconds[stage] * 1e9)
        span.end(begun_ns)
    # By its end: between the run and the last stage lies the way back to the event loop, which no stage counts.
    span = tracer.start_span(last, start_time=ended_ns - round(seconds[last] * 1e9))
    span.end(ended_ns)
