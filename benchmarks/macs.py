"""Counts the multiply-adds of an ONNX graph at given input shapes.

Shapes come from one real run, not from shape inference: inference stops at the first size that is computed
inside the graph. Each operand of a counted node gets a ``Shape`` node, and only these few integers leave
the run, so it needs no more memory than a plain run. Counted are convolutions and matrix products; scaling,
normalisation, activations and resizing are not, as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from app.onnx_backend import import_runtime
from benchmarks.errors import BenchError

Shape = tuple[int, ...]
PREFIX = "benchmark_shape_of_"
# These multiply too, but nothing here counts them: better no number than one that is silently too small.
UNCOUNTED = frozenset(
    {"Attention", "ConvInteger", "DeformConv", "Einsum", "GRU", "GroupQueryAttention", "LSTM", "MatMulInteger"}
    | {"MultiHeadAttention", "QLinearConv", "QLinearMatMul", "RNN"}
)


def _convolution(node: Any, inputs: list[Shape], output: Shape) -> int:
    # The weight is (out, in / groups, *kernel): every output value is one product over all but the first.
    return math.prod(output) * math.prod(inputs[1][1:])


def _transposed(node: Any, inputs: list[Shape], output: Shape) -> int:
    # The weight is (in, out / groups, *kernel): every input value is spread over all but the first.
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _general_product(node: Any, inputs: list[Shape], output: Shape) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * inputs[0][0 if transposed else 1]


def _product(node: Any, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1]


COUNTERS: dict[str, Callable[[Any, list[Shape], Shape], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _general_product,
    "MatMul": _product,
}


def count_macs(graph: Path | bytes, feed: Mapping[str, NDArray[Any]]) -> int:
    """Returns the multiply-adds of one run.

    Args:
        graph: The ONNX file, or its bytes.
        feed: Input arrays; their shapes decide, their values do not.

    Raises:
        BenchError: The graph multiplies in a way that is not counted here.
    """
    model = onnx.load_from_string(graph) if isinstance(graph, bytes) else onnx.load(graph)
    nodes = _counted_nodes(model)
    shapes = _shapes(model, [name for node in nodes for name in _operands(node)], feed)
    return sum(
        COUNTERS[node.op_type](node, [shapes[name] for name in node.input[:2]], shapes[node.output[0]])
        for node in nodes
    )


def _operands(node: Any) -> list[str]:
    return [*node.input[:2], node.output[0]]


def _counted_nodes(model: Any) -> list[Any]:
    bodies = [item for node in model.graph.node for item in node.attribute if item.HasField("g")]
    inner = [node.op_type for item in bodies for node in item.g.node]
    inner += [node.op_type for function in model.functions for node in function.node]
    hidden = sorted(set(inner) & (COUNTERS.keys() | UNCOUNTED))
    if hidden:
        raise BenchError(f"cannot count {', '.join(hidden)} inside a loop, branch or function")
    unknown = sorted({node.op_type for node in model.graph.node} & UNCOUNTED)
    if unknown:
        raise BenchError(f"cannot count {', '.join(unknown)}")
    return [node for node in model.graph.node if node.op_type in COUNTERS]


def _shapes(model: Any, names: list[str], feed: Mapping[str, NDArray[Any]]) -> dict[str, Shape]:
    """Runs the model once and returns the shape of each named tensor."""
    unique = list(dict.fromkeys(names))
    if not unique:
        return {}
    del model.graph.output[:]
    for name in unique:
        model.graph.node.append(helper.make_node("Shape", [name], [PREFIX + name]))
        model.graph.output.append(helper.make_tensor_value_info(PREFIX + name, TensorProto.INT64, None))
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    used = {tensor.name for tensor in session.get_inputs()}
    found = session.run(None, {name: value for name, value in feed.items() if name in used})
    return {name: tuple(int(side) for side in np.ravel(shape)) for name, shape in zip(unique, found, strict=True)}
