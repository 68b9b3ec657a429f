"""Large images over HTTP with a model that fuses them in tiles."""

from __future__ import annotations

import io
import socket

import numpy as np
import pytest
from PIL import Image

from tests.app.tiled_bundle import expected_fusion, write_tiled_bundle
from tests.service.conftest import running_service
from tests.service.test_trouble import form

RUNS = "pairfuse_batch_size_count"
MOST_PIXELS = 16_700_000  # As the test bundles' cards say.


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service with one model: small tiles for images of more than 64 × 64 pixels."""
    folder = tmp_path_factory.mktemp("tiles")
    write_tiled_bundle(folder / "weights", "blur", tile=32, halo=8)
    with running_service(folder / "weights", folder / "log", threads=1, max_pixels=10**9) as live:
        yield live


@pytest.fixture(scope="module")
def large(picture, to_file):
    """Files of two grey pictures of thousands of tiles: a run long enough to leave it on any machine."""
    return [to_file(picture(1200, 1500, seed, color=False)) for seed in (1, 2)]


@pytest.mark.parametrize("size", [(64, 64), (64, 65), (203, 310)])
def test_the_picture_is_that_of_the_whole(service, picture, to_file, size):
    pictures = [picture(*size, seed, color=False) for seed in (1, 2)]
    response = service.fuse(*map(to_file, pictures))
    assert response.status_code == 200, response.text
    fused = np.asarray(Image.open(io.BytesIO(response.content)), np.float64)
    expected = 255 * expected_fusion(*(image.astype(np.float32) / 255 for image in pictures))
    assert np.abs(fused - expected).max() <= 0.51


def test_the_card_shows_the_tiles(service):
    tiling = service.client.get("/models/blur").json()["card"]["tiling"]
    assert (tiling["tile"], tiling["above_pixels"], tiling["sums"]["file"]) == (32, 4096, "sums.onnx")


def test_images_may_be_as_large_as_the_card_says_and_no_larger(service, to_file):
    side = int(MOST_PIXELS**0.5) + 1
    response = service.fuse(*[to_file(Image.new("L", (side, side)))] * 2)
    assert response.status_code == 413
    assert f"at most {MOST_PIXELS}" in response.json()["detail"]


def test_a_run_in_tiles_ends_when_its_caller_leaves(service, large, pair):
    before = service.metric(RUNS)
    head, body = form(large)
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(head + body)
        service.until(lambda: service.metric(RUNS) == before + 1)
    service.until(lambda: "model run ended early" in service.log.read_text())
    assert service.fuse(*pair).status_code == 200
    assert service.metric('pairfuse_run_failures_total{model="blur"}') == 0
    assert service.client.get("/readyz").status_code == 200
