"""The HTTP calls. Each handler only translates between HTTP and the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Request, Response

from app import schemas
from app.answers import PictureResponse
from app.deadlines import TIMEOUT_HEADER, read_timeout
from app.engine import Engine
from app.errors import ClientGoneError, DrainingError, NotReadyError
from app.forms import read_form
from app.options import read_options
from app.pipeline import FuseResult
from app.service import Service
from app.tracing import trace_stages

T = TypeVar("T")

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter()


@router.post("/fuse", tags=["fusion"], summary="Fuse an aligned pair of images", response_class=Response)
async def fuse(request: Request) -> Response:
    """Fuses two images of the same size into one and answers the image itself.

    The fused luminance carries what matters of both; the colour comes from the sources as `color` says.
    Nothing of a request is written to disk.
    """
    service = _service(request)
    settings = service.settings
    timeout_s = read_timeout(request.headers.get(TIMEOUT_HEADER), settings.deadline_s, settings.longest_deadline_s)
    with service.gate.upload() as grow:
        form = await read_form(request, settings.max_upload_bytes, settings.upload_timeout_s, grow)
        request.state.model = service.catalog.get(form.fields.get("model")).card.name
        options = read_options(settings.request_defaults | form.fields, service.catalog)
        with service.gate.admit():
            begun = time.time_ns()
            work = service.pipeline.fuse(form.image_a, form.image_b, options, timeout_s)
            result = await _unless_gone(request, work)
    _report(request, result, begun)
    headers = {
        "Server-Timing": _server_timing(result),
        "X-Pairfuse-Model": result.model,
        "X-Pairfuse-Working-Size": str(result.working),
    }
    held = service.gate.answer(len(result.body))
    return PictureResponse(result.body, result.media_type, headers, held, settings.send_timeout_s)


@router.get("/models", tags=["models"], summary="All models")
async def list_models(request: Request) -> schemas.ModelList:
    """Answers the card of every loaded model, what runs it, and which bundles were refused."""
    catalog = _service(request).catalog
    return schemas.ModelList(
        default=catalog.default,
        models=[_info(engine, catalog.default) for engine in catalog],
        refused=[schemas.Refusal(name=name, reason=reason) for name, reason in catalog.refused.items()],
    )


@router.get("/models/{name}", tags=["models"], summary="One model")
async def show_model(
    request: Request,
    name: Annotated[str, Path(description="Name of a loaded model.")],
) -> schemas.ModelInfo:
    """Answers the card of one model and what runs it."""
    catalog = _service(request).catalog
    return _info(catalog.get(name), catalog.default)


@router.get("/healthz", tags=["health"], summary="Liveness")
async def healthz() -> schemas.Health:
    """Answers as long as the process serves HTTP at all."""
    return schemas.Health()


@router.get("/readyz", tags=["health"], summary="Readiness")
async def readyz(request: Request) -> schemas.Readiness:
    """Answers 200 when all models are warmed up and healthy and the service is not shutting down."""
    service = _service(request)
    if service.gate.draining:
        raise DrainingError
    if failing := service.pipeline.unhealthy():
        raise NotReadyError(f"{', '.join(failing)} failed and must recover. The reasons are in the service's log.")
    return schemas.Readiness(models=[engine.card.name for engine in service.catalog])


@router.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Answers all metrics in the Prometheus text format."""
    return Response(_service(request).telemetry.render(), media_type=METRICS_TYPE)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _info(engine: Engine, default: str) -> schemas.ModelInfo:
    backend = engine.backend
    return schemas.ModelInfo(
        card=engine.card,
        backend=backend.kind,
        device=backend.device,
        fell_back=backend.fell_back,
        default=engine.card.name == default,
    )


def _report(request: Request, result: FuseResult, begun_ns: int) -> None:
    """Leaves what the line in the log tells of a fused pair, and adds its stages to the trace."""
    size = {"width": result.width, "height": result.height}
    request.state.fused = size | {f"{stage}_ms": round(seconds * 1000, 2) for stage, seconds in result.seconds.items()}
    trace_stages(begun_ns, time.time_ns(), result.seconds, model=result.model, **size)


def _server_timing(result: FuseResult) -> str:
    return ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in result.seconds.items())


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work, but cancels it as soon as the caller closes the connection.

    Raises:
        ClientGoneError: The caller left first.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("The caller left before the picture was ready.")
        return await task
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    """Returns when the caller has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
