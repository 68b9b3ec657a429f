"""The model with onnxruntime, the files with Pillow; what both rivals share."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

Pair = tuple[Image.Image, Image.Image]
Plane = NDArray[np.float32]


def read_pair(file_a: bytes, file_b: bytes) -> Pair:
    """Returns image_a in YCbCr and image_b in grey."""
    return Image.open(io.BytesIO(file_a)).convert("YCbCr"), Image.open(io.BytesIO(file_b)).convert("L")


def write_png(fused: Plane, pair: Pair) -> bytes:
    """Puts the colour of image_a on fused luminance (H, W) in [0, 1]."""
    luma = Image.fromarray((fused * 255 + 0.5).clip(0, 255).astype(np.uint8))
    _, cb, cr = pair[0].split()
    buffer = io.BytesIO()
    # Pillow's default effort would take as long as half the model.
    Image.merge("YCbCr", (luma, cb, cr)).convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Model:
    """The graphs of a bundle.

    Args:
        bundle: Its folder.
        threads: CPU threads of one run.
    """

    def __init__(self, bundle: Path, threads: int) -> None:
        card = json.loads((bundle / "card.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._fusion = self._open(bundle, card["fusion"], options)
        self._encoder = self._open(bundle, card["encoder"], options) if card["encoder"] else None
        self._edit = np.array([[slot["default"] for slot in card["edit_slots"]]], np.float32)

    @staticmethod
    def _open(bundle: Path, graph: dict[str, Any], options: Any) -> Any:
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(str(bundle / graph["file"]), options, providers=providers)

    def fuse(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Fuses pairs of one size; returns luminances (N, H, W) in [0, 1]."""
        a, b = (_stack([pair[side] for pair in pairs]) for side in (0, 1))
        inputs = {"a": a, "b": b}
        if self._encoder is not None:
            codes = self._encoder.run(None, {self._encoder.get_inputs()[0].name: np.concatenate([a, b])})[0]
            inputs |= {"code_a": codes[: len(a)], "code_b": codes[len(a) :]}
        if self._edit.size:
            inputs["edit"] = np.repeat(self._edit, len(a), axis=0)
        fused: NDArray[np.float32] = self._fusion.run(None, inputs)[0][:, 0]
        return fused


def _stack(images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Returns the luminances (N, 1, H, W) in [0, 1]."""
    return np.stack([np.asarray(image.getchannel(0), np.float32) for image in images])[:, None] / np.float32(255)
