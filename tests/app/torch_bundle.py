"""A bundle with a small TITA network in safetensors, beside an ONNX graph that makes another picture: the mean."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from app.bundles import read_bundle
from app.settings import Settings
from app.torch_backend import TorchBackend
from models.registry import TITA_CONFIGS
from models.tita.tiling import exact_halo
from tests.app.tiled_bundle import blur_graphs
from tests.conftest import describe, plain_graph, write_bundle
from tests.models.tiny_tita import SMALL, lively

FOLD = {"fold": 2}
CPU = {"device": "cpu", "threads": 1}


def write_torch_bundle(weights: Path, name: str, *, seed: int = 0, tile: int = 0) -> Path:
    """Writes a bundle and returns its folder; with ``tile``, images of more pixels than it has go in tiles."""
    torch.manual_seed(seed)
    changes = {**SMALL, **FOLD}
    model = lively(TITA_CONFIGS["tita"], **FOLD)
    folder = weights / name
    if not folder.exists():
        write_bundle(weights, name, plain_graph())
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "fusion.safetensors")
    files, tiling = ("fusion.safetensors",), None
    if tile:
        # The graphs of another network, which torch does not open.
        graphs = {f"{pass_}.onnx": blur_graphs()[pass_] for pass_ in ("sums", "given")}
        for file, content in graphs.items():
            (folder / file).write_bytes(content)
        files += tuple(graphs)
        tiling = {
            "multiple": model.config.multiple,
            "above_pixels": tile**2,
            "tile": max(tile, 2 * exact_halo(model.config) + model.config.multiple),
            "halo_sums": exact_halo(model.config, features=True),
            "halo": exact_halo(model.config),
            **{file.removesuffix(".onnx"): describe(content, file) for file, content in graphs.items()},
        }
    edit_card(folder, files=files, tiling=tiling, extra={"profile": "tita", "network": changes})
    return folder


def edit_card(folder: Path, files: tuple[str, ...] = (), **changes) -> None:
    """Changes fields of a card, and writes the checksums of files that are new or have changed."""
    path = folder / "card.json"
    card = json.loads(path.read_text()) | changes
    for file in files:
        content = (folder / file).read_bytes()
        card["files"][file] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(card))


def settings(**changes) -> Settings:
    """Settings of the torch backend on one thread of the CPU."""
    return Settings(**CPU | {"backend": "torch"} | changes)


def opened(folder: Path, **changes) -> TorchBackend:
    """Opens a bundle."""
    return TorchBackend(read_bundle(folder), settings(**changes))


def draw(batch, height, width, seed=0):
    """A smooth, slightly noisy pair of batches."""
    random = np.random.default_rng(seed)
    down, across = np.linspace(0, 6, height)[:, None], np.linspace(0, 6, width)
    waves = [0.5 + 0.4 * np.sin(down * random.uniform(1, 3)) * np.cos(across + phase) for phase in range(2 * batch)]
    images = np.clip(np.stack(waves)[:, None] + random.normal(0, 0.03, (2 * batch, 1, height, width)), 0, 1)
    return images[:batch].astype(np.float32), images[batch:].astype(np.float32)
