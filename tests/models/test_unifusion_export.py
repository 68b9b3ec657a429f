"""Both ONNX graphs of UniFusion against PyTorch, at batches and sizes that the export did not see."""

import numpy as np
import pytest
import torch

from models.unifusion import PROFILES
from models.unifusion.graphs import EncoderGraph, FusionGraph
from tests.models.tiny_unifusion import inputs, lively

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

WHOLE_SIDES = 12  # in patches: the backbone sees reduced copies of the last two
CASES = [(batch, size) for batch in (1, 3) for size in ((64, 96), (37, 53), (64, 144), (33, 500))]


def export(module, given, output, path):
    N, H, W, h, w = (
        torch.export.Dim(name, min=low, max=4096) for name, low in (("N", 1), ("H", 32), ("W", 32), ("h", 2), ("w", 2))
    )
    shapes = {name: {0: N, 2: h, 3: w} if name.startswith("code") else {0: N, 2: H, 3: W} for name in given}
    torch.onnx.export(
        module.eval(),
        kwargs=given,
        f=path,
        dynamo=True,
        opset_version=18,
        input_names=list(given),
        output_names=[output],
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(graph, **given):
    return graph.run(None, {name: np.ascontiguousarray(value) for name, value in given.items()})[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return lively(PROFILES["light"], cross_blocks=1, whole_sides=WHOLE_SIDES)


def test_encoder(model, tmp_path):
    graph = export(EncoderGraph(model), {"image": torch.rand(2, 1, 138, 202)}, "code", tmp_path / "encoder.onnx")
    for batch, size in CASES:
        given = inputs(model, batch, size)
        assert np.abs(run(graph, image=given["a"].numpy()) - given["code_a"].numpy()).max() <= 1e-4


def test_fusion(model, tmp_path):
    graph = export(FusionGraph(model), inputs(model, 2, (138, 202)), "fused", tmp_path / "fusion.onnx")
    for batch, size in CASES:
        given = inputs(model, batch, size)
        with torch.no_grad():
            expected = model.fuse(**given, edit=torch.zeros(batch, 0)).numpy()
        assert expected.std() > 0.05
        fused = run(graph, **{name: x.numpy() for name, x in given.items()})
        assert fused.shape == (batch, 1, *size)
        assert np.abs(fused - expected).max() <= 1e-4
