"""Runs of one model side by side in onnxruntime, and the memory that they keep."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from app.bundles import read_bundle
from app.engine import Engine
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings

SIDES = [(64, 64), (33, 70), (120, 48), (97, 97)]


def open_engine(folder, **settings):
    bundle = read_bundle(folder)
    return Engine(bundle.card, OnnxBackend(bundle, Settings(device="cpu", **settings)), 10_000, lambda _: None)


def job_of(engine, size, seed=0):
    planes = np.random.default_rng(seed).random((2, *size), np.float32)
    return engine.job(planes[0], planes[1], tuple(slot.default for slot in engine.card.edit_slots))


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({"threads": 1}, 1),
        ({"threads": 4}, 4),
        ({"threads": 8}, 8),
        ({"threads": 9}, 4),
        ({"threads": 12}, 6),
        ({"threads": 15}, 7),
        ({"threads": 64}, 8),
        ({"threads": 12, "max_runs": 8}, 8),
        ({"threads": 4, "max_runs": 2}, 2),
        ({"threads": 2, "max_runs": 64}, 2),
        ({"threads": 4, "max_runs": 1}, 1),
    ],
)
def test_there_is_a_run_for_each_thread_up_to_a_bound(weights, settings, runs):
    assert Settings(**settings).side_by_side == runs
    assert open_engine(weights / "plain", **settings).backend.runs == runs


def test_narrow_and_wide_runs_give_the_same_picture(real_weights):
    engine = open_engine(real_weights / "titok-ste-lite", threads=2)
    job = job_of(engine, (97, 130))
    wide, narrow = (engine.run([job], Run(narrow=narrow))[0].luma for narrow in (False, True))
    np.testing.assert_allclose(narrow, wide, atol=1e-6)


def test_each_of_many_runs_at_once_gets_its_own_picture(real_weights):
    engine = open_engine(real_weights / "titok-ste-lite", threads=2)
    jobs = [job_of(engine, SIDES[number % 4], seed=number // 2) for number in range(16)]
    expected = [engine.run([job])[0].luma for job in jobs]
    fresh = open_engine(real_weights / "titok-ste-lite", threads=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: fresh.run([each[1]], Run(narrow=each[0] % 2 == 0))[0].luma, enumerate(jobs)))
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_allclose(right, left, atol=1e-6)


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def memory_of_two_models(folders):
    """Returns the megabytes that a process keeps after a run of one model, of both, and at rest."""
    first, second = (open_engine(folder, threads=1) for folder in folders)
    for engine in (first, second):
        engine.rest()
    before = resident_mb()
    found = []
    for engine in (first, second):
        engine.run([job_of(engine, (900, 900))])
        found.append(resident_mb() - before)
    second.rest()
    return *found, resident_mb() - before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_models_keep_the_memory_of_a_run_together_and_give_it_back_at_rest(real_weights):
    folders = [real_weights / name for name in ("titok-ste-lite", "titok-ste-medical")]
    # In a process of its own: other tests leave memory behind that comes and goes.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        first, both, rest = process.submit(memory_of_two_models, folders).result()
    assert first > 100
    assert both < 1.5 * first
    assert rest < 0.6 * first
