"""Large pairs that the model sees at a reduced size."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_file, plain_graph, write_bundle
from tests.service.conftest import running_service

STAGES = ["decode", "queue", "encode_code", "fuse", "guide", "encode"]
SMALL_MODEL_PIXELS = 40_000


@pytest.fixture(scope="module")
def detailed(picture):
    """Two colour pictures of 300×200 with detail that no reduced copy can hold."""
    pictures = [picture(200, 300, seed, color=True).astype(int) for seed in (31, 32)]
    columns, rows = np.arange(300) % 2, (np.arange(200) % 2)[:, None]
    detail = [30 * (columns & (np.arange(300) < 150)), 30 * rows]
    return [
        np.clip(p * 0.8 + np.broadcast_to(d, (200, 300))[..., None], 0, 255).astype(np.uint8)
        for p, d in zip(pictures, detail, strict=True)
    ]


@pytest.fixture(scope="module")
def files(detailed):
    return [make_file(image) for image in detailed]


@pytest.fixture(scope="module")
def limited(weights, tmp_path_factory):
    """A service whose model takes few pixels, and that reduces pairs unless told otherwise."""
    folder = tmp_path_factory.mktemp("limited")
    bundle = write_bundle(folder / "weights", "plain", plain_graph())
    card = json.loads((bundle / "card.json").read_text())
    card["size"] |= {"max_pixels": SMALL_MODEL_PIXELS, "multiple": 4}
    (bundle / "card.json").write_text(json.dumps(card))
    with running_service(folder / "weights", folder / "log", threads=1, max_side=128) as live:
        yield live


def pixels(response):
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content))).astype(int)


def timings(response):
    return [entry.split(";")[0] for entry in response.headers["server-timing"].split(", ")]


@pytest.mark.parametrize("color", ["auto", "none", "rgb"])
def test_the_full_size_result_has_the_detail_of_both_sources(service, files, color):
    whole = service.fuse(*files, model="plain", color=color)
    reduced = service.fuse(*files, model="plain", color=color, max_side=100)
    assert reduced.headers["x-pairfuse-working-size"] == "100x67"
    assert whole.headers["x-pairfuse-working-size"] == "300x200"
    difference = np.abs(pixels(whole) - pixels(reduced))
    assert difference.shape == ((200, 300) if color == "none" else (200, 300, 3))
    assert difference.mean() <= 1
    assert np.percentile(difference, 99) <= 10


def test_the_times_show_the_guided_step_only_where_there_is_one(service, files):
    name = 'pairfuse_stage_seconds_count{stage="guide"}'
    before = service.metric(name)
    assert timings(service.fuse(*files, max_side=100)) == STAGES
    assert service.metric(name) == before + 1
    assert timings(service.fuse(*files)) == [stage for stage in STAGES if stage != "guide"]
    assert service.metric(name) == before + 1


@pytest.mark.parametrize("max_side", [0, 300, 65_535])
def test_no_less_than_the_longer_side_changes_nothing(any_service, files, max_side):
    response = any_service.fuse(*files, max_side=max_side)
    assert response.content == any_service.fuse(*files).content
    assert response.headers["x-pairfuse-working-size"] == "300x200"


@pytest.mark.parametrize("max_side", [-1, 1, 63, 65_536, 10**6, "64.0", "1e3", "+64", "", "all", "٦٤٠", "6_4"])
def test_bad_values_are_refused_with_the_good_ones(service, files, max_side):
    response = service.fuse(*files, max_side=max_side)
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "urn:pairfuse:problem:bad-field"
    assert problem["errors"][0]["field"] == "max_side"
    assert "0 for the full size, or a whole number of pixels from 64 to 65535" in problem["detail"]


def test_edit_strength_and_cache_work_on_the_reduced_copy(service, files):
    hits = 'pairfuse_encoder_cache_total{result="hit"}'
    weak = service.fuse(*files, model="coded", sharpen=0, color="none", max_side=150)
    before = service.metric(hits)
    strong = service.fuse(*files, model="coded", sharpen=2, color="none", max_side=150)
    assert service.metric(hits) == before + 2
    assert (pixels(strong) - pixels(weak)).mean() > 20


def test_of_a_turned_picture_the_size_is_upright(service, detailed):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = [make_file(image, "PNG", exif=exif) for image in detailed]
    response = service.fuse(*turned, model="plain", max_side=150)
    assert response.headers["x-pairfuse-working-size"] == "100x150"
    assert pixels(response).shape[:2] == (300, 200)


def test_every_released_model_takes_a_reduced_pair(real_service, files):
    for model in real_service.client.get("/models").json()["models"]:
        name = model["card"]["name"]
        response = real_service.fuse(*files, model=name, max_side=128)
        assert response.headers["x-pairfuse-working-size"] == "128x85", name
        assert pixels(response).shape[:2] == (200, 300), name


def test_a_pair_too_large_for_the_model_is_told_the_cure_and_it_works(limited, files):
    response = limited.fuse(*files, max_side=0)
    assert response.status_code == 413
    detail = response.json()["detail"]
    assert f"at most {SMALL_MODEL_PIXELS}" in detail
    side = detail.split("max_side=")[1].split()[0]
    cured = limited.fuse(*files, max_side=side)
    assert pixels(cured).shape[:2] == (200, 300)
    width, height = map(int, cured.headers["x-pairfuse-working-size"].split("x"))
    assert 0.9 * SMALL_MODEL_PIXELS <= width * height <= SMALL_MODEL_PIXELS


def test_the_setting_counts_where_the_field_is_missing(limited, files):
    response = limited.fuse(*files)
    assert response.headers["x-pairfuse-working-size"] == "128x84"  # Multiples of 4, as the card says.
    form = limited.client.get("/openapi.json").json()["paths"]["/fuse"]["post"]["requestBody"]
    assert form["content"]["multipart/form-data"]["schema"]["properties"]["max_side"]["default"] == 128


def test_a_reduced_copy_is_no_way_around_the_services_own_bound(start_service, files):
    service = start_service(max_pixels=50_000)
    response = service.fuse(*files, max_side=64)
    assert response.status_code == 413
    assert "PAIRFUSE_MAX_PIXELS" in response.json()["detail"]
