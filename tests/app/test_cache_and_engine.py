from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest

from app.bundles import read_bundle
from app.cache import CodeCache, image_key
from app.engine import Engine
from app.errors import AbandonedError
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings


def code(value):
    return np.full(10, value, np.float32)  # 40 bytes


def test_the_least_recently_used_code_goes_first():
    cache = CodeCache(100)
    cache.put(b"a", code(1))
    cache.put(b"b", code(2))
    assert cache.get(b"a") is not None
    cache.put(b"c", code(3))
    assert cache.get(b"b") is None
    assert cache.get(b"a")[0] == 1
    assert len(cache) == 2


def test_a_dropped_code_leaves_its_room_to_others():
    cache = CodeCache(100)
    cache.put(b"a", code(1))
    cache.put(b"b", code(2))
    for _ in range(2):
        cache.drop(b"a")
    cache.put(b"c", code(3))
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [False, True, True]


def test_replacing_a_code_does_not_count_it_twice():
    cache = CodeCache(100)
    for value in range(5):
        cache.put(b"a", code(value))
    cache.put(b"b", code(9))
    assert len(cache) == 2
    assert cache.get(b"a")[0] == 4


@pytest.mark.parametrize("max_bytes", [0, 39])
def test_a_code_larger_than_the_cache_is_not_kept(max_bytes):
    cache = CodeCache(max_bytes)
    cache.put(b"a", code(1))
    assert cache.get(b"a") is None


def test_keys_depend_on_pixels_and_size():
    plane = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert image_key(plane) == image_key(plane.copy())
    assert image_key(plane) != image_key(plane.reshape(4, 3))
    assert image_key(plane) != image_key(plane + 1)


class CountingBackend:
    """Passes calls on and records how many images each encoder run had."""

    kind, device, has_tiles = "onnx", "cpu", False

    def __init__(self, backend):
        self._backend = backend
        self.encoded = []

    def encode(self, images, run):
        self.encoded.append(len(images))
        return self._backend.encode(images, run)

    def fuse(self, inputs, run):
        return self._backend.fuse(inputs, run)


@pytest.fixture
def make_engine(weights):
    def make(name, cache_bytes=1000):
        bundle = read_bundle(weights / name)
        backend = CountingBackend(OnnxBackend(bundle, Settings(device="cpu", threads=1)))
        lookups = []
        return Engine(bundle.card, backend, cache_bytes, lookups.append), backend, lookups

    return make


@pytest.fixture
def planes():
    return np.random.default_rng(0).random((4, 33, 47), np.float32)


def expected(a, b, sharpen, smooth):
    return np.clip((a + b) / 2 + (sharpen - 1) * a.mean() / 4 - (smooth - 1) * b.mean() / 4, 0, 1)


def test_both_images_are_encoded_in_one_run_and_then_cached(make_engine, planes):
    engine, backend, lookups = make_engine("coded")
    for edit in ((2.0, 1.0), (1.0, 0.0)):
        fused = engine.run([engine.job(planes[0], planes[1], edit)])[0].luma
        np.testing.assert_allclose(fused, expected(planes[0], planes[1], *edit), atol=1e-5)
    assert backend.encoded == [2]
    assert lookups == [False, False, True, True]


def test_at_rest_every_graph_runs_though_the_codes_are_known(make_engine):
    engine, backend, _ = make_engine("coded", cache_bytes=10**6)
    for _ in range(3):
        engine.rest()
    assert backend.encoded == [2, 2, 2]


def test_a_batch_encodes_each_different_image_once(make_engine, planes):
    engine, backend, _ = make_engine("coded")
    pairs = [(0, 1), (0, 2), (3, 3)]
    results = engine.run([engine.job(planes[a], planes[b], (2.0, 0.5)) for a, b in pairs])
    for (a, b), result in zip(pairs, results, strict=True):
        np.testing.assert_allclose(result.luma, expected(planes[a], planes[b], 2.0, 0.5), atol=1e-5)
    assert backend.encoded == [4]


def test_without_a_cache_the_result_is_the_same(make_engine, planes):
    engine, backend, _ = make_engine("coded", cache_bytes=0)
    for _ in range(2):
        fused = engine.run([engine.job(planes[0], planes[1], (2.0, 1.0))])[0].luma
        np.testing.assert_allclose(fused, expected(planes[0], planes[1], 2.0, 1.0), atol=1e-5)
    assert backend.encoded == [2, 2]


def test_a_model_without_encoder_and_slots(make_engine, planes):
    engine, backend, lookups = make_engine("plain")
    jobs = [engine.job(planes[0], planes[1], ()), engine.job(planes[2], planes[3], ())]
    for index, result in enumerate(engine.run(jobs)):
        np.testing.assert_allclose(result.luma, planes[2 * index : 2 * index + 2].mean(0), atol=1e-6)
    assert not backend.encoded
    assert not lookups


def test_a_graph_that_changes_the_size_is_an_error(make_engine, planes):
    engine, backend, _ = make_engine("plain")
    backend.fuse = lambda inputs, run: inputs["a"][..., :-1]
    with pytest.raises(RuntimeError, match="returned"):
        engine.run([engine.job(planes[0], planes[1], ())])


@pytest.mark.parametrize("narrow", [False, True])
def test_a_run_can_be_ended_and_the_next_one_is_whole(make_engine, planes, narrow):
    engine, backend, _ = make_engine("moody")
    endless, other, fuse = Run(narrow=narrow), Run(), backend.fuse
    begun = threading.Event()
    backend.fuse = lambda inputs, run: begun.set() or fuse(inputs, run)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(engine.run, [engine.job(planes[0], planes[1], (1e6, 0.0))], endless)  # Takes hours.
        assert begun.wait(30)
        other.end()
        assert not wait([result], 0.05).done
        # The graph may be just about to begin, or its first operation not have looked yet.
        while not wait([result], 0.01).done:
            endless.end()
    with pytest.raises(AbandonedError):
        result.result(timeout=0)
    with pytest.raises(AbandonedError):
        engine.run([engine.job(planes[0], planes[1], (0.0, 0.0))], endless)
    fused = engine.run([engine.job(planes[0], planes[1], (0.0, 0.0))])[0].luma
    np.testing.assert_allclose(fused, planes[:2].mean(0), atol=1e-6)
