"""What a picture of three fused channels costs and how its times are counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from app import codec, pipeline
from app.engine import Engine
from app.errors import OverloadedError
from app.folder import running
from app.options import FuseOptions
from app.service import build_service
from app.settings import Settings

ENCODE_S, FUSE_S = 1.0, 2.0


@pytest.fixture
def timed(monkeypatch):
    """Every run says that it took the same time; returns the number of pairs of each."""
    batches, run = [], Engine.run

    def run_timed(engine, jobs, *more):
        batches.append(len(jobs))
        return [replace(fused, encode_s=ENCODE_S, fuse_s=FUSE_S) for fused in run(engine, jobs, *more)]

    monkeypatch.setattr(Engine, "run", run_timed)
    return batches


@pytest.fixture
def work(monkeypatch):
    """Counts the planes that are hashed and reduced, and the luminances that are computed."""
    counts = dict.fromkeys(("image_key", "reduce_plane", "luminance"), 0)

    def count(module, name):
        function = getattr(module, name)

        def counting(*arguments):
            counts[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, counting)

    count(pipeline, "image_key")
    count(pipeline, "reduce_plane")
    count(codec, "luminance")
    return counts


def fuse(weights, files, model="plain", edit=(), max_side=0, **settings):
    """Fuses one pair in rgb without a server; returns the result and the service."""
    service = build_service(Settings(weights=weights, device="cpu", threads=1, **settings))

    async def once():
        async with running(service) as pipeline:
            return await pipeline.fuse(*files, FuseOptions(model, edit, "rgb", max_side=max_side))

    return asyncio.run(once()), service


@pytest.mark.parametrize(("max_batch", "batches"), [(1, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_each_run_is_counted_once(weights, pair, timed, max_batch, batches):
    result, service = fuse(weights, pair, max_batch=max_batch)
    assert timed[-len(batches) :] == batches
    assert (result.width, result.height) == (64, 48)
    assert (result.seconds["encode_code"], result.seconds["fuse"]) == (len(batches) * ENCODE_S, len(batches) * FUSE_S)
    assert 0 <= result.seconds["queue"] < 1
    assert "pairfuse_pixels_total 3072.0" in service.telemetry.render().decode()


def test_each_plane_is_encoded_once(weights, pair):
    service = fuse(weights, pair, "coded", (1.0, 1.0))[1]
    metrics = service.telemetry.render().decode()
    assert 'pairfuse_encoder_cache_total{result="miss"} 6.0' in metrics  # Warm-up 2, three channels, one grey plane.
    assert 'pairfuse_encoder_cache_total{result="hit"} 2.0' in metrics


def test_the_plane_of_a_grey_source_is_reduced_and_hashed_once(weights, picture, to_file, work):
    files = [to_file(picture(96, 128, seed, color=seed == 1)) for seed in (1, 2)]
    assert fuse(weights, files, "coded", (1.0, 1.0), max_side=64)[0].working == (48, 64)
    assert work == {"image_key": 4, "reduce_plane": 4, "luminance": 0}


def test_each_channel_of_two_colour_sources_counts(weights, picture, to_file, work):
    files = [to_file(picture(96, 128, seed, color=True)) for seed in (1, 2)]
    fuse(weights, files, "plain", max_side=64)
    assert work == {"image_key": 0, "reduce_plane": 6, "luminance": 0}


@pytest.mark.parametrize(("color", "planes"), [("auto", 1), ("rgb", 3)])
def test_the_gate_counts_the_planes_that_will_be_held(weights, pair, color, planes):
    needed = planes * 2 * 48 * 64
    service = build_service(Settings(weights=weights, device="cpu", threads=1, max_inflight_pixels=1000 + needed))

    async def scenario():
        async with running(service) as pipeline:
            with service.gate.hold_pixels(1000):
                await pipeline.fuse(*pair, FuseOptions("plain", (), color))
            with service.gate.hold_pixels(1001), pytest.raises(OverloadedError, match=f"{needed} more"):
                await pipeline.fuse(*pair, FuseOptions("plain", (), color))

    asyncio.run(scenario())
