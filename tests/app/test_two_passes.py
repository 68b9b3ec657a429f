"""Tiles through the backend give the picture of the whole, from real graphs."""

import numpy as np
import pytest

from app.bundles import read_bundle
from app.card import Tiling
from app.errors import AbandonedError
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings
from app.two_passes import fuse_in_two_passes
from tests.app.tiled_bundle import GEOMETRY, blur_graphs, expected_fusion, planes, write_tiled_bundle
from tests.conftest import describe


def open_bundle(folder):
    bundle = read_bundle(folder)
    return OnnxBackend(bundle, Settings(device="cpu", threads=1)), bundle.card


@pytest.fixture(scope="module")
def blur(tmp_path_factory):
    """Backend and card of the blur bundle: tiles of 48 above 4096 pixels."""
    return open_bundle(write_tiled_bundle(tmp_path_factory.mktemp("weights"), "blur"))


class Watched(Run):
    """A run that counts how often it could pause, and is ended one of these times."""

    def __init__(self, ends_at=None):
        super().__init__(pause=self._count)
        self.paused = 0
        self._ends_at = ends_at

    def _count(self):
        self.paused += 1
        if self.paused == self._ends_at:
            self.end()


@pytest.mark.parametrize("size", [(80, 120), (100, 203), (33, 500), (47, 49), (161, 41)])
def test_tiles_equal_the_whole_at_every_size(blur, size):
    inputs = planes(1, 1, *size)
    fused = blur[0].fuse_in_tiles(inputs, Run())
    assert fused.shape == (1, 1, *size)
    assert fused.dtype == np.float32
    expected = expected_fusion(inputs["a"][0, 0], inputs["b"][0, 0])
    np.testing.assert_allclose(fused[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("changes", [{"halo": 0}, {"halo_sums": 0}], ids=["seams", "wrong mean"])
def test_without_halo_the_result_is_another(tmp_path, changes):
    """So the tests here see both halos."""
    backend, _ = open_bundle(write_tiled_bundle(tmp_path, "blur", **changes))
    inputs = planes(1, 1, 160, 160)
    difference = backend.fuse_in_tiles(inputs, Run())[0, 0] - expected_fusion(inputs["a"][0, 0], inputs["b"][0, 0])
    assert np.abs(difference).max() > 2e-3  # Rounding stays below 1e-5.


def test_only_images_above_the_limit_run_in_tiles(blur):
    for width, in_tiles in ((64, False), (65, True)):
        run = Watched()
        blur[0].fuse(planes(3, 1, 64, width), run)
        assert bool(run.paused) == in_tiles


def test_each_pair_of_a_batch_is_fused_with_its_own_mean(blur):
    inputs = planes(3, 1, 80, 72)
    inputs["a"][1] *= 0.1
    fused = blur[0].fuse(inputs, Run())
    for number in range(3):
        expected = expected_fusion(inputs["a"][number, 0], inputs["b"][number, 0])
        np.testing.assert_allclose(fused[number, 0], expected, atol=1e-5)


@pytest.mark.parametrize("ends_at", [1, 5, 14, 25])
def test_a_run_that_nobody_waits_for_ends_between_tiles(blur, ends_at):
    """9 tiles of 48 in the first pass and 16 in the second."""
    inputs, whole, ended = planes(1, 1, 96, 96), Watched(), Watched(ends_at)
    blur[0].fuse(inputs, whole)
    assert whole.paused == 9 + 16
    with pytest.raises(AbandonedError):
        blur[0].fuse(inputs, ended)
    assert ended.paused == ends_at


def test_a_model_without_tiles_says_so(weights):
    backend, _ = open_bundle(weights / "plain")
    with pytest.raises(ValueError, match="no graphs for tiles"):
        backend.fuse_in_tiles(planes(1, 1, 64, 64), Run())


@pytest.fixture(scope="module")
def tiling():
    graphs = {part: describe(content, f"{part}.onnx") for part, content in blur_graphs().items() if part != "fusion"}
    return Tiling.model_validate(GEOMETRY | graphs)


def fuse_with(tiling, *, sums, given, size=(160, 160)):
    inputs = planes(1, 1, *size)
    return fuse_in_two_passes(inputs["a"], inputs["b"], tiling, sums=sums, given=given, next_tile=lambda: None)


def test_no_graph_ever_sees_more_than_a_tile(tiling):
    seen = []

    def sums(inputs):
        seen.append(inputs)
        return np.zeros((1, 2), np.float32)

    def given(inputs):
        seen.append(inputs)
        return inputs["a"]

    fuse_with(tiling, sums=sums, given=given, size=(203, 310))
    assert max(max(inputs["a"].shape) for inputs in seen) == tiling.tile
    assert all(inputs["a"].shape == inputs["b"].shape for inputs in seen)
    # Whatever the tiles overlap, each pixel of the padded image is counted once.
    assert sum(inputs["counted"].sum() for inputs in seen if "counted" in inputs) == 208 * 312


def test_small_sums_are_not_lost_beside_a_large_one(tiling):
    tiles, means = iter(range(10**6)), []

    def sums(inputs):
        return np.full((1, 2), 2**24 if next(tiles) == 0 else 1, np.float32)

    def given(inputs):
        means.append(inputs["mean"])
        return inputs["a"]

    fuse_with(tiling, sums=sums, given=given)
    rest = next(tiles) - 1
    assert rest > 10
    np.testing.assert_array_equal(means[0], np.full((1, 2), (2**24 + rest) / 160**2, np.float32))


def test_a_graph_that_changes_the_size_of_a_tile_is_an_error(tiling):
    with pytest.raises(RuntimeError, match=r"given\.onnx returned"):
        fuse_with(tiling, sums=lambda _: np.zeros((1, 2)), given=lambda inputs: inputs["a"][..., :-1])
