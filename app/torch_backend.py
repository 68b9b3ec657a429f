"""Runs a bundle with PyTorch, from its safetensors: by default bfloat16 and CUDA graphs on a GPU, float32 on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from app.backend import Tensor
from app.bundles import Bundle, read_bundle
from app.errors import AbandonedError, BundleError, StartupError
from app.out_of_memory import is_out_of_memory
from app.replays import Replays, Stage, cuda_recorder
from app.runs import Run
from app.settings import Settings
from app.torch_network import import_torch, load_network
from app.two_passes import fuse_in_two_passes

# As in the onnx backend: memory that a run has used is kept for the next one, but not that of a large run.
RETAINED_PIXELS = 2**23


class TorchBackend:
    """The network of one bundle.

    Runs are one after another, on a CPU too: all of torch shares one number of threads, so that a run cannot be given
    a part of them.

    Args:
        bundle: A checked bundle.
        settings: Gives the device, the precision and the number of threads.

    Raises:
        BundleError: The bundle has no weights for torch, or they do not belong together.
        StartupError: Torch is missing, or CUDA was asked for and is not there.
    """

    kind = "torch"
    # Torch has no such thing: what it cannot do on CUDA is an error.
    fell_back = False
    runs = 1

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self._torch = import_torch()
        self._bundle = bundle
        self._settings = settings
        self._tiling = bundle.card.tiling
        self._alone = threading.Lock()
        self._of_thread = threading.local()
        self.device = choose_device(self._torch, settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        self._replays = Replays(cuda_recorder(self._torch)) if self.device == "cuda" else None
        self._open(bundle)
        self.has_tiles = self._tiling is not None and self._network.sums is not None

    def _open(self, bundle: Bundle) -> None:
        torch = self._torch
        if self.device == "cpu":
            torch.set_num_threads(self._settings.run_threads)
        elif self.precision == "float32":
            # Else convolutions round their inputs to ten bits.
            torch.backends.cudnn.allow_tf32 = False
        self._network: Any = load_network(bundle, self._place)
        if self.device == "cpu":
            # On CUDA the layers are queued long before they run.
            for layer in self._network.layers():
                layer.register_forward_pre_hook(self._stop_if_ended)

    def _place(self, what: Any) -> Any:
        """Moves a module or a tensor to the device."""
        if isinstance(what, self._torch.Tensor):
            return what.to(self.device)
        # With the channels of a pixel side by side convolutions are faster, on a CPU too.
        return what.to(self.device, memory_format=self._torch.channels_last)

    def reopen(self) -> None:
        """Loads the network again; see ``Backend.reopen``."""
        self._network = None  # First, so that its memory is there for the new one.
        self._give_memory_back()
        bundle = read_bundle(self._bundle.fusion.parent)
        if bundle.card.files != self._bundle.card.files:
            raise BundleError(bundle.card.name, "it has changed since the start; restart the service to take it")
        device = choose_device(self._torch, self._settings.device)
        if device != self.device:
            raise StartupError(
                f"{bundle.card.name} ran on {self.device}, and now torch offers only {device}. Check the driver "
                "with nvidia-smi, and restart the service."
            )
        self._open(bundle)

    def encode(self, images: Tensor, run: Run) -> Tensor:
        """Encodes luminance images (N, 1, H, W) in [0, 1] to codes (N, ...)."""
        return self._run("encode", {"image": images}, run)

    def fuse(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses a batch; see ``Backend.fuse``."""
        height, width = inputs["a"].shape[2:]
        if self._tiling and self.has_tiles and height * width > self._tiling.above_pixels:
            return self.fuse_in_tiles(inputs, run)
        return self.fuse_whole(inputs, run)

    def fuse_whole(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses a batch of images of any size at once; memory grows with their pixels."""
        return self._run("fuse", inputs, run)

    def fuse_in_tiles(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses a batch of images of any size in tiles, pair by pair; see ``OnnxBackend.fuse_in_tiles``.

        Raises:
            AbandonedError: The run was ended before its end.
            ValueError: This model has no tiles.
        """
        if self._tiling is None or not self.has_tiles:
            raise ValueError("this model has no tiles")
        sums, given = (partial(self._run, name, run=run) for name in ("sums", "given"))
        fuse = partial(fuse_in_two_passes, tiling=self._tiling, sums=sums, given=given, next_tile=run.between_tiles)
        a, b = inputs["a"], inputs["b"]
        return np.concatenate([fuse(a[n : n + 1], b[n : n + 1]) for n in range(len(a))])

    def _run(self, name: str, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Runs one stage.

        Raises:
            AbandonedError: The run was ended before its end.
            MemoryError: The memory of the GPU does not suffice.
        """
        stage: Stage = getattr(self._network, name)
        with run.stopped_by(_nothing), self._watched(run):
            if self._replays is None:
                return self._compute(stage, inputs)
            with self._alone:  # Recordings work in memory of their own, which two runs must not share.
                return self._within_memory(partial(self._replays.run, name, stage), inputs, run)

    def _within_memory(self, stage: Stage, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        try:
            result = self._compute(stage, inputs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            shortage = str(error)
        else:
            if run.last:
                self._give_memory_back()
            elif max(value.size for value in inputs.values()) > RETAINED_PIXELS:
                self._torch.cuda.empty_cache()
            return result
        # Not in the handler: until it ends, the error keeps the tensors of the failed run alive.
        self._give_memory_back()
        raise MemoryError(shortage)

    def _compute(self, stage: Stage, inputs: Mapping[str, Tensor]) -> Tensor:
        torch = self._torch
        # Its cache would hold rounded weights that a recording goes on reading after they are gone.
        half = torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16", cache_enabled=False)
        with torch.inference_mode(), half:
            # A copy: arrays of the service may be read-only, which torch does not know.
            result = stage({name: torch.tensor(value, device=self.device) for name, value in inputs.items()})
            array: Tensor = result.float().cpu().numpy()
            return array

    def _give_memory_back(self) -> None:
        if self._replays is not None:
            self._replays.clear()
            self._torch.cuda.empty_cache()

    @contextmanager
    def _watched(self, run: Run) -> Iterator[None]:
        """Lets the layers that this thread runs see whether the run has been ended."""
        self._of_thread.run = run
        try:
            yield
        finally:
            self._of_thread.run = None

    def _stop_if_ended(self, *_: Any) -> None:
        """Called before each layer: torch cannot be interrupted from outside."""
        run: Run | None = getattr(self._of_thread, "run", None)
        if run is not None and run.ended:
            raise AbandonedError


def choose_device(torch: Any, asked: str) -> str:
    """Returns ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        StartupError: ``cuda`` was asked for and is not there.
    """
    offered = torch.cuda.is_available()
    if asked == "cuda" and not offered:
        raise StartupError(
            "PAIRFUSE_DEVICE=cuda, but the installed torch offers no CUDA. Check the driver with nvidia-smi, and "
            "install the torch that belongs to it: https://pytorch.org/get-started/locally"
        )
    return "cuda" if offered and asked != "cpu" else "cpu"


def choose_precision(asked: str, device: str) -> str:
    """Returns ``float32`` or ``bfloat16`` for ``auto`` or one of them."""
    if asked == "auto":
        return "bfloat16" if device == "cuda" else "float32"
    return asked


def _nothing() -> None:
    """Torch cannot be stopped from another thread; the layers look themselves."""
