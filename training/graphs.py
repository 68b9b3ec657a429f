"""The ONNX graphs of a bundle: export with dynamic sizes, float16 storage, and the comparison with PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from models.token_fusion import TokenFusionModel
from models.tokenizer import Tokenizer

OPSET = 18
PARITY_LIMIT = 1e-4
PARITY_CASES = ((1, 256, 256), (3, 256, 256), (1, 130, 77), (3, 130, 77), (1, 480, 640), (1, 481, 639))
CODE = "code"
"""Output of an encoder, and what the names of a fusion graph's inputs begin with that take it."""

_EXAMPLE = (2, 138, 202)
HALF_FROM = 256
"""Weights of fewer values are not worth a cast."""

HALF_LIMIT = 0.5 / 255
"""Largest change of a pixel that float16 storage may make: half a grey level."""


class Encode(nn.Module):
    """The model's ``encode`` as a module of its own, for export."""

    def __init__(self, model: TokenFusionModel) -> None:
        super().__init__()
        self.model, self.tokenizer = model, model.tokenizer

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, K, C)."""
        return self.model.encode(image)


class Fuse(nn.Module):
    """The model's ``fuse`` as a module of its own, for export."""

    def __init__(self, model: TokenFusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor, edit: Tensor) -> Tensor:
        """Two sources, two codes, strengths (N, S) -> (N, 1, H, W)."""
        return self.model.fuse(a, b, code_a, code_b, edit)


class FuseAtDefault(nn.Module):
    """The model's ``fuse`` at its default strength, for a bundle without edit slots."""

    def __init__(self, model: TokenFusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: Tensor, b: Tensor, code_a: Tensor, code_b: Tensor) -> Tensor:
        """Two sources, two codes -> (N, 1, H, W)."""
        edit = a.new_tensor(self.model.default_edit).expand(a.shape[0], -1)
        return self.model.fuse(a, b, code_a, code_b, edit)


