"""Runs a bundle with onnxruntime, on CUDA where it is offered, else on the CPU."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.backend import Tensor
from app.bundles import CODE_INPUTS, Bundle, read_bundle
from app.card import Graph, TensorSpec
from app.errors import BundleError, StartupError
from app.runs import Run
from app.settings import Settings
from app.two_passes import fuse_in_two_passes

log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
# Exhaustive search tries every convolution algorithm again for each new image size, which stalls the first
# request of each size; growing by powers of two keeps memory of the largest size ever seen twice over.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
# Memory that a run has used is kept for the next one, of whichever model; but not that of a large run, which would stay
# with the process for good. On a CPU the bound lets both images of a usual pair through the encoder at once. A GPU is
# there for batches: the bound counts a whole run.
RETAINED_PIXELS = 2**20
RETAINED_PIXELS_CUDA = 2**23
SHRINK = "memory.enable_memory_arena_shrinkage"


class _Sessions(NamedTuple):
    """One graph, opened for a run that has all the CPU threads and for one of several side by side."""

    wide: Any
    narrow: Any


class OnnxBackend:
    """The graphs of one bundle as onnxruntime sessions.

    On a CPU, several runs side by side with a part of the threads each do more in the same time than one after
    another with all of them: no thread waits for the others at the end of each operation. A run alone is faster with
    all of them. So each graph is opened twice; that costs its weights, not its intermediate results, twice.

    Args:
        bundle: A checked bundle.
        settings: Gives the device and the number of threads.

    Raises:
        BundleError: A graph cannot be opened or differs from its card.
        StartupError: onnxruntime is missing, or CUDA was asked for and is not there.
    """

    kind = "onnx"

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self._bundle = bundle
        self._settings = settings
        self._tiling = bundle.card.tiling
        self.has_tiles = self._tiling is not None
        self.device = self._open(bundle)
        self.runs = settings.side_by_side if self.device == "cpu" else 1

    def _open(self, bundle: Bundle) -> str:
        """Opens all graphs and returns the device on which they run."""
        runtime, settings, card = import_runtime(), self._settings, bundle.card
        providers = choose_providers(runtime, settings.device)
        opened = partial(_open_graph, runtime, card.name, providers=providers)
        wide = partial(opened, threads=settings.run_threads)

        def both(graph: Graph, path: Path) -> _Sessions:
            session = wide(graph, path)
            threads = settings.run_threads // settings.side_by_side
            divided = threads < settings.run_threads and CUDA not in session.get_providers()
            return _Sessions(session, opened(graph, path, threads=threads) if divided else session)

        self._fusion: Any = both(card.fusion, bundle.fusion)
        self._encoder: Any = both(card.encoder, bundle.encoder) if card.encoder and bundle.encoder else None
        if card.tiling and bundle.sums and bundle.given:
            # At once and not for the first large image: a bundle that does not fit its card is refused at start.
            self._sums = wide(card.tiling.sums, bundle.sums)
            self._given = wide(card.tiling.given, bundle.given)
        device = self._settle_device(card.name, settings.device, wanted_cuda=len(providers) > 1)
        self.fell_back = len(providers) > 1 and device == "cpu"
        self._runtime = runtime
        return device

    def reopen(self) -> None:
        """Opens the graphs again; see ``Backend.reopen``."""
        # First, so that the memory of the failing sessions is there for the new ones.
        self._fusion = self._encoder = self._sums = self._given = None
        bundle = read_bundle(self._bundle.fusion.parent)
        if bundle.card.files != self._bundle.card.files:
            raise BundleError(bundle.card.name, "it has changed since the start; restart the service to take it")
        device = self._open(bundle)
        if device != self.device:
            raise StartupError(
                f"{bundle.card.name} ran on {self.device}, and now onnxruntime offers only {device}. Check the driver "
                "with nvidia-smi, and restart the service."
            )

    def encode(self, images: Tensor, run: Run) -> Tensor:
        """Encodes luminance images (N, 1, H, W) in [0, 1] to codes (N, ...)."""
        if self._encoder is None:
            raise ValueError("this model has no encoder")
        return self._run(_choose(self._encoder, run), {self._encoder.wide.get_inputs()[0].name: images}, run)

    def fuse(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses a batch; see ``Backend.fuse``."""
        height, width = inputs["a"].shape[2:]
        if self._tiling and height * width > self._tiling.above_pixels:
            return self.fuse_in_tiles(inputs, run)
        return self.fuse_whole(inputs, run)

    def fuse_whole(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses a batch of images of any size with the fusion graph; memory grows with their pixels."""
        return self._run(_choose(self._fusion, run), inputs, run)

    def fuse_in_tiles(self, inputs: Mapping[str, Tensor], run: Run) -> Tensor:
        """Fuses a batch of images of any size in tiles, pair by pair, so that memory does not grow with their number.

        Args:
            inputs: ``a`` and ``b`` (N, 1, H, W) in [0, 1].
            run: See ``Backend.fuse``.

        Returns:
            Fused luminance (N, 1, H, W) in [0, 1].

        Raises:
            AbandonedError: The run was ended before its end.
            ValueError: This model has no graphs for tiles.
        """
        if self._tiling is None:
            raise ValueError("this model has no graphs for tiles")
        # A tile's memory is given back every time, else that of an abandoned run would be kept.
        sums, given = (partial(self._run, session, run=run, large=True) for session in (self._sums, self._given))
        fuse = partial(fuse_in_two_passes, tiling=self._tiling, sums=sums, given=given, next_tile=run.between_tiles)
        a, b = inputs["a"], inputs["b"]
        return np.concatenate([fuse(a[n : n + 1], b[n : n + 1]) for n in range(len(a))])

    def _run(self, session: Any, inputs: Mapping[str, Tensor], run: Run, *, large: bool = False) -> Tensor:
        # Codes may be maps that hold several values for each pixel.
        pixels = max(value.size for name, value in inputs.items() if name not in CODE_INPUTS)
        options = self._runtime.RunOptions()
        with run.stopped_by(partial(setattr, options, "terminate", True)):
            if self.device == "cpu":
                if large or run.last or pixels > RETAINED_PIXELS:
                    options.add_run_config_entry(SHRINK, "cpu:0")
                result: Tensor = session.run(None, dict(inputs), options)[0]
                return result
            if run.last or pixels > RETAINED_PIXELS_CUDA:
                options.add_run_config_entry(SHRINK, "gpu:0")
            binding = session.io_binding()
            for name, value in inputs.items():
                binding.bind_cpu_input(name, value)
            binding.bind_output(session.get_outputs()[0].name, "cuda")
            session.run_with_iobinding(binding, options)
            copied: Tensor = binding.copy_outputs_to_cpu()[0]
            return copied

    def _settle_device(self, name: str, asked: str, *, wanted_cuda: bool) -> str:
        """Finds out where the sessions really run: onnxruntime falls back to the CPU without an error."""
        tiles = (self._sums, self._given) if self.has_tiles else ()
        sessions = (*self._fusion, *(self._encoder or ()), *tiles)
        if wanted_cuda and all(CUDA in session.get_providers() for session in sessions):
            return "cuda"
        if asked == "cuda":
            raise StartupError(
                f"PAIRFUSE_DEVICE=cuda, but onnxruntime fell back to the CPU for {name!r}. Check the "
                "driver with nvidia-smi and install the libraries with: pip install 'pairfuse[gpu]'"
            )
        if wanted_cuda:
            log.warning("onnxruntime offers CUDA but fell back to the CPU", extra={"model": name})
        return "cpu"


def import_runtime() -> Any:
    """Returns the onnxruntime module.

    Raises:
        StartupError: It is not installed.
    """
    # Its official builds keep a data base in the home directory and report use to their maker over the
    # network; a service for private images does neither. The variable counts only before the first import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise StartupError(
            "onnxruntime is not installed. Run: pip install 'pairfuse[cpu]', "
            "or 'pairfuse[gpu]' where nvidia-smi answers."
        ) from None


def choose_providers(runtime: Any, device: str) -> list[Any]:
    """Returns onnxruntime's provider list for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        StartupError: ``cuda`` was asked for and this onnxruntime has no CUDA.
    """
    offered = CUDA in runtime.get_available_providers()
    if device == "cuda" and not offered:
        raise StartupError(
            "PAIRFUSE_DEVICE=cuda, but the installed onnxruntime has no CUDA. "
            "Run: pip uninstall onnxruntime && pip install 'pairfuse[gpu]'"
        )
    if device == "cpu" or not offered:
        return [CPU]
    runtime.preload_dlls()  # Finds the CUDA and cuDNN libraries that pip installed.
    return [(CUDA, CUDA_OPTIONS), CPU]


def _choose(sessions: _Sessions, run: Run) -> Any:
    return sessions.narrow if run.narrow else sessions.wide


def _open_graph(runtime: Any, name: str, graph: Graph, path: Path, *, providers: list[Any], threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Image sizes vary, and a memory pattern would be kept for every size seen.
    options.enable_mem_pattern = False
    # Spinning threads would take the cores from the threads that decode and encode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = runtime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own exception classes share no public base.
        raise BundleError(name, f"{graph.file} cannot be opened: {str(error)[:300]}") from None
    _compare(name, graph.file, "input", graph.inputs, session.get_inputs())
    _compare(name, graph.file, "output", graph.outputs, session.get_outputs())
    return session


@cache
def _share_arena() -> None:
    """Makes one CPU arena for all sessions of the process: what one keeps, the next one uses."""
    runtime = import_runtime()
    cpu = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    runtime.create_and_register_allocator(cpu, None)


def _compare(name: str, file: str, side: str, specs: list[TensorSpec], found: list[Any]) -> None:
    """Refuses a graph whose tensors differ from the card in name, type, rank or a fixed axis."""
    actual = {tensor.name: tensor for tensor in found}
    if set(actual) != {spec.name for spec in specs}:
        listed = sorted(spec.name for spec in specs)
        raise BundleError(name, f"{file} has {side}s {sorted(actual)}, the card lists {listed}")
    for spec in specs:
        tensor = actual[spec.name]
        if tensor.type != "tensor(float)":
            raise BundleError(name, f"{side} {spec.name!r} of {file} is {tensor.type}, the card says {spec.dtype}")
        if not _shapes_agree(spec.shape, tensor.shape):
            raise BundleError(name, f"{side} {spec.name!r} of {file} is {tensor.shape}, the card says {spec.shape}")


def _shapes_agree(card: list[int | str], graph: list[Any]) -> bool:
    # An axis that is fixed on one side only is a difference; the names of dynamic axes are free.
    if len(card) != len(graph):
        return False
    return all(
        left == right if isinstance(left, int) or isinstance(right, int) else True
        for left, right in zip(card, graph, strict=True)
    )
