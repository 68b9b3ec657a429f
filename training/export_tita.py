"""Write the bundle of a TITA run: the graph for whole images, those of both passes over tiles, weights and card."""

from __future__ import annotations

from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.tita import TITA
from models.tita.graphs import FeatureSums, FuseGiven
from models.tita.tiling import exact_halo, spans
from training.bundle import file_record, new_bundle, training_record, write_card
from training.card_text import CardText
from training.graphs import OPSET, check_parity, drawn_pair, graph_spec, round_to_half, save_weights, to_onnx
from training.macs import count_macs
from training.run import CHECKPOINT
from training.tita import load_trained

PARITY_BATCHES = (1, 2, 5)
PARITY_SIZES = ((64, 64), (37, 53), (200, 312), (480, 640))
TILED_SIZE = (768, 1024)
"""Height and width of the pair that is fused in tiles and whole."""

TILE = 1536
ABOVE_PIXELS = TILE**2
"""Larger images are fused in tiles, so no run needs more memory than a tile. Below, no halo is computed twice."""

_EXAMPLE = (2, 138, 202)

Array = NDArray[np.float32]


def export_tita(run: Path, text: CardText, folder: Path, *, half: bool = True, checkpoint: str = CHECKPOINT) -> None:
    """Write the whole bundle.

    Args:
        run: Run folder of ``python -m training tita``.
        text: Words of the card.
        folder: The bundle.
        half: Store weights as float16; arithmetic is float32 either way.
        checkpoint: Which checkpoint of the run.

    Raises:
        RuntimeError: ONNX and PyTorch disagree, or float16 storage changes the picture.
        DataError: The folder holds no such run.
    """
    model, state = load_trained(run, checkpoint=checkpoint)
    a, b, _ = drawn_pair(_EXAMPLE, seed=0)
    with torch.no_grad():
        extra = {"float16_storage_change": round_to_half(model, model(a, b), lambda: model(a, b))} if half else {}
    with new_bundle(folder) as made:
        write_graphs(model, made, half=half)
        save_weights(model.state_dict(), made / "fusion.safetensors", half=half)
        training = training_record(text, run, state, "fusion")
        extra |= {"profile": state["profile"], "network": state["network"]}
        write_card(make_card(model, text, made, training, extra), made)


def write_graphs(model: TITA, folder: Path, *, half: bool) -> None:
    """Export ``fusion.onnx``, ``sums.onnx`` and ``given.onnx``, all with open batch and size."""
    a, b, generator = drawn_pair(_EXAMPLE, seed=0)
    mean = torch.rand(len(a), 2 * model.config.dim, generator=generator)
    to_onnx(model, {"a": a, "b": b}, "fused", folder / "fusion.onnx", half=half)
    to_onnx(FeatureSums(model), {"a": a, "b": b, "counted": a.round()}, "sums", folder / "sums.onnx", half=half)
    to_onnx(FuseGiven(model), {"a": a, "b": b, "mean": mean}, "fused", folder / "given.onnx", half=half)


def make_card(
    model: TITA, text: CardText, folder: Path, training: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    """The card of a bundle whose other files are written.

    Raises:
        RuntimeError: ONNX and PyTorch disagree.
    """
    per_pixel, per_image = count_macs(deepcopy(model).to("meta"), 480, 640)
    files = ("fusion.onnx", "sums.onnx", "given.onnx", "fusion.safetensors")
    return {
        "card_version": 1,
        **text.model_dump(include={"name", "title", "summary", "paper", "tasks"}),
        "opset": OPSET,
        "files": {name: file_record(folder / name) for name in files},
        "fusion": graph_spec(folder / "fusion.onnx"),
        "edit_slots": [],
        "size": text.size,
        "tiling": {
            "multiple": model.config.multiple,
            "above_pixels": ABOVE_PIXELS,
            "tile": TILE,
            "halo_sums": exact_halo(model.config, features=True),
            "halo": exact_halo(model.config),
            "sums": graph_spec(folder / "sums.onnx"),
            "given": graph_spec(folder / "given.onnx"),
        },
        "parameters": {"fusion": sum(p.numel() for p in model.parameters())},
        "macs": {"fuse_per_pixel": per_pixel, "encode_per_image": per_image},
        "training": training,
        "evaluation": [],
        "parity": parity(model, folder),
        "extra": {**extra, **text.extra},
        **text.model_dump(include={"licence", "limits"}),
    }


@torch.no_grad()
def parity(model: TITA, folder: Path) -> dict[str, float]:
    """Largest absolute difference between PyTorch and ONNX Runtime (CPU) for each batch and size, and in tiles.

    Raises:
        RuntimeError: One exceeds 1e-4.
    """
    whole, sums, given = (_open(folder / f"{name}.onnx") for name in ("fusion", "sums", "given"))
    report = {}
    for batch, size in product(PARITY_BATCHES, PARITY_SIZES):
        a, b, _ = drawn_pair((batch, *size), seed=batch)
        fused = whole.run(None, {"a": a.numpy(), "b": b.numpy()})[0]
        report[f"fusion {batch}x{size[0]}x{size[1]}"] = _difference(fused, model(a, b))
    a, b, _ = drawn_pair((1, *TILED_SIZE), seed=0)
    report[f"tiled 1x{TILED_SIZE[0]}x{TILED_SIZE[1]}"] = _difference(_by_tiles(model, a, b, sums, given), model(a, b))
    check_parity(report)
    return report


def _by_tiles(model: TITA, a: Tensor, b: Tensor, sums: Any, given: Any) -> Array:
    """Both passes over tiles of half the card's size by the exported graphs, as a service runs them."""
    config, images = model.config, {"a": model.pad(a).numpy(), "b": model.pad(b).numpy()}
    height, width = images["a"].shape[-2:]
    total = np.zeros((len(a), 2 * config.dim))
    for rows, columns in _tiles(model, height, width, exact_halo(config, features=True)):
        cut = {name: x[..., rows.whole, columns.whole] for name, x in images.items()}
        counted = np.zeros_like(cut["a"])
        counted[..., rows.inside, columns.inside] = 1.0
        total += sums.run(None, {**cut, "counted": counted})[0]
    mean = (total / (height * width)).astype(np.float32)
    fused = np.empty_like(images["a"])
    for rows, columns in _tiles(model, height, width, exact_halo(config)):
        cut = {name: x[..., rows.whole, columns.whole] for name, x in images.items()}
        part = given.run(None, {**cut, "mean": mean})[0]
        fused[..., rows.own, columns.own] = part[..., rows.inside, columns.inside]
    result: Array = fused[..., : a.shape[2], : a.shape[3]]
    return result


def _tiles(model: TITA, height: int, width: int, halo: int) -> list[tuple[Any, Any]]:
    window = model.config.multiple
    rows, columns = (spans(side, tile=TILE // 2, halo=halo, window=window) for side in (height, width))
    return list(product(rows, columns))


def _difference(ours: Array, expected: Tensor) -> float:
    return float(np.abs(ours - expected.numpy()).max())


def _open(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
