"""What every training run has: a folder, a progress bar, TensorBoard, ``metrics.jsonl`` and checkpoints."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.data.images import DataError
from training.stopped import Stopped

CHECKPOINT = "last.pt"
BEST = "best.pt"
"""Checkpoint of the best validation so far, for recipes that name metrics to choose by."""

NOTES = "notes.txt"
"""File of a run folder with remarks for the card: what the recipe does not tell."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The random state that an exact resume needs."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set the random state that ``rng_state`` returned."""
    # torch reads from the start of the storage, where a row of a larger tensor does not begin: hence the copies
    torch.set_rng_state(state["torch"].clone())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].clone())


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that an interruption, a power cut or a full disk leaves the old one whole.

    Raises:
        DataError: It cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())  # or the new name may reach the disk before the content
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        last = path.with_name(CHECKPOINT)
        kept = f"{last} of before is whole" if last.is_file() else "nothing was saved"
        raise DataError(
            f"cannot write {path} ({_cause(error)}): {kept}; free some space and run the same command"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _cause(error: BaseException) -> str:
    """What the system said; torch hides it behind an error of its own when it closes its archive."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return str(error).splitlines()[0] if cause is None else cause.strerror or str(cause)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package; only tensors and plain values are unpickled.

    Raises:
        FileNotFoundError: There is none.
        DataError: It is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}: train first, or give the run folder that holds {CHECKPOINT}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is cut short, damaged, or no checkpoint of this package") from error
    if not isinstance(state, dict):
        raise DataError(f"{path} is no checkpoint of this package, but holds a {type(state).__name__}")
    return state


def check_same_recipe(state: Mapping[str, Any], recipe: BaseModel, folder: Path) -> None:
    """Refuse to go on with a run under another recipe: its record would describe neither.

    Raises:
        DataError: The message names the sections that differ.
    """
    before, now = _as_today(state["recipe"], type(recipe)), json.loads(recipe.model_dump_json())
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise DataError(
            f"the run in {folder} was begun with another recipe ({', '.join(changed)} differ): "
            "give another --out, or the recipe that it was begun with"
        )


def _as_today(text: str, kind: type[BaseModel]) -> dict[str, Any]:
    """Values of a recipe that may be older than some of today's keys, with the defaults of these."""
    with suppress(ValidationError):  # if a key of then is gone, the comparison will name its section
        text = kind.model_validate_json(text).model_dump_json()
    values: dict[str, Any] = json.loads(text)
    return values


def cosine_lr(step: int, total: int, *, peak: float, warmup: int, min_ratio: float) -> float:
    """Learning rate at a step: linear warm-up, then cosine from ``peak`` to ``peak * min_ratio``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def source_commit() -> str:
    """Short hash of the working tree's commit, ``+`` if it has changes, ``unknown`` outside a checkout."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes.strip() else "")


class Run:
    """One training run's folder and its records.

    Use as a context manager; ``record`` once a step. Seconds of earlier, interrupted parts are carried on. While it
    is open, the first Ctrl-C or SIGTERM only asks for a stop; the second ends the process at once.

    Args:
        folder: Where checkpoints and logs go.
        recipe: Kept beside them as ``recipe.json``.
        steps: Total steps, for the progress bar.
        start: First step when resuming.
        seconds: Seconds already spent when resuming.
        enabled: Off in all but one process of a parallel run: nothing is written.

    Attributes:
        stop_requested: Whether somebody asked for a stop.
    """

    def __init__(
        self,
        folder: Path,
        recipe: BaseModel,
        *,
        steps: int,
        start: int = 0,
        seconds: float = 0.0,
        enabled: bool = True,
    ) -> None:
        self.folder, self.enabled = folder, enabled
        self.stop_requested = False
        self._steps, self._smooth = steps, dict[str, float]()
        self._before, self._began = seconds, time.monotonic()
        self._bar = tqdm(total=steps, initial=start, dynamic_ncols=True, mininterval=2.0, disable=not enabled)
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n")
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)
        self._lines = (folder / "metrics.jsonl").open("a", buffering=1)

    @property
    def seconds(self) -> float:
        """Wall seconds spent in this run, earlier parts included."""
        return self._before + time.monotonic() - self._began

    def record(self, step: int, values: Mapping[str, Tensor | float], *, every: int = 20) -> None:
        """Count one step; write averaged values every so many steps."""
        if not self.enabled:
            return
        for name, value in values.items():
            number = float(value)
            self._smooth[name] = 0.95 * self._smooth.get(name, number) + 0.05 * number
        self._bar.update()
        if step % every == 0:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in self._smooth.items()}, refresh=False)
            self.write(step, self._smooth)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write values to TensorBoard and ``metrics.jsonl``."""
        if not self.enabled:
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        line = {"step": step, "time": datetime.now(UTC).isoformat(timespec="seconds"), **values}
        self._lines.write(json.dumps(line) + "\n")

    def image(self, name: str, rows: Tensor, step: int) -> None:
        """Write a grey picture, (H, W) in [0, 1], to TensorBoard."""
        if self.enabled:
            self.writer.add_image(name, rows.clamp(0, 1).unsqueeze(0), step)

    def say_stopped(self, step: int) -> None:
        """End the process as an interrupted one, with one line that says how to go on.

        Raises:
            Stopped: Always.
        """
        raise Stopped(
            f"stopped after step {step} of {self._steps}, saved in {self.folder}; run the same command to go on"
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True

    def __enter__(self) -> Self:
        """Start."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        else:
            self._handlers = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Close the logs."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._bar.close()
        if self.enabled:
            self._lines.close()
            self.writer.close()
