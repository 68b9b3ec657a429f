"""What the JSON answers hold."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.card import ModelCard


class Health(BaseModel):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """The service takes work."""

    status: Literal["ready"] = "ready"
    models: list[str] = Field(description="Names of the loaded models.")


class ModelInfo(BaseModel):
    """A model's card, and what runs it here."""

    card: ModelCard
    backend: str = Field(description="What runs the model: `onnx` or `torch`.")
    device: str = Field(description="`cpu` or `cuda`.")
    fell_back: bool = Field(description="Whether it runs on the CPU although onnxruntime offers CUDA.")
    default: bool = Field(description="Whether a request without `model` gets this one.")


class Refusal(BaseModel):
    """A bundle that was not loaded."""

    name: str
    reason: str


class ModelList(BaseModel):
    """All models of the service."""

    default: str = Field(description="The model that a request without `model` gets.")
    models: list[ModelInfo]
    refused: list[Refusal] = Field(description="Bundles that were found but are not served, with the reason.")


class Problem(BaseModel):
    """An error, as RFC 9457 defines it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Kind of the problem, for programs.", examples=["urn:pairfuse:problem:bad-field"])
    title: str = Field(description="Kind of the problem, for people.", examples=["Bad field"])
    status: int = Field(description="HTTP status.", examples=[422])
    detail: str = Field(
        description="What to change.",
        examples=["strength: 3 is out of range. Allowed: a number from 0 to 2."],
    )
    request_id: str = Field(description="Id of the request in the service's log.", examples=["5f2d9c0a7be41d36"])
    errors: list[dict[str, Any]] = Field(default=[], description="The fields at fault, with what each takes.")
