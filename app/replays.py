"""Runs by recording: a stage that has met a shape before is recorded for it, and from then on replayed.

On a GPU that is what CUDA graphs are for: a network of hundreds of small layers spends more time being told what to do
than doing it, and a recording is told at once. It holds memory for one shape, so the pixels of all that are kept are
bounded, and large images, for which the telling costs nothing beside the work, are never recorded.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

# Tensors of torch, by name, and a part of a network that makes one of them.
Tensors = Mapping[str, Any]
Stage = Callable[[Tensors], Any]
Record = Callable[[Stage, Tensors], Stage]
Key = tuple[object, ...]

MOST_SHAPES = 64
MOST_PIXELS = 2**19
MOST_PIXELS_IN_ALL = 2**22

_recording = threading.Lock()


@dataclass
class _Shape:
    """What is known of one shape: its recording once it has come twice."""

    pixels: int
    recording: Stage | None = None


class Replays:
    """Recordings of one model's stages. What a call returns holds until the next call.

    A shape is recorded when it comes for the second time: many come only once, and recording costs a few runs.

    Args:
        record: Records a stage with tensors of the shapes that it will get.
        most_pixels: Larger batches, by the pixels of one side of the pairs, run as they are.
        most_in_all: Most pixels of all recordings. The least recently used shape is forgotten first.
        most_shapes: Most shapes known, recorded or not.
    """

    def __init__(
        self,
        record: Record,
        *,
        most_pixels: int = MOST_PIXELS,
        most_in_all: int = MOST_PIXELS_IN_ALL,
        most_shapes: int = MOST_SHAPES,
    ) -> None:
        self._record: Record | None = record
        self._most_pixels = most_pixels
        self._most_in_all = most_in_all
        self._most_shapes = most_shapes
        self._known: OrderedDict[Key, _Shape] = OrderedDict()

    def run(self, name: str, stage: Stage, inputs: Tensors) -> Any:
        """Runs a stage.

        Args:
            name: Tells the stages of the model apart.
            stage: The stage.
            inputs: Its tensors, the images (N, 1, H, W) among them.

        Returns:
            What the stage returns.
        """
        pixels = max(value.shape.numel() for value in inputs.values() if value.ndim == 4 and value.shape[1] == 1)
        if self._record is None or pixels > self._most_pixels:
            return stage(inputs)
        key = (name, *((each, *value.shape) for each, value in inputs.items()))
        shape = self._known.get(key)
        if shape is None:
            shape = _Shape(pixels)
        elif shape.recording is None:
            self._make_room(pixels)
            shape.recording = self._recorded(self._record, name, stage, inputs)
        self._known[key] = shape
        self._known.move_to_end(key)
        if len(self._known) > self._most_shapes:
            self._known.popitem(last=False)
        return (shape.recording or stage)(inputs)

    def _make_room(self, pixels: int) -> None:
        """Forgets shapes until a recording of so many pixels more is within the bound."""
        held = sum(shape.pixels for shape in self._known.values() if shape.recording)
        while held + pixels > self._most_in_all and held:
            _, oldest = self._known.popitem(last=False)
            held -= oldest.pixels if oldest.recording else 0

    def clear(self) -> None:
        """Forgets all shapes and gives their memory back."""
        self._known.clear()

    def _recorded(self, record: Record, name: str, stage: Stage, inputs: Tensors) -> Stage | None:
        try:
            with _recording:  # Two at once, of two models, would disturb each other.
                return record(stage, inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            log.warning("stage cannot be recorded; it runs as it is", extra={"stage": name, "error": str(error)[:300]})
            self._record = None
            return None


def cuda_recorder(torch: Any) -> Record:
    """Returns what records stages as CUDA graphs."""

    def record(stage: Stage, inputs: Tensors) -> Stage:
        held = {name: value.clone() for name, value in inputs.items()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            stage(held)  # Libraries choose their algorithms and workspaces now, which no recording may.
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other models may allocate meanwhile, from threads of their own.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = stage(held)

        def replay(fresh: Tensors) -> Any:
            for name, value in fresh.items():
                held[name].copy_(value)
            graph.replay()
            return result

        return replay

    return record