def drawn_pair(size: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Two smooth noisy images (N, 1, H, W) for a batch, height and width, and the generator that drew them."""
    N, H, W = size
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(2 * N, 1, 9, 9, generator=generator)
    images = nn.functional.interpolate(smooth, size=(H, W), mode="bicubic", align_corners=False)
    images = (images + 0.1 * torch.rand(2 * N, 1, H, W, generator=generator)).clamp(0, 1)
    return images[:N].clone(), images[N:].clone(), generator


def example_inputs(model: TokenFusionModel, size: tuple[int, int, int], seed: int = 0) -> dict[str, Tensor]:
    """Inputs of ``fuse`` for a batch, height and width; every tensor distinct.

    One tensor passed under two names would be exported as one input, and the other name ignored.
    """
    a, b, generator = drawn_pair(size, seed)
    edit = 2.0 * torch.rand(size[0], len(model.slots), generator=generator)
    return {"a": a, "b": b, "code_a": model.encode(a), "code_b": model.encode(b), "edit": edit}


def store_half(graph: onnx.ModelProto) -> None:
    """Store large weights as float16, each cast to float32 where the graph begins: half the file, the same arithmetic.

    onnxruntime does the casts once, when it loads the graph. Weights that are no float16 values stay as they are: the
    exporter multiplies those of a convolution by the scale of a batch norm behind it.
    """
    casts = []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < HALF_FROM:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves, values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    rest = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*casts, *rest])


@torch.no_grad()
def round_weights(model: TokenFusionModel) -> float:
    """Round the network's weights to float16 values, in place; they stay float32. See ``round_to_half``."""
    inputs = example_inputs(model, _EXAMPLE)
    before = model.fuse(**inputs)
    model.ste.delta.mul_(0.999)  # rounded up, it would exceed its bound, and the largest strength fall below 2
    return round_to_half(model, before, lambda: model.fuse(**inputs))


@torch.no_grad()
def round_to_half(model: nn.Module, before: Tensor, fuse: Callable[[], Tensor]) -> float:
    """Round all weights and statistics to float16 values, in place; they stay float32.

    Args:
        model: The network.
        before: What ``fuse`` gave with the weights of the run.
        fuse: Fuses a drawn pair.

    Returns:
        The largest change of a fused image that this makes; a tokenizer is half precision already.

    Raises:
        RuntimeError: It exceeds half a grey level: export with ``--storage float32`` then.
    """
    for weight in model.state_dict().values():
        if weight.is_floating_point():
            weight.copy_(weight.half().float())
    change = float((fuse() - before).abs().max())
    if not change <= HALF_LIMIT:  # a weight beyond float16's range makes it NaN
        raise RuntimeError(f"float16 storage changes a pixel by {change:.2g}: export with --storage float32")
    return change


def to_onnx(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path, *, half: bool) -> None:
    """Export with N, H and W dynamic, and h and w of codes that are maps.

    Args:
        module: Takes ``inputs`` by name.
        inputs: Images (N, C, H, W), codes (N, C, h, w) whose names begin with ``code``, or tensors (N, …).
        output: Name of the one output.
        path: File.
        half: Store weights as float16.
    """
    N = torch.export.Dim("N", max=4096)
    image = {0: N, 2: torch.export.Dim("H", min=32), 3: torch.export.Dim("W", min=32)}
    code = {0: N, 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    shapes = {name: {0: N} if x.ndim != 4 else code if name.startswith(CODE) else image for name, x in inputs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    del graph.metadata_props[:]
    for node in graph.graph.node:  # the exporter leaves stack traces with local paths in every node
        del node.metadata_props[:]
        node.doc_string = ""
    for value in graph.graph.value_info:
        del value.metadata_props[:]
    for value in graph.graph.output:  # the exporter names them by how they were computed, e.g. Min(H, 8*((H + 7)//8))
        if len(dims := value.type.tensor_type.shape.dim) == 4:
            dims[2].dim_param, dims[3].dim_param = "hw" if output == CODE else "HW"
    if half:
        store_half(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def parity(model: TokenFusionModel, folder: Path, *, fixed: bool = False) -> dict[str, float]:
    """Largest absolute difference between PyTorch and ONNX Runtime (CPU) for each batch and size.

    Raises:
        RuntimeError: A difference exceeds 1e-4, or more than one token in 32 took another code.
    """
    encoder, fusion = (
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "fusion.onnx")
    )
    report = {}
    for case in PARITY_CASES:
        inputs = example_inputs(model, case, seed=sum(case))
        if fixed:
            inputs["edit"] = torch.tensor(model.default_edit).expand(case[0], -1)
        with torch.no_grad():
            expected = model.fuse(**inputs).numpy()
        arrays = {name: x.numpy() for name, x in inputs.items() if not (fixed and name == "edit")}
        label = "x".join(map(str, case))
        report[f"fusion {label}"] = float(np.abs(fusion.run(None, arrays)[0] - expected).max())
        code = encoder.run(None, {"image": arrays["a"]})[0]
        report |= code_parity(code, arrays["code_a"], label)
    check_parity({name: value for name, value in report.items() if not name.startswith("other codes")})
    return report


def check_parity(differences: Mapping[str, float]) -> None:
    """Refuse a graph that differs from PyTorch by more than 1e-4 anywhere.

    Raises:
        RuntimeError: The message names the worst case.
    """
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    if not differences[worst] <= PARITY_LIMIT:  # NaN is no agreement
        raise RuntimeError(f"ONNX and PyTorch differ by {differences[worst]:.2g} ({worst}), limit {PARITY_LIMIT}")


def code_parity(code: NDArray[np.float32], expected: NDArray[np.float32], label: str) -> dict[str, float]:
    """Largest difference of the codes (N, K, C), and how many tokens took another code, if any.

    Two codes can be equally near to a token; rounding then decides. One such token of 32 is no fault.

    Raises:
        RuntimeError: More tokens than that differ.
    """
    per_token = np.abs(code - expected).max(axis=2)
    flipped = ~(per_token <= PARITY_LIMIT)  # NaN is no agreement
    if flipped.mean() > 1 / 32:
        raise RuntimeError(f"ONNX and PyTorch choose other codes for {flipped.mean():.0%} of the tokens ({label})")
    report = {f"encoder {label}": float(per_token[~flipped].max())}
    if flipped.any():
        report[f"other codes {label}"] = float(flipped.sum())
    return report


def graph_spec(path: Path) -> dict[str, Any]:
    """Interface of a graph for the card: inputs and outputs with their shapes, dynamic axes by name."""
    graph = onnx.load(str(path), load_external_data=False).graph

    def specs(values: Any) -> list[dict[str, Any]]:
        rows = []
        for value in values:
            dims = value.type.tensor_type.shape.dim
            rows.append({"name": value.name, "dtype": "float32", "shape": [d.dim_param or d.dim_value for d in dims]})
        return rows

    return {"file": path.name, "inputs": specs(graph.input), "outputs": specs(graph.output)}


def is_half(tokenizer: Tokenizer) -> bool:
    """Whether all weights are float16 values, so that storing them as such changes nothing."""
    return all(torch.equal(weight, weight.half().float()) for weight in tokenizer.parameters())


def write_weights(model: TokenFusionModel, folder: Path, *, half: bool, fixed: bool) -> None:
    """Write both graphs and both weight files of a bundle."""
    inputs = example_inputs(model, _EXAMPLE)
    to_onnx(Encode(model), {"image": inputs["a"]}, "code", folder / "encoder.onnx", half=half)
    if fixed:
        del inputs["edit"]
    to_onnx(FuseAtDefault(model) if fixed else Fuse(model), inputs, "fused", folder / "fusion.onnx", half=half)
    for name, part in (("fusion", model), ("tokenizer", model.tokenizer)):
        save_weights(part.state_dict(), folder / f"{name}.safetensors", half=half)


def save_weights(weights: Mapping[str, Tensor], path: Path, *, half: bool) -> None:
    """Write the weights of a network as safetensors; counters keep their type."""
    dtype = torch.float16 if half else torch.float32
    kept = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    save_file({key: value.contiguous() for key, value in kept.items()}, str(path))
