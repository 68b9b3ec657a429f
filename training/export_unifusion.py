"""Write the bundle of a UniFusion run: encoder and fusion graph, weights of network and backbone, card.

The reconstruction heads stay in the run: they were for training only.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from models.unifusion import SmallViT, UniFusion
from models.unifusion.graphs import EncoderGraph, FusionGraph
from training.backbone_files import read_record
from training.bundle import data_record, file_record, new_bundle, training_record, write_card
from training.card_text import CardText
from training.curves import read_curves
from training.data.images import DataError
from training.graphs import OPSET, check_parity, drawn_pair, graph_spec, round_to_half, save_weights, to_onnx
from training.macs import count_macs
from training.run import CHECKPOINT
from training.unifusion import load_trained
from training.unifusion_recipe import UniFusionRecipe
from training.unifusion_validation import USE

PARITY_BATCHES = (1, 3)
PARITY_SIZES = ((64, 64), (37, 53), (200, 312), (480, 640), (768, 1024))

_EXAMPLE = (2, 138, 202)


def export_unifusion(
    run: Path, text: CardText, folder: Path, *, half: bool = True, checkpoint: str = CHECKPOINT
) -> None:
    """Write the whole bundle.

    Args:
        run: Run folder of ``python -m training unifusion``.
        text: Words of the card.
        folder: The bundle.
        half: Store weights as float16; arithmetic is float32 either way.
        checkpoint: Which checkpoint of the run.

    Raises:
        RuntimeError: ONNX and PyTorch disagree, or float16 storage changes the picture.
        DataError: The folder holds no such run, or one without a backbone, or one whose backbone must not be passed on.
    """
    model, state = load_trained(run, checkpoint=checkpoint)
    if model.backbone is None:
        raise DataError(f"{run} trained an encoder of its own: only a network around a backbone makes a bundle")
    if not isinstance(model.backbone, SmallViT):
        raise DataError(f"{run} was not trained on a backbone of this project: a bundle would pass on its weights")
    a, b, _ = drawn_pair(_EXAMPLE, seed=0)
    extra: dict[str, Any] = {"profile": state["profile"], "network": state["network"]}
    if half:
        with torch.no_grad():
            before = model(a, b)
            round_to_half(model.backbone, before, lambda: model(a, b))
            extra["float16_storage_change"] = round_to_half(model, before, lambda: model(a, b))
    extra["backbone"] = {**model.identity(), **asdict(model.backbone.config)}  # of the weights that the bundle holds
    extra["validation"] = last_validation(run, state)
    with new_bundle(folder) as made:
        write_graphs(model, made, half=half)
        save_weights(model.state_dict(), made / "fusion.safetensors", half=half)
        save_weights(model.backbone.state_dict(), made / "backbone.safetensors", half=half)
        write_card(make_card(model, text, made, whole_training(run, text, state), extra), made)


def whole_training(run: Path, text: CardText, state: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The card's training section: what the backbone was trained on, unless its weights are random, and the network."""
    training = training_record(text, run, state, "fusion")
    path = UniFusionRecipe.model_validate_json(state["recipe"]).backbone.path
    if path is not None:
        backbone = read_record(path)
        training["data"] = data_record(text, backbone["data"], "backbone") + training["data"]
        training["runs"].insert(0, backbone["run"])
    return training


def last_validation(run: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the run last found about its backbone's use and its reconstructions, by task; see ``backbone_use``."""
    shown = UniFusionRecipe.model_validate_json(state["recipe"]).validation
    found: dict[str, Any] = {"side": shown.side, "pairs": shown.pairs}
    for name, (_, values) in read_curves(run).items():
        if name.startswith("val/") and name.endswith(USE):
            _, task, key = name.split("/")
            found.setdefault(task, {})[key] = round(values[-1], 3)
    return found


@torch.no_grad()
def write_graphs(model: UniFusion, folder: Path, *, half: bool) -> None:
    """Export ``encoder.onnx`` and ``fusion.onnx``, both with open batch and size."""
    inputs = _inputs(model, _EXAMPLE, seed=0)
    to_onnx(EncoderGraph(model), {"image": inputs["a"]}, "code", folder / "encoder.onnx", half=half)
    to_onnx(FusionGraph(model), inputs, "fused", folder / "fusion.onnx", half=half)


def make_card(
    model: UniFusion, text: CardText, folder: Path, training: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    """The card of a bundle whose other files are written.

    Raises:
        RuntimeError: ONNX and PyTorch disagree.
    """
    assert isinstance(model.backbone, SmallViT)
    per_pixel, per_image = count_macs(deepcopy(model).to("meta"), 480, 640)
    files = ("encoder.onnx", "fusion.onnx", "fusion.safetensors", "backbone.safetensors")
    return {
        "card_version": 1,
        **text.model_dump(include={"name", "title", "summary", "paper", "tasks"}),
        "opset": OPSET,
        "files": {name: file_record(folder / name) for name in files},
        "fusion": graph_spec(folder / "fusion.onnx"),
        "encoder": graph_spec(folder / "encoder.onnx"),
        "edit_slots": [],
        "size": text.size,
        "parameters": {
            "fusion": sum(p.numel() for p in model.parameters()),
            "backbone": sum(p.numel() for p in model.backbone.parameters()),
        },
        "macs": {"fuse_per_pixel": per_pixel, "encode_per_image": per_image},
        "training": training,
        "evaluation": [],
        "parity": parity(model, folder),
        "extra": {**extra, **text.extra},
        **text.model_dump(include={"licence", "limits"}),
    }


@torch.no_grad()
def parity(model: UniFusion, folder: Path) -> dict[str, float]:
    """Largest absolute difference between PyTorch and ONNX Runtime (CPU) for each batch and size.

    Raises:
        RuntimeError: One exceeds 1e-4.
    """
    encoder, fusion = (
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "fusion.onnx")
    )
    report = {}
    for batch, size in product(PARITY_BATCHES, PARITY_SIZES):
        inputs = _inputs(model, (batch, *size), seed=batch)
        expected = model(inputs["a"], inputs["b"]).numpy()
        arrays = {name: x.numpy() for name, x in inputs.items()}
        codes = {name: encoder.run(None, {"image": arrays[name[-1]]})[0] for name in ("code_a", "code_b")}
        label = f"{batch}x{size[0]}x{size[1]}"
        report[f"encoder {label}"] = max(float(np.abs(codes[name] - arrays[name]).max()) for name in codes)
        report[f"fusion {label}"] = float(np.abs(fusion.run(None, {**arrays, **codes})[0] - expected).max())
    check_parity(report)
    return report


def _inputs(model: UniFusion, size: tuple[int, int, int], seed: int) -> dict[str, Tensor]:
    a, b, _ = drawn_pair(size, seed)
    return {"a": a, "b": b, "code_a": model.encode(a), "code_b": model.encode(b)}
