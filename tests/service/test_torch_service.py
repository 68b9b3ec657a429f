"""The service with the torch backend: a real process, a small network."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from app.bundles import read_bundle
from app.runs import Run
from app.settings import Settings
from app.torch_backend import TorchBackend
from tests.app.torch_bundle import write_torch_bundle
from tests.service.conftest import running_service


@pytest.fixture(scope="module")
def torch_weights(tmp_path_factory, weights):
    """The network, and a bundle without weights for torch."""
    folder = tmp_path_factory.mktemp("torch") / "weights"
    write_torch_bundle(folder, "small", tile=64)
    (folder / "plain").symlink_to(weights / "plain")
    return folder


@pytest.fixture(scope="module")
def torch_service(torch_weights, tmp_path_factory):
    log = tmp_path_factory.mktemp("torch-service") / "log"
    with running_service(torch_weights, log, backend="torch", threads=1) as live:
        yield live
        assert live.stop() == 0


def test_it_answers_what_the_network_makes(torch_service, torch_weights, to_file, picture):
    planes = [picture(75, 66, seed, color=False) for seed in (1, 2)]  # In tiles.
    answer = torch_service.fuse(*map(to_file, planes), color="none")
    assert answer.status_code == 200, answer.text
    fused = np.asarray(Image.open(io.BytesIO(answer.content)), np.float32)
    inputs = {name: np.float32(plane)[None, None] / 255 for name, plane in zip("ab", planes, strict=True)}
    backend = TorchBackend(read_bundle(torch_weights / "small"), Settings(device="cpu", threads=1))
    expected = 255 * backend.fuse_whole(inputs, Run())[0, 0]
    assert np.abs(fused - expected).max() <= 0.51
    mean = 127.5 * (inputs["a"] + inputs["b"])[0, 0]
    assert np.abs(fused - mean).max() > 5  # What the ONNX graph of this bundle would make.


def test_it_tells_its_backend_and_the_bundle_that_it_refused(torch_service):
    models = torch_service.client.get("/models").json()
    assert [(model["card"]["name"], model["backend"], model["device"]) for model in models["models"]] == [
        ("small", "torch", "cpu")
    ]
    assert [refused["name"] for refused in models["refused"]] == ["plain"]
    assert ".safetensors" in models["refused"][0]["reason"]
    assert 'pairfuse_model_info{backend="torch"' in torch_service.client.get("/metrics").text
