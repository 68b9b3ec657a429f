"""Describes the HTTP interface: the multipart form, which no handler parameter shows, and all errors."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.catalog import Catalog
from app.codec import ACCEPTED_TEXT, MEDIA_TYPES, OutputFormat
from app.color import ColorRule
from app.deadlines import TIMEOUT_HEADER
from app.deflate import Effort
from app.levels import RangeRule
from app.schemas import Problem
from app.settings import Settings
from app.working import LEAST_SIDE, MOST_SIDE, NATIVE

PROBLEM = {"$ref": "#/components/schemas/Problem"}
UNEXPECTED = {500: "The service failed; the reason is in its log under the request id."}
NOT_READY = {503: "A model is failing, or the service is shutting down."}
UNKNOWN_MODEL = {404: "Unknown model. The known ones are listed."}
FUSE_ERRORS = UNKNOWN_MODEL | {
    400: "A file is empty, damaged or not an image, or the form is malformed.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or pixels.",
    415: "The body is not multipart/form-data, or an image is of a type that is not taken.",
    422: "A field is missing, unknown or out of its range, or the images do not make a pair.",
    503: "The queue is full, or too long for the time that the request has; the model is being restarted; memory does "
    "not suffice; or the service is shutting down. `Retry-After` says when to come back.",
    504: "The picture was not ready within the deadline.",
}
CALL_ERRORS: dict[tuple[str, str], dict[int, str]] = {
    ("/fuse", "post"): FUSE_ERRORS,
    ("/models/{name}", "get"): UNKNOWN_MODEL,
    ("/readyz", "get"): NOT_READY,
}


class DescribedApp(FastAPI):
    """An app that describes its hand-parsed form; ``state.service`` must be set before it is asked to."""

    def openapi(self) -> dict[str, Any]:
        """Returns the OpenAPI document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = describe(self, self.state.service.catalog, self.state.service.settings)
        return self.openapi_schema


def describe(app: FastAPI, catalog: Catalog, settings: Settings) -> dict[str, Any]:
    """Returns the OpenAPI document of an app, with the edit slots and names of the loaded models.

    The settings are what a request gets for fields that it does not name.
    """
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            _describe_errors(call, CALL_ERRORS.get((path, method), {}) | UNEXPECTED)
    _describe_fuse(document["paths"]["/fuse"]["post"], catalog, settings)
    document["paths"]["/models/{name}"]["get"]["parameters"][0]["example"] = catalog.default
    document["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return document


def _describe_errors(call: dict[str, Any], errors: dict[int, str]) -> None:
    call["responses"] = {status: answer for status, answer in call["responses"].items() if status == "200"}
    for status, description in sorted(errors.items()):
        content = {"application/problem+json": {"schema": PROBLEM}}
        call["responses"][str(status)] = {"description": description, "content": content}


def _describe_fuse(call: dict[str, Any], catalog: Catalog, settings: Settings) -> None:
    form: dict[str, Any] = {
        "type": "object",
        "required": ["image_a", "image_b"],
        "properties": _fields(catalog, settings),
    }
    form["additionalProperties"] = False
    call["parameters"] = [
        {
            "name": TIMEOUT_HEADER,
            "in": "header",
            "description": "Seconds that the caller waits for the picture after its upload, not the usual ones.",
            "schema": {"type": "number", "exclusiveMinimum": 0},
            "example": 2.5,
        }
    ]
    call["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    picture = {"schema": {"type": "string", "format": "binary"}}
    call["responses"]["200"] = {
        "description": "The fused image, of the size of the sources.",
        "content": dict.fromkeys(MEDIA_TYPES.values(), picture),
        "headers": {
            "Server-Timing": _header(
                "Milliseconds of decode, queue, encode_code, fuse, guide (if the pair was reduced) and encode."
            ),
            "X-Pairfuse-Model": _header("The model that made the image."),
            "X-Pairfuse-Working-Size": _header("Width and height at which the model saw the pair, as `1024x576`."),
            "X-Request-ID": _header("Id of the request: the caller's if it sent a sane one, else a new one."),
        },
    }
    call["responses"]["503"]["headers"] = {"Retry-After": _header("Seconds to wait before the next try.")}


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


def _fields(catalog: Catalog, settings: Settings) -> dict[str, Any]:
    default = catalog.get(None).card
    fields: dict[str, Any] = {
        "image_a": _file(default.tasks[0].image_a),
        "image_b": _file(default.tasks[0].image_b),
        "model": _choice([engine.card.name for engine in catalog], catalog.default, "Name of a loaded model."),
    }
    slots = [slot for engine in catalog for slot in engine.card.edit_slots]
    if slots:
        maximum = max(slot.max for slot in slots)
        fields["strength"] = _number(maximum, "Strength of all edit slots at once. Only for models that have slots.")
    for slot in slots:
        fields[slot.name] = _number(slot.max, f"{slot.meaning} Overrides `strength` for this slot.") | {
            "default": slot.default
        }
    fields["color"] = _choice(
        list(get_args(ColorRule)),
        "auto",
        "Where the colour comes from: both images by their distance from grey, one of them, or nowhere. "
        "`rgb` fuses red, green and blue each like luminance, at three times the cost.",
    )
    fields["format"] = _choice(list(get_args(OutputFormat)), "png", "File format of the answer.")
    fields["quality"] = {
        "type": "integer",
        "minimum": 1,
        "maximum": 100,
        "default": settings.quality,
        "description": "Quality of jpeg and webp; png and tiff lose nothing.",
    }
    fields["effort"] = _choice(
        list(get_args(Effort)),
        settings.effort,
        "How much time fewer bytes are worth. The pixels stay the same, but for webp. Writing a png, `small` takes "
        "six times as long as `fast`, `smallest` some twenty times.",
    )
    fields["range16"] = _choice(
        list(get_args(RangeRule)),
        "stretch",
        "How 16-bit, 32-bit and float grey images are scaled: by their 0.1th and 99.9th percentile, "
        "or by their full range.",
    )
    fields["max_side"] = {
        "type": "integer",
        "anyOf": [{"const": NATIVE}, {"minimum": LEAST_SIDE, "maximum": MOST_SIDE}],
        "default": settings.max_side,
        "description": f"Longest side at which the model sees the pair: 0 as it is, else {LEAST_SIDE} or more. Of a "
        "larger pair it sees a reduced copy; the result has full size and the detail of both sources.",
        "examples": [1024],
    }
    return fields


def _file(meaning: str) -> dict[str, Any]:
    description = f"{meaning} One of: {ACCEPTED_TEXT}. Both images must have the same size."
    return {"type": "string", "format": "binary", "description": description}


def _number(maximum: float, description: str) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": maximum, "description": description, "examples": [1]}


def _choice(choices: list[str], default: str, description: str) -> dict[str, Any]:
    return {"type": "string", "enum": choices, "default": default, "description": description}
