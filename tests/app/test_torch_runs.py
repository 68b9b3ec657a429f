"""Runs with the torch backend: on which device and how exactly, how they end early, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from app.bundles import read_bundle
from app.engine import Engine
from app.errors import AbandonedError, BundleError, StartupError
from app.replays import Replays
from app.runs import Run
from app.settings import Settings
from app.torch_backend import choose_device, choose_precision
from tests.app.torch_bundle import draw, opened, write_torch_bundle


@pytest.fixture
def folder(tmp_path):
    """A small TITA bundle that tests may spoil; its ONNX graph averages the pair, its network does not."""
    return write_torch_bundle(tmp_path / "weights", "small")


class NoCuda:
    class cuda:  # noqa: N801
        is_available = staticmethod(lambda: False)


class WithCuda:
    class cuda:  # noqa: N801
        is_available = staticmethod(lambda: True)


def test_the_device_is_as_asked_or_the_best():
    assert [choose_device(WithCuda, asked) for asked in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    assert [choose_device(NoCuda, asked) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(StartupError, match="offers no CUDA"):
        choose_device(NoCuda, "cuda")


def test_the_precision_is_as_asked_or_fits_the_device():
    assert [choose_precision("auto", device) for device in ("cuda", "cpu")] == ["bfloat16", "float32"]
    assert choose_precision("float32", "cuda") == "float32"
    assert choose_precision("bfloat16", "cpu") == "bfloat16"
    with pytest.raises(ValueError, match=r"precision\n.*needs PAIRFUSE_BACKEND=torch"):
        Settings(precision="bfloat16")


def test_read_only_arrays_are_taken_without_a_warning(folder, recwarn):
    a, b = draw(1, 64, 64)
    a.flags.writeable = b.flags.writeable = False
    opened(folder).fuse({"a": a, "b": b}, Run())
    assert [str(warning.message) for warning in recwarn] == []


def test_an_ended_run_begins_no_stage(folder):
    run = Run()
    run.end()
    backend = opened(folder)
    images = dict(zip("ab", draw(1, 64, 64), strict=True))
    for call in (lambda: backend.fuse(images, run), lambda: backend.encode(images["a"], run)):
        with pytest.raises(AbandonedError):
            call()


def test_a_run_that_ends_on_its_way_begins_no_further_layer(folder):
    backend, run, begun = opened(folder), Run(), []

    def note(*_):
        begun.append(1)
        if len(begun) == 5:
            run.end()

    a, b = draw(1, 64, 64)
    hook = register_module_forward_pre_hook(note)  # Called before what the backend itself has every layer do.
    try:
        with pytest.raises(AbandonedError):
            backend.fuse({"a": a, "b": b}, run)
    finally:
        hook.remove()
    assert len(begun) == 5
    assert np.isfinite(backend.fuse({"a": a, "b": b}, Run())).all()


def test_between_tiles_a_run_lets_others_go_first_and_may_end(tmp_path):
    backend = opened(write_torch_bundle(tmp_path, "tiled", tile=64))
    pauses = []

    def pause():
        pauses.append(1)
        if len(pauses) == 3:
            run.end()

    run = Run(pause=pause)
    with pytest.raises(AbandonedError):
        backend.fuse(dict(zip("ab", draw(1, 120, 150), strict=True)), run)
    assert len(pauses) == 3


def test_it_opens_again_and_refuses_a_changed_bundle(folder):
    backend = opened(folder)
    a, b = draw(1, 48, 64)
    before = backend.fuse({"a": a, "b": b}, Run())
    backend.reopen()
    np.testing.assert_array_equal(backend.fuse({"a": a, "b": b}, Run()), before)
    write_torch_bundle(folder.parent, folder.name, seed=1)
    with pytest.raises(BundleError, match="has changed since the start"):
        backend.reopen()


class NoMemory:
    """Makes the CPU look like a GPU to a backend: recordings answer, memory may not suffice for two pairs."""

    def __init__(self, backend):
        self.given_back = 0
        self.full = False
        backend._replays = Replays(self.record)
        backend._torch = self

    def __getattr__(self, name):
        return self if name == "cuda" else getattr(torch, name)

    def empty_cache(self):
        self.given_back += 1

    def record(self, stage, inputs):
        def replay(fresh):
            if self.full and len(fresh["a"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return stage(fresh)

        return replay


def test_memory_is_given_back_before_the_engine_tries_less(folder):
    backend = opened(folder)
    device = NoMemory(backend)
    engine = Engine(read_bundle(folder).card, backend, 0, lambda _: None)
    jobs = [engine.job(a[0, 0], b[0, 0], ()) for a, b in (draw(1, 64, 64, seed) for seed in range(2))]
    expected = [each.luma for each in engine.run(jobs)]
    engine.run(jobs)  # Recorded.
    device.full = True
    fused = [each.luma for each in engine.run(jobs)]
    assert device.given_back == 1
    np.testing.assert_allclose(fused, expected, atol=1e-5)


def test_the_number_of_threads_counts_for_the_process(folder):
    before = torch.get_num_threads()
    try:
        opened(folder, threads=1)
        assert torch.get_num_threads() == 1
        opened(folder, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
