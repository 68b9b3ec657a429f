"""A bundle with tiles whose result NumPy can compute, and the three graphs of any TITA network as a bundle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from onnx import helper

from tests.conftest import IMAGE, constant, describe, make_card, make_graph

MEAN = ["N", 2]
GEOMETRY = {"multiple": 8, "above_pixels": 4096, "tile": 48, "halo_sums": 8, "halo": 16}


def feature_nodes():
    """Features (N, 2, H, W): both images blurred over 3 × 3 pixels, with zeros beyond the border."""
    blur = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    return [
        helper.make_node("Concat", ["a", "b"], ["sources"], axis=1),
        helper.make_node("AveragePool", ["sources"], ["features"], **blur),
    ]


def fusing_nodes(signs=(1, -1)):
    """fused = clip((blurred a + blurred b) / 2 + mean of all blurred a - mean of all blurred b), by default."""
    nodes = [
        helper.make_node("ReduceMean", ["features", "channels"], ["half_sum"], keepdims=1),
        helper.make_node("Mul", ["mean", "signs"], ["signed"]),
        helper.make_node("ReduceSum", ["signed", "channels"], ["shift"], keepdims=1),
        helper.make_node("Reshape", ["shift", "scalar_shape"], ["scalar"]),
        helper.make_node("Add", ["half_sum", "scalar"], ["raw"]),
        helper.make_node("Clip", ["raw", "zero", "one"], ["fused"]),
    ]
    constants = [
        constant("channels", [1], np.int64),
        constant("signs", signs),
        constant("scalar_shape", [-1, 1, 1, 1], np.int64),
        constant("zero", 0),
        constant("one", 1),
    ]
    return nodes, constants


def blur_graphs():
    """Returns fusion.onnx, sums.onnx and given.onnx."""
    images, result = {"a": IMAGE, "b": IMAGE}, {"fused": IMAGE}
    area = [constant("area", [2, 3], np.int64)]
    nodes, constants = fusing_nodes()
    whole = [*feature_nodes(), helper.make_node("ReduceMean", ["features", "area"], ["mean"], keepdims=0), *nodes]
    sums = [
        *feature_nodes(),
        helper.make_node("Mul", ["features", "counted"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "area"], ["sums"], keepdims=0),
    ]
    return {
        "fusion": make_graph(images, result, whole, constants + area),
        "sums": make_graph(images | {"counted": IMAGE}, {"sums": MEAN}, sums, area),
        "given": make_graph(images | {"mean": MEAN}, result, [*feature_nodes(), *nodes], constants),
    }


def blurred(image):
    rows = np.pad(image, 1)
    return sum(rows[y : y + image.shape[0], x : x + image.shape[1]] for y in range(3) for x in range(3)) / 9


def expected_fusion(a, b, multiple=GEOMETRY["multiple"]):
    """What the blur bundle makes of two planes (H, W), by NumPy on the whole padded image in float64."""
    height, width = a.shape
    padding = [(0, -height % multiple), (0, -width % multiple)]
    x, y = (blurred(np.pad(image.astype(np.float64), padding, mode="symmetric")) for image in (a, b))
    return np.clip((x + y) / 2 + x.mean() - y.mean(), 0, 1)[:height, :width]


def write_tiled_bundle(weights: Path, name: str, graphs: dict[str, bytes] | None = None, **geometry: int) -> Path:
    """Writes a bundle with tiles and returns its folder; without graphs it is the blur bundle."""
    graphs = graphs or blur_graphs()
    folder = weights / name
    folder.mkdir(parents=True)
    card = make_card(name, graphs["fusion"], None, [])
    card["tiling"] = GEOMETRY | geometry
    for part, content in graphs.items():
        file = f"{part}.onnx"
        (folder / file).write_bytes(content)
        card["files"][file] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        if part != "fusion":
            card["tiling"][part] = describe(content, file)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def planes(*size, seed=0):
    """Two images (N, 1, H, W) of different mean, not constant anywhere."""
    noise = np.random.default_rng(seed).random((2, *size), np.float32)
    return {"a": 0.2 + 0.4 * noise[0], "b": 0.1 + 0.4 * noise[1]}
