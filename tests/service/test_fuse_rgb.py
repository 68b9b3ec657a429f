"""Colour that the model fuses itself, channel by channel."""

from __future__ import annotations

import concurrent.futures
import io

import numpy as np
import pytest
from PIL import Image

from tests.service.test_trouble import LONG, LONGER, half_sent_complete

RUNS, DEPTH, PIXELS = "pairfuse_batch_size_count", "pairfuse_queue_depth", "pairfuse_pixels_total"


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def colours(picture):
    return [picture(48, 64, seed, color=True) for seed in (1, 2)]


def fused(service, *images, **fields):
    response = service.fuse(*images, **fields)
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def one_by_one(service, planes_a, planes_b, to_file, **fields):
    """Returns the stack of three requests of grey planes."""
    requests = zip(planes_a, planes_b, strict=True)
    return np.stack([fused(service, to_file(a), to_file(b), **fields) for a, b in requests], axis=-1)


def channels(pixels):
    return [np.ascontiguousarray(pixels[..., index]) for index in range(3)]


def test_every_model_fuses_each_channel_as_it_fuses_grey(any_service, colours, to_file):
    for model in any_service.client.get("/models").json()["models"]:
        name = model["card"]["name"]
        image = fused(any_service, *map(to_file, colours), model=name, color="rgb")
        expected = one_by_one(any_service, *map(channels, colours), to_file, model=name)
        assert image.shape == (48, 64, 3)
        assert np.abs(image.astype(int) - expected).max() <= 1, name


def test_edit_strength_counts_for_each_channel(service, colours, to_file):
    image = fused(service, *map(to_file, colours), color="rgb", sharpen=2)
    means = np.mean(colours, axis=0) + np.mean(colours[0], axis=(0, 1)) / 4
    assert np.abs(image - np.clip(means, 0, 255)).max() <= 0.52


@pytest.mark.parametrize("colour_first", [True, False])
def test_a_grey_source_gives_its_plane_three_times(service, colours, picture, to_file, colour_first):
    sides = colours[0], picture(48, 64, 3, color=False)
    planes = channels(sides[0]), [sides[1]] * 3
    order = (0, 1) if colour_first else (1, 0)
    image = fused(service, *(to_file(sides[side]) for side in order), color="rgb", sharpen=2)
    expected = one_by_one(service, *(planes[side] for side in order), to_file, sharpen=2)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("name", ["coded", "plain"])
def test_a_grey_source_of_a_reduced_pair_gives_its_plane_three_times(service, picture, to_file, name):
    colour, grey = picture(120, 160, 6, color=True), picture(120, 160, 7, color=False)
    image = fused(service, to_file(colour), to_file(grey), model=name, color="rgb", max_side=80)
    expected = one_by_one(service, channels(colour), [grey] * 3, to_file, model=name, max_side=80)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("rule", ["stretch", "full"])
def test_a_16_bit_source_is_scaled_as_ever(service, colours, to_file, rule):
    thermal = to_file(np.linspace(7000, 9000, 48 * 64).astype(np.uint16).reshape(48, 64))
    image = fused(service, to_file(colours[0]), thermal, color="rgb", range16=rule, model="plain")
    expected = [fused(service, to_file(p), thermal, range16=rule, model="plain") for p in channels(colours[0])]
    np.testing.assert_array_equal(image, np.stack(expected, axis=-1))


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_two_grey_sources_cost_one_run_and_give_what_none_gives(service, picture, to_file, mode):
    files = []
    for seed in (4, 5):
        grey = picture(48, 64, seed, color=False)
        pixels = grey.astype(np.uint16) * 257 if mode == "I;16" else np.asarray(Image.fromarray(grey).convert(mode))
        files.append(to_file(pixels))
    expected = service.fuse(*files, color="none")
    before = service.metric(RUNS)
    response = service.fuse(*files, color="rgb")
    assert service.metric(RUNS) == before + 1
    assert response.content == expected.content
    assert Image.open(io.BytesIO(response.content)).mode == "L"


@pytest.mark.parametrize("output", ["png", "jpeg", "webp", "tiff"])
def test_every_output_format(service, colours, to_file, output):
    image = fused(service, *map(to_file, colours), color="rgb", format=output, quality=95)
    assert np.abs(image - np.mean(colours, axis=0)).mean() < 3


def test_one_picture_is_counted_once_and_its_runs_are_three(service, colours, to_file):
    before = service.metric(RUNS), service.metric(PIXELS)
    fused(service, *map(to_file, colours), color="rgb")
    assert (service.metric(RUNS), service.metric(PIXELS)) == (before[0] + 3, before[1] + 48 * 64)


def test_a_bad_value_is_told_of_rgb(service, pair):
    response = service.fuse(*pair, color="RGB")
    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": "color", "allowed": "auto, a, b, none, rgb"}]


def test_the_document_offers_it(service):
    call = service.client.get("/openapi.json").json()["paths"]["/fuse"]["post"]
    field = call["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]["color"]
    assert field["enum"] == ["auto", "a", "b", "none", "rgb"]


def test_without_room_for_all_three_none_is_let_in(start_service, threads, pair):
    service = start_service(max_queue=3)
    waiting = [threads.submit(service.fuse, *pair, model="moody", delay=LONG)]
    service.until(lambda: service.metric(RUNS) == 1)
    waiting.append(threads.submit(service.fuse, *pair, model="moody"))
    service.until(lambda: service.metric(DEPTH) == 1)
    response = service.fuse(*pair, model="moody", color="rgb")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["type"] == "urn:pairfuse:problem:queue-full"
    assert service.metric(DEPTH) == 1
    assert [future.result().status_code for future in waiting] == [200, 200]
    assert service.metric(DEPTH) == 0
    assert service.metric(RUNS) == 2


def test_a_queue_of_one_place_lets_it_in_when_empty(start_service, pair):
    service = start_service(max_queue=1)
    assert service.fuse(*pair, model="moody", color="rgb").status_code == 200
    assert service.metric(DEPTH) == 0


def test_a_caller_that_leaves_takes_all_three_along(start_service, threads, pair):
    service = start_service()
    slow = threads.submit(service.fuse, *pair, model="moody", delay=LONG)
    service.until(lambda: service.metric(RUNS) == 1)
    with half_sent_complete(service, pair, model="moody", color="rgb", delay=LONGER):
        service.until(lambda: service.metric(DEPTH) == 3)
    service.until(lambda: service.metric(DEPTH) == 0)
    assert slow.result().status_code == 200
    assert service.fuse(*pair, model="moody").status_code == 200
    assert service.metric(RUNS) == 2


def test_past_the_deadline_the_other_channels_are_not_run(start_service, pair):
    service = start_service(deadline_s=0.5)
    assert service.fuse(*pair, model="moody", color="rgb", delay=LONGER).status_code == 504
    assert (service.metric(RUNS), service.metric(DEPTH)) == (1, 0)


def test_a_failed_channel_fails_the_request_and_no_further_run(start_service, pair):
    service = start_service()
    assert service.fuse(*pair, model="moody", color="rgb", fault=1).status_code == 500
    assert service.metric(DEPTH) == 0
    assert service.metric('pairfuse_run_failures_total{model="moody"}') == 1
    assert service.client.get("/readyz").status_code == 200
    assert service.fuse(*pair, model="moody", color="rgb").status_code == 200
    assert service.metric(RUNS) == 4
