"""One export of the paper-type network, at small width, against PyTorch at several batches and sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.titok_ste import PROFILES, TiTokSTE

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NAMES = ("a", "b", "code_a", "code_b", "edit")


class Fuse(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, a, b, code_a, code_b, edit):
        return self.model.fuse(a, b, code_a, code_b, edit)


def inputs(model, batch, size, edit=None):
    a, b = torch.rand(2, batch, 1, *size)
    edit = 2.5 * torch.rand(batch, 2) - 0.25 if edit is None else edit
    return a, b, model.encode(a), model.encode(b), edit


@pytest.fixture(scope="module", params=["paper", "product"])
def exported(request, tmp_path_factory, make_tokenizer, slots):
    torch.manual_seed(0)
    config = replace(PROFILES[request.param], width=8, heads=4, stem_blocks=1, decoder_blocks=1, detail_nodes=1)
    model = TiTokSTE(make_tokenizer(), slots, config).eval()
    with torch.no_grad():  # the residual as large as after training, so that its errors show
        model.head[-1].weight.mul_(20)
        model.ste.delta.normal_(0, 0.4)
        if model.config.gains:
            model.head[-1].weight.normal_(0, 0.01)
        if model.style is not None:
            model.style.weight.normal_(0, 0.02)
    path = tmp_path_factory.mktemp("onnx") / "fusion.onnx"
    N, H, W = (
        torch.export.Dim(name, min=low, max=high)
        for name, low, high in (("N", 1, 64), ("H", 32, 8192), ("W", 32, 8192))
    )
    torch.onnx.export(
        Fuse(model).eval(),
        inputs(model, 2, (64, 96)),
        path,
        dynamo=True,
        opset_version=18,
        input_names=NAMES,
        output_names=("fused",),
        dynamic_shapes=({0: N, 2: H, 3: W}, {0: N, 2: H, 3: W}, {0: N}, {0: N}, {0: N}),
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return model, session


def run(session, values):
    return session.run(None, {name: value.numpy() for name, value in zip(NAMES, values, strict=True)})[0]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(256, 256), (130, 77), (480, 640)])
def test_parity(exported, batch, size):
    model, session = exported
    values = inputs(model, batch, size)
    with torch.no_grad():
        expected = model.fuse(*values).numpy()
    fused = run(session, values)
    assert fused.shape == (batch, 1, *size)
    assert expected.std() > 0.05
    assert np.abs(fused - expected).max() <= 1e-4


def test_clips_are_in_the_graph(exported):
    model, session = exported
    values = inputs(model, 1, (64, 64), torch.tensor([[50.0, -50.0]]))
    bounded = (*values[:4], torch.tensor([[2.0, 0.0]]))
    fused = run(session, values)
    assert np.abs(fused - run(session, bounded)).max() <= 1e-6
    assert fused.min() >= 0
    assert fused.max() <= 1


def test_strength_acts_in_the_graph(exported):
    model, session = exported
    zero = inputs(model, 1, (64, 64), torch.zeros(1, 2))
    assert np.abs(run(session, zero) - run(session, (*zero[:4], torch.ones(1, 2)))).max() > 1e-4


def test_sizes_stay_open_in_the_signature(exported):
    _, session = exported
    shapes = {value.name: value.shape for value in [*session.get_inputs(), *session.get_outputs()]}
    assert shapes["a"] == shapes["b"] == ["N", 1, "H", "W"]
    assert [isinstance(size, str) for size in shapes["fused"]] == [True, False, True, True]
    assert shapes["code_a"] == shapes["code_b"] == ["N", 32, 12]
    assert shapes["edit"] == ["N", 2]
