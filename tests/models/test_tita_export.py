"""The three ONNX graphs of TITA against PyTorch, at batches and sizes that the export did not see."""

import numpy as np
import pytest
import torch

from models.tita import PROFILES
from models.tita.graphs import FeatureSums, FuseGiven
from models.tita.tiling import exact_halo, spans
from tests.models.tiny_tita import lively, pair

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from training.graphs import graph_spec, to_onnx  # noqa: E402

BATCHES = (1, 2, 5)
SIZES = ((64, 64), (37, 53), (200, 312))


@pytest.fixture(scope="module", params=["code", "product"])
def whole(request, tmp_path_factory):
    """A network with all kinds of layers, and its graph."""
    torch.manual_seed(0)
    model = lively(PROFILES[request.param], extract_depth=1)
    path = tmp_path_factory.mktemp("tita") / "fusion.onnx"
    a, b = pair(2, 1, 138, 202)
    to_onnx(model, {"a": a, "b": b}, "fused", path, half=False)
    return model, path


@pytest.fixture(scope="module", params=["code", "product"])
def tiled(request, tmp_path_factory):
    """A network as short as possible, and its graphs of both passes."""
    torch.manual_seed(0)
    model = lively(PROFILES[request.param], extract_depth=1, fusion_depths=(1,), operations=("add", "mul"))
    folder = tmp_path_factory.mktemp("tita")
    sums, given = folder / "sums.onnx", folder / "given.onnx"
    a, b = pair(2, 1, 138, 202)
    to_onnx(FeatureSums(model), {"a": a, "b": b, "counted": a.round()}, "sums", sums, half=False)
    to_onnx(FuseGiven(model), {"a": a, "b": b, "mean": torch.rand(2, 24)}, "fused", given, half=False)
    return model, sums, given


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(graph, **inputs):
    return graph.run(None, {name: np.ascontiguousarray(value) for name, value in inputs.items()})[0]


def test_whole_images(whole):
    model, path = whole
    graph = session(path)
    for batch in BATCHES:
        for size in SIZES:
            a, b = pair(batch, 1, *size)
            with torch.no_grad():
                expected = model(a, b).numpy()
            assert expected.std() > 0.05
            assert np.abs(run(graph, a=a.numpy(), b=b.numpy()) - expected).max() <= 1e-4


def shapes(path):
    spec = graph_spec(path)
    return [{value["name"]: value["shape"] for value in spec[side]} for side in ("inputs", "outputs")]


def test_sizes_stay_open_in_the_signatures(whole, tiled):
    image, mean = ["N", 1, "H", "W"], ["N", 24]
    assert shapes(whole[1]) == [{"a": image, "b": image}, {"fused": image}]
    assert shapes(tiled[1]) == [{"a": image, "b": image, "counted": image}, {"sums": mean}]
    assert shapes(tiled[2]) == [{"a": image, "b": image, "mean": mean}, {"fused": image}]


@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_by_two_graphs_equal_the_whole(tiled, batch):
    """As a service does it, with arrays only; the image's sides are multiples of the window already."""
    model, sums, given = tiled[0], session(tiled[1]), session(tiled[2])
    halo, window = exact_halo(model.config), model.config.multiple
    height, width, tile = 9 * window, 11 * window, 7 * window
    a, b = (image.numpy() for image in pair(batch, 1, height, width))
    tiles = [
        (rows, columns)
        for rows in spans(height, tile=tile, halo=halo, window=window)
        for columns in spans(width, tile=tile, halo=halo, window=window)
    ]
    assert len(tiles) > 1
    total = 0.0
    for rows, columns in tiles:
        here = (..., rows.whole, columns.whole)
        counted = np.zeros_like(a[here])
        counted[..., rows.inside, columns.inside] = 1.0
        total = total + run(sums, a=a[here], b=b[here], counted=counted)
    fused = np.empty_like(a)
    for rows, columns in tiles:
        here = (..., rows.whole, columns.whole)
        part = run(given, a=a[here], b=b[here], mean=np.float32(total / (height * width)))
        fused[..., rows.own, columns.own] = part[..., rows.inside, columns.inside]
    with torch.no_grad():
        expected = model(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert np.abs(fused - expected).max() <= 1e-4
