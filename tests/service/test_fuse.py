from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

STAGES = ["decode", "queue", "encode_code", "fuse", "encode"]


def pixels_of(response):
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def grey(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32)


def luma(image):
    return np.asarray(image.convert("RGB"), np.float64) @ [0.299, 0.587, 0.114]


def test_a_pair_gives_a_picture_of_its_size_and_says_how(any_service, pair):
    response = any_service.fuse(*pair, strength=1)
    image = pixels_of(response)
    assert (image.format, image.size, image.mode) == ("PNG", (64, 48), "RGB")
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-pairfuse-model"] == any_service.client.get("/models").json()["default"]
    assert [entry.split(";")[0] for entry in response.headers["server-timing"].split(", ")] == STAGES
    assert all(float(entry.split("dur=")[1]) >= 0 for entry in response.headers["server-timing"].split(", "))


def test_the_fused_luminance_is_the_models_and_the_colour_is_the_sources(service, pair):
    image = pixels_of(service.fuse(*pair, strength=1))
    mean = (grey(pair[0]) + grey(pair[1])) / 2
    assert np.abs(luma(image) - mean).max() <= 1.5
    assert pixels_of(service.fuse(*pair, color="none")).mode == "L"
    assert pixels_of(service.fuse(*pair, color="b")).mode == "L"
    assert pixels_of(service.fuse(pair[1], pair[1])).mode == "L"


def test_edit_strength_reaches_the_graph(service, pair):
    mean = (grey(pair[0]) + grey(pair[1])) / 2
    image = np.asarray(pixels_of(service.fuse(*pair, sharpen=2, color="none")), np.float32)
    expected = np.clip(mean + grey(pair[0]).mean() / 4, 0, 255)
    assert np.abs(image - expected).max() <= 1.5
    again = pixels_of(service.fuse(*pair, strength=2, smooth=1, color="none"))
    np.testing.assert_array_equal(np.asarray(again), image)


def test_the_second_strength_finds_the_codes_in_the_cache(service, picture, to_file):
    files = [to_file(picture(50, 60, seed, color=False)) for seed in (71, 72)]
    hits = 'pairfuse_encoder_cache_total{result="hit"}'
    before = service.metric(hits)
    for strength in (0, 1, 2):
        assert service.fuse(*files, strength=strength).status_code == 200
    assert service.metric(hits) == before + 4


