"""A device without memory: fewer pairs at a time, then tiles, then a refusal that says what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.bundles import read_bundle
from app.engine import Engine
from app.errors import OutOfMemoryError
from app.onnx_backend import OnnxBackend
from app.out_of_memory import is_out_of_memory
from app.runs import Run
from app.settings import Settings

ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'/base/conv/Conv' Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, "
    "bool) Failed to allocate memory for requested buffer of size 2516582400"
)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ARENA),
        RuntimeError("Available memory of 1024 is smaller than requested bytes of 4096"),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc((void**)&p, size);"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"),
        RuntimeError("CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED ; GPU=0"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"
        ),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
)
def test_errors_that_mean_too_little_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0"),
        RuntimeError("Gather node: indices element out of data bounds, idx=1 must be in [-1,0]"),
        RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"),
        ValueError("memory"),
    ],
)
def test_errors_that_mean_something_else(error):
    assert not is_out_of_memory(error)


class SmallDevice:
    """A backend that runs the real graphs, but has memory for so many pixels only, whole and in tiles."""

    kind, device, fell_back = "onnx", "cpu", False

    def __init__(self, backend, pixels, tiled_pixels=0):
        self._backend = backend
        self.pixels, self.tiled_pixels = pixels, tiled_pixels
        self.has_tiles = tiled_pixels > 0
        self.runs = []

    def encode(self, images, run):
        self._allocate("encode", images, self.pixels)
        return self._backend.encode(images, run)

    def fuse(self, inputs, run):
        self._allocate("fuse", inputs["a"], self.pixels)
        return self._backend.fuse(inputs, run)

    def fuse_in_tiles(self, inputs, run):
        run.between_tiles()
        self._allocate("tiles", inputs["a"], self.tiled_pixels)
        return self._backend.fuse_whole(inputs, run)

    def _allocate(self, kind, images, pixels):
        self.runs.append((kind, len(images)))
        if images.size > pixels:
            raise RuntimeError(ARENA)


@pytest.fixture
def make_engine(weights):
    def make(name, pixels, tiled_pixels=0):
        bundle = read_bundle(weights / name)
        backend = SmallDevice(OnnxBackend(bundle, Settings(device="cpu", threads=1)), pixels, tiled_pixels)
        actions = []
        return Engine(bundle.card, backend, 0, lambda _: None, actions.append), backend, actions

    return make


def jobs_of(engine, count, size=(40, 50)):
    planes = np.random.default_rng(0).random((2 * count, *size), np.float32)
    edit = tuple(slot.default for slot in engine.card.edit_slots)
    return [engine.job(planes[2 * n], planes[2 * n + 1], edit) for n in range(count)]


def assert_means(jobs, results):
    for job, result in zip(jobs, results, strict=True):
        np.testing.assert_allclose(result.luma, (job.a + job.b) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("fits", "runs", "halvings"),
    [(5, [5], 0), (3, [5, 3, 2], 1), (2, [5, 3, 2, 1, 2], 2), (1, [5, 3, 2, 1, 1, 1, 2, 1, 1], 4)],
)
def test_a_batch_is_halved_until_it_fits(make_engine, fits, runs, halvings):
    engine, backend, actions = make_engine("plain", fits * 2000)
    jobs = jobs_of(engine, 5)
    results = engine.run(jobs)
    assert_means(jobs, results)
    assert backend.runs == [("fuse", count) for count in runs]
    assert actions == ["halved"] * halvings
    # Each of the callers is told the times of the whole run.
    assert len({(result.encode_s, result.fuse_s) for result in results}) == 1


def test_the_encoder_may_run_out_as_well(make_engine):
    engine, backend, actions = make_engine("coded", 2 * 2000)
    jobs = jobs_of(engine, 2)
    assert_means(jobs, engine.run(jobs))
    assert backend.runs == [("encode", 4), ("encode", 2), ("fuse", 1), ("encode", 2), ("fuse", 1)]
    assert actions == ["halved"]


def test_one_pair_that_does_not_fit_goes_in_tiles(make_engine):
    engine, backend, actions = make_engine("plain", 100, 10_000)
    pauses = []
    jobs = jobs_of(engine, 2)
    assert_means(jobs, engine.run(jobs, Run(pause=lambda: pauses.append(1))))
    assert backend.runs == [("fuse", 2), ("fuse", 1), ("tiles", 1), ("fuse", 1), ("tiles", 1)]
    assert actions == ["halved", "tiled", "tiled"]
    assert len(pauses) == 2


@pytest.mark.parametrize(("tiled_pixels", "done"), [(0, ["refused"]), (100, ["tiled", "refused"])])
def test_what_fits_in_no_way_is_refused_with_cause_and_cure(make_engine, tiled_pixels, done):
    engine, _, actions = make_engine("plain", 100, tiled_pixels)
    with pytest.raises(OutOfMemoryError, match=r"no memory for a pair of 50×40 pixels\. Send a smaller pair") as caught:
        engine.run(jobs_of(engine, 1))
    assert caught.value.status == 503
    assert int(caught.value.headers["Retry-After"]) > 0
    assert actions == done


def test_other_errors_are_not_retried(make_engine):
    engine, backend, actions = make_engine("plain", 10**9)
    backend._backend.fuse = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        engine.run(jobs_of(engine, 4))
    assert backend.runs == [("fuse", 4)]
    assert actions == []


def test_at_rest_tiles_run_too_where_a_model_has_them(make_engine):
    engine, backend, actions = make_engine("plain", 10_000, 10_000)
    engine.rest()
    assert backend.runs == [("fuse", 1), ("tiles", 1)]
    assert actions == []


def test_no_memory_to_rest_is_no_failure_and_any_other_error_is_one(make_engine):
    engine, backend, actions = make_engine("plain", 100)
    engine.rest()
    assert backend.runs == [("fuse", 1)]
    assert actions == []
    backend._allocate = broken
    with pytest.raises(RuntimeError, match="illegal"):
        engine.rest()


def broken(*_):
    raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
