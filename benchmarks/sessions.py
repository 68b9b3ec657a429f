"""Opens onnxruntime sessions for measuring, and builds the reference convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.onnx_backend import import_runtime

# Channels, height, width: two widths that fusion networks use, each in and out of a core's cache.
CONVOLUTIONS = ((32, 240, 320), (32, 480, 640), (64, 240, 320), (64, 480, 640))
KERNEL = 3
OPSET = 18
IR_VERSION = 10


def open_session(graph: Path | bytes, threads: int, *, spinning: bool) -> Any:
    """Opens a graph on the CPU with onnxruntime's own defaults, but for the spinning.

    Args:
        graph: The ONNX file, or its bytes.
        threads: Threads of one run.
        spinning: Whether idle threads spin during a run. After it they never do, so that they do not take
            the cores from what is measured next.
    """
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def convolution_graph(channels: int) -> bytes:
    """Returns a graph with one padded 3×3 convolution, as many channels out as in."""
    generator = np.random.default_rng(channels)
    weight = generator.standard_normal((channels, channels, KERNEL, KERNEL), dtype=np.float32)
    shape = [1, channels, "H", "W"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[KERNEL, KERNEL], pads=[1, 1, 1, 1])],
        "reference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


def convolution_macs(channels: int, height: int, width: int) -> int:
    """Returns the multiply-adds of the reference convolution, its border counted like the rest."""
    return channels * channels * KERNEL * KERNEL * height * width


def convolution_input(channels: int, height: int, width: int) -> NDArray[np.float32]:
    """Returns random planes (1, C, H, W)."""
    return np.random.default_rng(0).random((1, channels, height, width), dtype=np.float32)
