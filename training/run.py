"""What every training run has: a folder, a progress bar, TensorBoard, ``metrics.jsonl`` and checkpoints."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.data.images import DataError

CHECKPOINT = "last.pt"
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
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that an interruption leaves the old one whole."""
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package; only tensors and plain values are unpickled.

    Raises:
        FileNotFoundError: There is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}: train first, or give the run folder that holds {CHECKPOINT}")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def check_same_recipe(state: Mapping[str, Any], recipe: BaseModel, folder: Path) -> None:
    """Refuse to go on with a run under another recipe: its record would describe neither.

    Raises:
        DataError: The message names the sections that differ.
    """
    before, now = json.loads(state["recipe"]), json.loads(recipe.model_dump_json())
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise DataError(
            f"the run in {folder} was begun with another recipe ({', '.join(changed)} differ): "
            "give another --out, or the recipe that it was begun with"
        )


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

    Use as a context manager; ``record`` once a step. Seconds of earlier, interrupted parts are carried on.

    Args:
        folder: Where checkpoints and logs go.
        recipe: Kept beside them as ``recipe.json``.
        steps: Total steps, for the progress bar.
        start: First step when resuming.
        seconds: Seconds already spent when resuming.
    """

    def __init__(self, folder: Path, recipe: BaseModel, *, steps: int, start: int = 0, seconds: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n")
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)
        self._lines = (folder / "metrics.jsonl").open("a", buffering=1)
        self._bar = tqdm(total=steps, initial=start, dynamic_ncols=True, mininterval=2.0)
        self._smooth: dict[str, float] = {}
        self._before = seconds
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall seconds spent in this run, earlier parts included."""
        return self._before + time.monotonic() - self._began

    def record(self, step: int, values: Mapping[str, Tensor | float], *, every: int = 20) -> None:
        """Count one step; write averaged values every so many steps."""
        for name, value in values.items():
            number = float(value)
            self._smooth[name] = 0.95 * self._smooth.get(name, number) + 0.05 * number
        self._bar.update()
        if step % every == 0:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in self._smooth.items()}, refresh=False)
            self.write(step, self._smooth)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write values to TensorBoard and ``metrics.jsonl``."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        line = {"step": step, "time": datetime.now(UTC).isoformat(timespec="seconds"), **values}
        self._lines.write(json.dumps(line) + "\n")

    def image(self, name: str, rows: Tensor, step: int) -> None:
        """Write a grey picture, (H, W) in [0, 1], to TensorBoard."""
        self.writer.add_image(name, rows.clamp(0, 1).unsqueeze(0), step)

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Close the logs."""
        self._bar.close()
        self._lines.close()
        self.writer.close()
