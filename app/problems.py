"""Turns every kind of error into an ``application/problem+json`` response."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from app.errors import ClientGoneError, ProblemError, plain_problem, problem_document
from app.logs import request_id


class ProblemResponse(JSONResponse):
    """A problem document (RFC 9457)."""

    media_type = "application/problem+json"


def anonymous_problem() -> ProblemResponse:
    """Returns the answer to an unforeseen error: it shows nothing but the request id."""
    detail = "Something failed inside the service. The reason is in its log under this request id."
    return ProblemResponse(plain_problem(500, detail, request_id.get(), slug="internal"), 500)


def install_problem_handlers(app: FastAPI) -> None:
    """Makes an app answer every error of the framework and of this package with a problem document."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)


async def _on_problem(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, ProblemError)
    request.app.state.service.telemetry.rejected.labels(error.slug).inc()
    request.state.refused = {"reason": error.slug, "detail": error.detail}
    return ProblemResponse(problem_document(error, request_id.get()), error.status, error.headers)


async def _on_disconnect(request: Request, _: Exception) -> ProblemResponse:
    return await _on_problem(request, ClientGoneError("The caller left during the upload."))


async def _on_http_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"There is nothing at {request.url.path[:200]}. The calls are listed at /docs."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path[:200]} does not take {request.method}. The calls are listed at /docs."
    return ProblemResponse(plain_problem(error.status_code, detail, request_id.get()), error.status_code, error.headers)


async def _on_invalid(_: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    faults: list[dict[str, Any]] = [
        {"field": ".".join(str(part) for part in fault["loc"][1:]), "allowed": fault["msg"]} for fault in error.errors()
    ]
    detail = "; ".join(f"{fault['field']}: {fault['allowed']}" for fault in faults)
    document = plain_problem(422, detail, request_id.get(), slug="bad-field", title="Bad field") | {"errors": faults}
    return ProblemResponse(document, 422)
