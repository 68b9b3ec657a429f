"""Small real bundles for tests: ONNX graphs whose result can be computed by hand."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

FLOAT = TensorProto.FLOAT
IMAGE = ["N", 1, "H", "W"]
REAL_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
REAL_MODEL = "titok-ste-lite"

Slot = tuple[str, float, float]


def constant(name: str, value: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def make_graph(
    inputs: dict[str, list],
    outputs: dict[str, list],
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
) -> bytes:
    """Serialises a float graph of opset 18; inputs and outputs map names to shapes."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def mean_nodes() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["sum", "half"], ["mean"])]
    return nodes, [constant("half", 0.5)]


def plain_graph() -> bytes:
    """Returns the graph fused = (a + b) / 2."""
    nodes, constants = mean_nodes()
    nodes[-1].output[0] = "fused"
    return make_graph({"a": IMAGE, "b": IMAGE}, {"fused": IMAGE}, nodes, constants)


def slice_nodes(slots: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Splits edit (N, S) into slot_0 … (N, 1, 1, 1)."""
    outputs = [f"column_{index}" for index in range(slots)]
    nodes = [helper.make_node("Split", ["edit"], outputs, axis=1, num_outputs=slots)]
    for index in range(slots):
        nodes.append(helper.make_node("Reshape", [outputs[index], "scalar_shape"], [f"slot_{index}"]))
    return nodes, [constant("scalar_shape", [-1, 1, 1, 1], np.int64)]


def coded_graph() -> bytes:
    """Returns fused = clip((a + b) / 2 + (sharpen - 1) code_a / 4 - (smooth - 1) code_b / 4)."""
    nodes, constants = mean_nodes()
    more_nodes, more_constants = slice_nodes(2)
    nodes += more_nodes
    for index, code in enumerate(("code_a", "code_b")):
        nodes += [
            helper.make_node("Sub", [f"slot_{index}", "one"], [f"shift_{index}"]),
            helper.make_node("Reshape", [code, "scalar_shape"], [f"code_{index}"]),
            helper.make_node("Mul", [f"shift_{index}", f"code_{index}"], [f"product_{index}"]),
            helper.make_node("Mul", [f"product_{index}", "quarter"], [f"term_{index}"]),
        ]
    nodes += [
        helper.make_node("Add", ["mean", "term_0"], ["brighter"]),
        helper.make_node("Sub", ["brighter", "term_1"], ["raw"]),
        helper.make_node("Clip", ["raw", "zero", "one"], ["fused"]),
    ]
    constants += [*more_constants, constant("one", 1), constant("zero", 0), constant("quarter", 0.25)]
    inputs = {"a": IMAGE, "b": IMAGE, "code_a": ["N", 1, 1], "code_b": ["N", 1, 1], "edit": ["N", 2]}
    return make_graph(inputs, {"fused": IMAGE}, nodes, constants)


def mean_encoder() -> bytes:
    """Returns the encoder code = mean of the image, (N, 1, 1)."""
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["pooled"], keepdims=1),
        helper.make_node("Reshape", ["pooled", "shape"], ["code"]),
    ]
    constants = [constant("axes", [2, 3], np.int64), constant("shape", [-1, 1, 1], np.int64)]
    return make_graph({"image": IMAGE}, {"code": ["N", 1, 1]}, nodes, constants)


def moody_graph() -> bytes:
    """Returns fused = (a + b) / 2, after ``delay`` × 1000 rounds of a loop; ``fault`` ≥ 1 fails the run."""
    nodes, constants = mean_nodes()
    more_nodes, more_constants = slice_nodes(2)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on_in"], ["go_on_out"]),
            helper.make_node("MatMul", ["state_in", "matrix"], ["state_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", FLOAT, [64, 64]),
        ],
    )
    nodes += more_nodes
    for index, scale in enumerate(("thousand", "one")):
        nodes += [
            helper.make_node("ReduceMax", [f"slot_{index}"], [f"largest_{index}"], keepdims=0),
            helper.make_node("Mul", [f"largest_{index}", scale], [f"scaled_{index}"]),
            helper.make_node("Cast", [f"scaled_{index}"], [f"whole_{index}"], to=TensorProto.INT64),
        ]
    nodes += [
        helper.make_node("Loop", ["whole_0", "yes", "matrix"], ["state"], body=body),
        helper.make_node("ReduceMean", ["state"], ["state_mean"], keepdims=0),
        helper.make_node("Mul", ["state_mean", "zero"], ["nothing_0"]),
        helper.make_node("Gather", ["one_zero", "whole_1"], ["nothing_1"]),  # Index 1 or more is out of bounds.
        helper.make_node("Add", ["mean", "nothing_0"], ["after_delay"]),
        helper.make_node("Add", ["after_delay", "nothing_1"], ["fused"]),
    ]
    constants += [*more_constants, constant("thousand", 1000), constant("one", 1), constant("zero", 0)]
    constants += [constant("one_zero", [0]), constant("yes", True, np.bool_), constant("matrix", np.eye(64))]
    return make_graph({"a": IMAGE, "b": IMAGE, "edit": ["N", 2]}, {"fused": IMAGE}, nodes, constants)


def describe(content: bytes, file: str) -> dict:
    graph = onnx.load_from_string(content).graph
    initial = {tensor.name for tensor in graph.initializer}

    def spec(value: onnx.ValueInfoProto) -> dict:
        axes = value.type.tensor_type.shape.dim
        return {
            "name": value.name,
            "dtype": "float32",
            "shape": [axis.dim_param or axis.dim_value for axis in axes],
        }

    inputs = [spec(value) for value in graph.input if value.name not in initial]
    return {"file": file, "inputs": inputs, "outputs": [spec(value) for value in graph.output]}


def make_card(name: str, fusion: bytes, encoder: bytes | None, slots: list[Slot]) -> dict:
    files = {"fusion.onnx": fusion} | ({"encoder.onnx": encoder} if encoder else {})
    return {
        "card_version": 1,
        "name": name,
        "title": f"Test model {name}",
        "summary": "Averages the pair.",
        "paper": {"title": "None", "venue": "None", "url": "https://example.org"},
        "tasks": [{"name": "any", "image_a": "First image.", "image_b": "Second image."}],
        "opset": 18,
        "files": {
            file: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for file, content in files.items()
        },
        "fusion": describe(fusion, "fusion.onnx"),
        "encoder": describe(encoder, "encoder.onnx") if encoder else None,
        "edit_slots": [
            {"name": slot, "default": default, "max": maximum, "meaning": f"Strength of {slot}."}
            for slot, default, maximum in slots
        ],
        "size": {"multiple": 1, "min_side": 32, "max_pixels": 16_700_000},
        "parameters": {"fusion": 0},
        "macs": {"fusion": 0.0},
        "training": {"data": [], "runs": []},
        "licence": "Apache-2.0",
        "limits": ["For tests only."],
    }


def write_bundle(
    weights: Path, name: str, fusion: bytes, encoder: bytes | None = None, slots: list[Slot] | None = None
) -> Path:
    """Writes a valid bundle and returns its folder."""
    folder = weights / name
    folder.mkdir(parents=True)
    (folder / "fusion.onnx").write_bytes(fusion)
    if encoder is not None:
        (folder / "encoder.onnx").write_bytes(encoder)
    (folder / "card.json").write_text(json.dumps(make_card(name, fusion, encoder, slots or [])))
    return folder


BUNDLES: dict[str, Callable[[Path], Path]] = {
    "coded": lambda weights: write_bundle(
        weights, "coded", coded_graph(), mean_encoder(), [("sharpen", 1, 2), ("smooth", 1, 2)]
    ),
    "moody": lambda weights: write_bundle(weights, "moody", moody_graph(), None, [("delay", 0, 1e6), ("fault", 0, 2)]),
    "plain": lambda weights: write_bundle(weights, "plain", plain_graph()),
}


@pytest.fixture
def bundle_writers() -> dict[str, Callable[[Path], Path]]:
    """Functions that write each kind of bundle into a weights folder."""
    return BUNDLES


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with the bundles coded (the default by name), moody and plain."""
    folder = tmp_path_factory.mktemp("weights")
    for write in BUNDLES.values():
        write(folder)
    return folder


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The weights folder of the clone."""
    if not (REAL_WEIGHTS / REAL_MODEL / "card.json").is_file():
        pytest.fail(f"weights/{REAL_MODEL} is not in this clone: it is part of the repository")
    return REAL_WEIGHTS


def make_picture(height: int, width: int, seed: int, *, color: bool) -> np.ndarray:
    """Returns a smooth random picture (H, W) or (H, W, 3), uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image if color else image.convert("L"))


def make_file(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Encodes pixels or a Pillow image with Pillow."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    return make_picture


@pytest.fixture(scope="session")
def to_file() -> Callable[..., bytes]:
    return make_file


@pytest.fixture(scope="session")
def pair() -> tuple[bytes, bytes]:
    """A colour and a grey PNG of 64×48."""
    return make_file(make_picture(48, 64, 1, color=True)), make_file(make_picture(48, 64, 2, color=False))
