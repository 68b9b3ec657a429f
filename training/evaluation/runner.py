"""Run a bundle (a folder with card.json and its ONNX graphs) on pairs, on the CPU."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.images import DataError
from training.evaluation.methods import Unit

CARD = "card.json"
Tensor = NDArray[np.float32]


class Bundle:
    """A bundle whose files agree with its card. Calling it fuses a pair at the default edit strength.

    Args:
        folder: Holds card.json and the files that it lists.
        threads: Threads of each session; 0 leaves the choice to onnxruntime.

    Attributes:
        name: The card's name.
        slots: Edit slots in the order of the graph's ``edit`` input, as the card describes them.

    Raises:
        DataError: The card is missing or incomplete, a file differs from its checksum, or a graph is broken.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self.folder = folder
        card = read_card(folder)
        try:
            self.name = str(card["name"])
            self.slots: list[dict[str, Any]] = list(card.get("edit_slots", []))
            contents = {name: _read_checked(folder / name, record) for name, record in card["files"].items()}
            self._inputs = [str(spec["name"]) for spec in card["fusion"]["inputs"]]
            self._min_side = int(card["size"].get("min_side", 1))
            encoder = card.get("encoder")
            self._fusion = _open(contents[card["fusion"]["file"]], self.name, threads)
            self._encoder = _open(contents[encoder["file"]], self.name, threads) if encoder else None
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder / CARD} is no complete card: {error!r}") from error

    @property
    def default_edit(self) -> tuple[float, ...]:
        """Default strength of each slot."""
        return tuple(float(slot["default"]) for slot in self.slots)

    def __call__(self, a: Unit, b: Unit) -> Tensor:
        """Fuse two images (H, W) in [0, 1] at the default strength: -> (H, W)."""
        return self.fuse(a, b, self.default_edit)

    @property
    def has_codes(self) -> bool:
        """Whether an encoder makes codes of the images."""
        return self._encoder is not None

    @property
    def codes_have_size(self) -> bool:
        """Whether a code grows with its image, so that it fits images of one size only."""
        return self._encoder is not None and any(isinstance(n, str) for n in self._encoder.get_outputs()[0].shape[1:])

    def encode(self, image: Unit) -> Tensor:
        """The code of one image (H, W) in [0, 1], with the batch axis: (1, …) as the card says.

        Raises:
            DataError: The bundle has no encoder, or onnxruntime fails.
        """
        if self._encoder is None:
            raise DataError(f"{self.name} has no encoder")
        return self._run(self._encoder, {"image": _batch(image)})

    def fuse(self, a: Unit, b: Unit, edit: Sequence[float], codes: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Fuse two images at a strength.

        Args:
            a: First image, (H, W) in [0, 1].
            b: Second image.
            edit: One number per slot.
            codes: What ``encode`` returns for a and b, or anything of that shape in its place; None encodes them.

        Returns:
            (H, W), around [0, 1], not clipped.

        Raises:
            DataError: The pair is smaller than the card allows, ``edit`` has another length than the slots,
                the graph needs an input that is unknown here, or onnxruntime fails.
        """
        if min(a.shape) < self._min_side:
            raise DataError(f"{self.name} needs sides of at least {self._min_side} pixels, not {a.shape}")
        if len(edit) != len(self.slots):
            raise DataError(f"{self.name} has {len(self.slots)} edit slots, but {len(edit)} strengths are given")
        feeds = {"a": _batch(a), "b": _batch(b), "edit": np.asarray([edit], np.float32)}
        if self.has_codes:
            feeds["code_a"], feeds["code_b"] = codes or (self.encode(a), self.encode(b))
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise DataError(f"{self.name} needs the inputs {', '.join(missing)}, which nothing here provides")
        fused: Tensor = self._run(self._fusion, {name: feeds[name] for name in self._inputs})[0, 0]
        return fused

    def _run(self, session: Any, feeds: Mapping[str, Tensor]) -> Tensor:
        try:
            output: Tensor = session.run(None, dict(feeds))[0]
        except Exception as error:  # onnxruntime's errors share no public base class
            raise DataError(f"{self.name}: onnxruntime failed: {error}") from error
        return output


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a bundle as plain JSON.

    Raises:
        DataError: It is missing or no JSON object.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(card, dict):
        raise DataError(f"{path} must hold a JSON object")
    return card


def write_evaluation(folder: Path, entry: Mapping[str, Any]) -> None:
    """Put one evaluation into a bundle's card; the entry of the same data set and size is brought up to date.

    Keys of that entry which the new one lacks (a strength study) stay: export empties the list with new weights.

    Args:
        folder: The bundle.
        entry: Has the keys dataset, pairs, size, ranked_by, mean_rank and metrics.

    Raises:
        DataError: The card cannot be read.
    """
    card = read_card(folder)
    entries = card.setdefault("evaluation", [])
    same = [i for i, old in enumerate(entries) if all(old.get(k) == entry[k] for k in ("dataset", "size"))]
    if same:
        entries[same[0]] = {**entries[same[0]], **entry}
    else:
        entries.append(dict(entry))
    path = folder / CARD
    ascii_only = path.read_text(encoding="utf-8").isascii()
    fresh = path.with_suffix(".json.tmp")
    fresh.write_text(json.dumps(card, indent=2, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    fresh.replace(path)


def _batch(image: Unit) -> Tensor:
    return np.ascontiguousarray(image[None, None], np.float32)


def _read_checked(path: Path, record: Mapping[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != record["sha256"]:
        raise DataError(f"{path} has sha256 {digest[:12]}…, but the card says {record['sha256'][:12]}…")
    return content


def _open(content: bytes, name: str, threads: int) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise DataError("running a bundle needs onnxruntime: pip install 'pairfuse[cpu]'") from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        raise DataError(f"{name}: onnxruntime cannot open a graph: {error}") from error
