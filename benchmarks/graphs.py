"""The graphs of one bundle with inputs as the service would feed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundles import Bundle
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings
from benchmarks.macs import count_macs
from benchmarks.pictures import Scene
from benchmarks.sessions import open_session

Feed = dict[str, NDArray[Any]]
CARD_SIZE = (480, 640)  # The size whose operations a card states.


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of one model.

    Attributes:
        fuse: Of one pair.
        encode: Of one image; None without an encoder.
    """

    fuse: int
    encode: int | None


class Graphs:
    """Both graphs of a bundle as the service opens them, and the fusion graph with onnxruntime's defaults.

    Args:
        bundle: A checked bundle.
        threads: Threads of one run.
        size: Height and width of the pair.
    """

    def __init__(self, bundle: Bundle, threads: int, size: tuple[int, int]) -> None:
        self._bundle = bundle
        self._served = OnnxBackend(bundle, Settings(threads=threads, device="cpu"))
        self._defaults = open_session(bundle.fusion, threads, spinning=True)
        self._inputs = self._make_inputs(size)

    def fuse(self) -> None:
        """Runs the fusion graph with the service's options."""
        self._served.fuse(self._inputs, Run())

    def encode(self) -> None:
        """Runs the encoder on one image, with the service's options."""
        self._served.encode(self._inputs["a"], Run())

    def fuse_with_defaults(self) -> None:
        """Runs the fusion graph with onnxruntime's defaults."""
        self._defaults.run(None, self._inputs)

    def operations(self, size: tuple[int, int]) -> Operations:
        """Counts the multiply-adds at a size."""
        inputs = self._make_inputs(size)
        encoder, encode = self._bundle.encoder, None
        if encoder is not None:
            assert self._bundle.card.encoder is not None
            encode = count_macs(encoder, {self._bundle.card.encoder.inputs[0].name: inputs["a"]})
        return Operations(count_macs(self._bundle.fusion, inputs), encode)

    def _make_inputs(self, size: tuple[int, int]) -> Feed:
        first, second = Scene(*size).planes()
        inputs: Feed = {"a": first, "b": second}
        if self._bundle.encoder is not None:
            inputs |= {"code_a": self._served.encode(first, Run()), "code_b": self._served.encode(second, Run())}
        if self._bundle.card.edit_slots:
            inputs["edit"] = np.array([[slot.default for slot in self._bundle.card.edit_slots]], np.float32)
        return inputs