@pytest.mark.parametrize(("output", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF")])
def test_every_output_format(service, pair, output, kind):
    response = service.fuse(*pair, format=output, quality=80)
    assert pixels_of(response).format == kind
    assert response.headers["content-type"] == f"image/{output}"


@pytest.mark.parametrize("output", ["png", "jpeg"])
def test_effort_makes_fewer_bytes_of_the_same_picture(any_service, pair, output):
    fast, smallest = (any_service.fuse(*pair, format=output, effort=effort) for effort in ("fast", "smallest"))
    assert len(smallest.content) < len(fast.content)
    assert any_service.fuse(*pair, format=output).content == fast.content
    np.testing.assert_array_equal(np.asarray(pixels_of(smallest)), np.asarray(pixels_of(fast)))


def test_a_refused_effort_names_the_field_and_what_it_takes(service, pair):
    response = service.fuse(*pair, effort="9")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"] == [{"field": "effort", "allowed": "fast, small, smallest"}]


def test_quality_and_effort_of_the_settings_count_where_a_request_names_none(service, start_service, pair):
    other = start_service(quality=30, effort="smallest")
    expected = service.fuse(*pair, format="jpeg", quality=30, effort="smallest")
    assert other.fuse(*pair, format="jpeg").content == expected.content
    asked = {"format": "jpeg", "quality": 80, "effort": "fast"}
    assert other.fuse(*pair, **asked).content == service.fuse(*pair, **asked).content
    call = other.client.get("/openapi.json").json()["paths"]["/fuse"]["post"]
    fields = call["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert (fields["quality"]["default"], fields["effort"]["default"]) == (30, "smallest")


@pytest.mark.parametrize("size", [(33, 47), (32, 32), (131, 77), (480, 640)])
def test_odd_sizes(any_service, picture, to_file, size):
    files = [to_file(picture(*size, seed, color=seed == 1)) for seed in (1, 2)]
    assert pixels_of(any_service.fuse(*files)).size == size[::-1]


def test_every_model_is_chosen_by_name(service, pair):
    for name in ("coded", "moody", "plain"):
        assert service.fuse(*pair, model=name).headers["x-pairfuse-model"] == name


def test_16_bit_thermal_images(any_service, pair, to_file):
    thermal = np.linspace(7000, 9000, 48 * 64).astype(np.uint16).reshape(48, 64)
    for kind in ("PNG", "TIFF"):
        assert pixels_of(any_service.fuse(pair[0], to_file(thermal, kind))).size == (64, 48)


def test_the_16_bit_rule_can_be_chosen(service, to_file):
    thermal = to_file(np.linspace(7000, 9000, 48 * 64).astype(np.uint16).reshape(48, 64))
    stretched = np.asarray(pixels_of(service.fuse(thermal, thermal)))
    full = np.asarray(pixels_of(service.fuse(thermal, thermal, range16="full")))
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert (full.min(), full.max()) == (round(7000 / 257), round(9000 / 257))


def test_request_ids(service, pair):
    assert len(service.client.get("/healthz").headers["x-request-id"]) == 16
    sane = service.client.get("/healthz", headers={"X-Request-ID": "my-id.1"})
    assert sane.headers["x-request-id"] == "my-id.1"
    assert service.client.get("/healthz", headers={"X-Request-ID": "x" * 99}).headers["x-request-id"] != "x" * 99
    refused = service.client.post("/fuse", headers={"X-Request-ID": "refused-1"})
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "refused-1"
    service.until(lambda: "refused-1" in service.log.read_text())
    for line in service.log.read_text().splitlines():
        assert json.loads(line)["level"]


def test_models(any_service):
    listed = any_service.client.get("/models").json()
    assert listed["refused"] == []
    names = [model["card"]["name"] for model in listed["models"]]
    assert listed["default"] in names
    for name in names:
        model = any_service.client.get(f"/models/{name}").json()
        assert model["card"]["name"] == name
        assert (model["backend"], model["device"]) == ("onnx", "cpu")
        assert model["default"] == (name == listed["default"])


def test_health(any_service):
    assert any_service.client.get("/healthz").json() == {"status": "alive"}
    assert any_service.client.get("/readyz").json()["status"] == "ready"


def test_metrics(service, pair):
    name = 'pairfuse_requests_total{model="plain",status="200"}'
    pixels = "pairfuse_pixels_total"
    before = service.metric(name), service.metric(pixels)
    service.fuse(*pair, model="plain")
    assert (service.metric(name), service.metric(pixels)) == (before[0] + 1, before[1] + 48 * 64)
    text = service.client.get("/metrics").text
    for metric in (
        "pairfuse_request_seconds_bucket",
        "pairfuse_batch_size_count",
        "pairfuse_queue_depth 0.0",
        "pairfuse_inflight 0.0",
        'pairfuse_model_info{backend="onnx",device="cpu",model="plain",sha256="',
        "process_resident_memory_bytes",
        *(f'pairfuse_stage_seconds_count{{stage="{stage}"}}' for stage in STAGES),
    ):
        assert metric in text


def test_strength_matters_with_the_released_model(real_service, picture, to_file):
    files = [to_file(picture(96, 128, seed, color=False)) for seed in (5, 6)]
    images = [np.asarray(pixels_of(real_service.fuse(*files, strength=strength)), int) for strength in (0, 2)]
    assert np.abs(images[0] - images[1]).max() > 0
