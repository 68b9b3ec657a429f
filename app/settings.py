"""All settings of the service, read from ``PAIRFUSE_*`` environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.codec import DEFAULT_QUALITY
from app.cores import usable_cores
from app.deflate import Effort
from app.working import LEAST_SIDE, MOST_SIDE, NATIVE, is_max_side

# Each run side by side keeps memory for the next one.
MOST_RUNS = 8
CLONE_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def _check_max_side(value: int) -> int:
    if not is_max_side(value):
        raise ValueError(f"must be 0 for the full size, or from {LEAST_SIDE} to {MOST_SIDE}")
    return value


class Settings(BaseSettings):
    """Settings of the service and the command line; every field is one environment variable."""

    model_config = SettingsConfigDict(env_prefix="PAIRFUSE_", extra="ignore", frozen=True)

    weights: Path = Field(CLONE_WEIGHTS, description="Folder with one sub-folder (bundle) per model.")
    model: str | None = Field(
        None, description="Default model. Unset: `titok-ste-lite` if it is there, else the first by name."
    )
    backend: Literal["onnx", "torch"] = Field(
        "onnx",
        description="What runs the models: `onnx`, onnxruntime; `torch`, PyTorch (`pip install 'pairfuse[torch]'`).",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Where models run. `auto`: CUDA if the backend has it; `cuda`: no start without it.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the backend `torch`. `auto`: bfloat16 on CUDA, float32 on a CPU. "
        "`onnx` has float32 only.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the port, each with all models. Every limit below counts for each of them.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads of one model's runs together. 0: the worker's share of the usable cores.",
    )
    max_runs: int = Field(
        0,
        ge=0,
        le=64,
        description="Most runs of one model side by side on a CPU, where under load each has its part of the threads. "
        "0: one for each thread or, with more than 8, for every few of them. On CUDA runs are one after another.",
    )
    codec_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads that decode and encode images. 0: the worker's share of the usable cores, at least 2.",
    )
    host: str = Field("127.0.0.1", description="Address that `pairfuse serve` listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port that `pairfuse serve` listens on.")
    max_upload_bytes: int = Field(64 * 2**20, ge=1024, description="Largest request body, in bytes.")
    max_pixels: int = Field(8_400_000, ge=1024, description="Most pixels of one image, checked before it is decoded.")
    max_side: Annotated[int, AfterValidator(_check_max_side)] = Field(
        NATIVE,
        description="Longest side at which models see a pair whose request names no `max_side`. 0: as it is.",
    )
    quality: int = Field(
        DEFAULT_QUALITY, ge=1, le=100, description="Quality of jpeg and webp if a request names no `quality`."
    )
    effort: Effort = Field(
        "fast",
        description="Effort to spare bytes if a request names no `effort`: `fast`, `small` or `smallest`.",
    )
    max_inflight: int = Field(64, ge=1, description="Most requests at once whose body has arrived.")
    max_body_bytes: int = Field(
        512 * 2**20,
        ge=1,
        description="Most bytes of request bodies and unsent answers held at once. One body alone is always let in.",
    )
    max_inflight_pixels: int = Field(
        100_000_000,
        ge=1024,
        description="Most pixels of all decoded images at once. One pair alone is always let in.",
    )
    max_queue: int = Field(32, ge=1, description="Most decoded pairs waiting for one model.")
    max_batch: int = Field(
        0,
        ge=0,
        le=256,
        description="Most pairs in one run. 0: 8 on CUDA; 1 on CPU, where batches do not pay.",
    )
    max_batch_pixels: int = Field(8_000_000, ge=1024, description="Most pixels (of one side of the pairs) in one run.")
    max_wait_ms: float = Field(
        0.0, ge=0, le=1000, description="How long a run may wait for more pairs of its size, in milliseconds."
    )
    rest_after_s: float = Field(
        60.0,
        ge=1,
        le=86_400,
        description="Seconds without work after which a model gives back the memory that its runs keep for the next.",
    )
    cache_bytes: int = Field(
        64 * 2**20, ge=0, description="Memory for cached encoder outputs of one model, in bytes. 0: no cache."
    )
    deadline_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Most seconds from upload to answer, unless the caller sends `X-Request-Timeout`.",
    )
    max_deadline_s: float = Field(
        300.0,
        gt=0,
        le=3600,
        description="Most seconds that `X-Request-Timeout` can ask for, if more than `PAIRFUSE_DEADLINE_S`.",
    )
    upload_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="Most seconds for the body of a request to arrive."
    )
    send_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="Most seconds for a caller to take the next 64 KiB of its answer."
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Least seconds between SIGTERM and exit, for a load balancer to notice.",
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, le=3600, description="Most seconds that SIGTERM waits for running requests."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line shown.")
    log_format: Literal["json", "text"] = Field(
        "json", description="`json`: one object a line, for machines; `text`: one short line, for people."
    )

    @field_validator("precision")
    @classmethod
    def _fits_the_backend(cls, precision: str, info: ValidationInfo) -> str:
        if precision == "bfloat16" and info.data.get("backend") == "onnx":
            raise ValueError("needs PAIRFUSE_BACKEND=torch, as the ONNX graphs compute in float32")
        return precision

    @property
    def request_defaults(self) -> dict[str, str]:
        """Values of the request fields that are settings, as a request would give them."""
        return {"max_side": str(self.max_side), "quality": str(self.quality), "effort": self.effort}

    @property
    def run_threads(self) -> int:
        """CPU threads of a run alone, and of runs side by side together; at least 1."""
        return self.threads or max(1, usable_cores() // self.workers)

    @property
    def side_by_side(self) -> int:
        """Most runs of one model side by side on a CPU, at least 1 and at most one for each thread."""
        if self.max_runs:
            return min(self.max_runs, self.run_threads)
        # All have as many threads, and hardly one is left over: of twelve, six times two and not eight times one.
        return self.run_threads // -(-self.run_threads // MOST_RUNS)

    @property
    def longest_deadline_s(self) -> float:
        """Most seconds that any request may take after its upload."""
        return max(self.deadline_s, self.max_deadline_s)

    @property
    def codec_pool_size(self) -> int:
        """Threads that decode and encode; at least 2, so that a pair is always decoded side by side."""
        return self.codec_threads or max(2, usable_cores() // self.workers)


def settings_table() -> str:
    """Returns the Markdown table of all settings, one row a field."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "`weights/` of the clone" if name == "weights" else f"`{field.default}`"
        if field.default is None:
            default = "unset"
        rows.append(f"| `PAIRFUSE_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)
