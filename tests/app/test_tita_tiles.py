"""A small TITA network as a bundle: tiles by the service equal PyTorch on the whole image."""

import numpy as np
import pytest
import torch

from app.bundles import read_bundle
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings
from tests.app.tiled_bundle import write_tiled_bundle

pytest.importorskip("onnxscript")

from models.tita.graphs import FeatureSums, FuseGiven
from models.tita.tiling import exact_halo
from tests.models.tiny_tita import lively, pair
from training.graphs import to_onnx


@pytest.fixture(scope="module")
def tita(tmp_path_factory):
    """A network as short as possible, and the backend of its bundle."""
    torch.manual_seed(2)  # Of which little is black or white.
    model = lively(extract_depth=1, fusion_depths=(1,), operations=("add", "mul"))
    folder = tmp_path_factory.mktemp("tita")
    a, b = pair(2, 1, 138, 202)
    width = 2 * model.config.dim
    modules = {
        "fusion": (model, {}),
        "sums": (FeatureSums(model), {"counted": a.round()}),
        "given": (FuseGiven(model), {"mean": torch.rand(2, width)}),
    }
    graphs = {}
    for part, (module, extra) in modules.items():
        path = folder / f"{part}.onnx"
        to_onnx(module, {"a": a, "b": b} | extra, "sums" if part == "sums" else "fused", path, half=False)
        graphs[part] = path.read_bytes()
    multiple = model.pad(torch.zeros(1, 1, 65, 65)).shape[-1] - 64
    halo = exact_halo(model.config)
    bundle = write_tiled_bundle(
        folder / "weights",
        "tita",
        graphs,
        multiple=multiple,
        above_pixels=150 * 150,
        tile=2 * halo + 3 * multiple,
        halo=halo,
        halo_sums=exact_halo(model.config, features=True),
    )
    return model, OnnxBackend(read_bundle(bundle), Settings(device="cpu", threads=1))


@pytest.mark.parametrize("size", [(151, 203), (40, 640)])
def test_tiles_equal_pytorch_on_the_whole_image(tita, size):
    model, backend = tita
    a, b = pair(2, 1, *size)
    a[..., : size[1] // 2] *= 0.2  # Tiles with other means than the whole.
    asked = []
    tiled = backend.fuse({"a": a.numpy(), "b": b.numpy()}, Run(pause=lambda: asked.append(1)))
    assert len(asked) > 4
    with torch.no_grad():
        expected = model(a, b).numpy()
    assert ((expected > 0) & (expected < 1)).mean() > 0.5
    assert np.abs(tiled - expected).max() <= 1e-5


def test_the_fusion_graph_agrees_below_and_above_the_limit(tita):
    inputs = {name: image.numpy() for name, image in zip("ab", pair(1, 1, 160, 170), strict=True)}
    np.testing.assert_allclose(tita[1].fuse_whole(inputs, Run()), tita[1].fuse_in_tiles(inputs, Run()), atol=1e-5)
