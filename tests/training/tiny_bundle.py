"""Bundles small enough for tests: ONNX graphs written as text."""

import hashlib
import json

import numpy as np
import pytest


def grey(seed, shape=(48, 60)):
    return np.random.default_rng(seed).integers(20, 236, shape).astype(np.uint8)


MEAN = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,1,H,W] a, float[N,1,H,W] b) => (float[N,1,H,W] fused) <float half = {0.5}> {
  sum = Add(a, b)
  fused = Mul(sum, half)
}"""
# The mean plus g_sharpen · 0.2 times a high-pass; the code of a is read, but adds nothing.
EDITED = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,1,H,W] a, float[N,1,H,W] b, float[N,1,1,1] code_a, float[N,2] edit) => (float[N,1,H,W] fused)
<float half = {0.5}, float[2,1] gain = {0.2, 0.0}, int64[2] axes = {2, 3},
 float[1,1,3,3] kernel = {0.0, -0.125, 0.0, -0.125, 0.5, -0.125, 0.0, -0.125, 0.0}> {
  sum = Add(a, b)
  mean = Mul(sum, half)
  high = Conv<pads = [1, 1, 1, 1]>(mean, kernel)
  g = MatMul(edit, gain)
  g4 = Unsqueeze(g, axes)
  detail = Mul(high, g4)
  zero = Sub(code_a, code_a)
  detail0 = Add(detail, zero)
  fused = Add(mean, detail0)
}"""
# Half the mean of the pair and half the code of b, which is the mean level of b.
TOKENS = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,1,H,W] a, float[N,1,H,W] b, float[N,1,1,1] code_b) => (float[N,1,H,W] fused)
<float quarter = {0.25}, float half = {0.5}> {
  sum = Add(a, b)
  image = Mul(sum, quarter)
  tone = Mul(code_b, half)
  fused = Add(image, tone)
}"""
ENCODER = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,1,H,W] image) => (float[N,1,1,1] code) { code = GlobalAveragePool(image) }"""


def make_bundle(folder, *, edit=False, tokens=False, name=None):
    """A bundle that returns the mean of both images, with ``edit`` a sharpened one, with ``tokens`` see TOKENS.

    It is called as its folder unless ``name`` is given.
    """
    parser = pytest.importorskip("onnx.parser")
    pytest.importorskip("onnxruntime")
    folder.mkdir(parents=True)
    graphs = {"fusion.onnx": EDITED if edit else TOKENS if tokens else MEAN}
    if edit or tokens:
        graphs["encoder.onnx"] = ENCODER
    files = {}
    for file, text in graphs.items():
        content = parser.parse_model(text).SerializeToString()
        (folder / file).write_bytes(content)
        files[file] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    names = ["a", "b", *(["code_a", "edit"] if edit else ["code_b"] if tokens else [])]
    slots = [{"name": "sharpen", "default": 1.0, "max": 2.0}, {"name": "smooth", "default": 1.0, "max": 1.5}]
    card = {
        "name": name or folder.name,
        "title": "Mittel über zwei Bilder",
        "files": files,
        "fusion": {"file": "fusion.onnx", "inputs": [{"name": each} for each in names]},
        "encoder": {"file": "encoder.onnx"} if edit or tokens else None,
        "edit_slots": slots if edit else [],
        "size": {"min_side": 32, "max_pixels": 4096},
        "evaluation": [],
        "limits": [],
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder
