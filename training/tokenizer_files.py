"""Read tokenizers from disk: a run folder, a released bundle, or official TiTok weights."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models.tokenizer import TOKENIZERS, TiTok, Tokenizer, TokenizerConfig, build_decoder
from models.tokenizer.checkpoint import matching_state
from models.tokenizer.tokenizer import TOKEN_MODULES
from training.data.images import DataError
from training.run import CHECKPOINT

BUNDLED = "tokenizer.safetensors"
"""File of a bundle that holds the tokenizer's weights."""

SLOTS = "slots.json"
OFFICIAL = "model.safetensors"
OFFICIAL_SUFFIXES = (".safetensors", ".bin")

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Reconstructor:
    """A tokenizer with its decoder.

    Attributes:
        tokenizer: In eval mode.
        decode: Unit-norm codes (N, K, C) to luminance (N, 1, S, S) in [0, 1].
    """

    tokenizer: Tokenizer
    decode: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def indices(self, image: Tensor) -> Tensor:
        """Code numbers: (N, 1, H, W) in [0, 1] -> (N, K)."""
        return self.tokenizer.indices(image)

    @torch.no_grad()
    def from_indices(self, indices: Tensor) -> Tensor:
        """Luminance that code numbers stand for: (N, K) -> (N, 1, S, S) in [0, 1]."""
        return self.decode(self.tokenizer.quantize.lookup(indices))

    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode, quantize, decode: (N, 1, H, W) in [0, 1] -> (N, 1, S, S) in [0, 1]."""
        return self.from_indices(self.indices(image))


class _Weights(NamedTuple):
    """What a file holds: tensors under the published names (``latent_tokens``, ``encoder.…``, ``decoder.…``)."""

    file: Path
    config: TokenizerConfig
    state: dict[str, Tensor]


def load_tokenizer(path: Path) -> Tokenizer:
    """A trained tokenizer: frozen, in eval mode, float32, on the CPU.

    Args:
        path: A run folder (the averaged weights are taken), a released bundle, or official TiTok weights: a
            ``.safetensors`` or ``.bin`` file, or a folder with one. Which of the sizes it is, its tensors tell.

    Raises:
        DataError: The path holds none of these, or the file is damaged, incomplete or of another model.
        FileNotFoundError: There is no such path.
    """
    weights = _read(path, TOKEN_MODULES)
    tokenizer = _filled(Tokenizer, weights)
    if (path / BUNDLED).is_file() and tokenizer.tokenizer_id != _named_in_slots(path):
        raise DataError(f"{path / BUNDLED} is not the tokenizer that {SLOTS} names: take the bundle anew")
    return tokenizer


def load_reconstructor(path: Path, device: torch.device | str = "cpu") -> Reconstructor:
    """A trained tokenizer with its decoder: frozen, in eval mode, float32.

    Args:
        path: A run folder or official TiTok weights, as for ``load_tokenizer``. Bundles hold no decoder.
        device: Where to put both.

    Raises:
        DataError: As ``load_tokenizer``, and for a bundle.
        FileNotFoundError: There is no such path.
    """
    if (path / BUNDLED).is_file():
        raise DataError(f"{path} is a bundle, which holds no decoder: give the run folder that its tokenizer came from")
    weights = _read(path)
    if weights.config.pixel_width:
        titok = _filled(TiTok, weights).to(device)
        return Reconstructor(titok, lambda codes: _luminance(titok.decode(codes)))
    tokenizer, decoder = _filled(Tokenizer, weights).to(device), _filled(build_decoder, weights).to(device)
    return Reconstructor(tokenizer, lambda codes: decoder(codes).mean(dim=1, keepdim=True).clamp(0, 1))


def _filled(kind: Callable[[TokenizerConfig], ModuleT], weights: _Weights) -> ModuleT:
    """A frozen module with the weights of a file; no time goes into random numbers that they would replace."""
    with torch.device("meta"):
        module = kind(weights.config)
    module = module.to_empty(device="cpu")
    try:
        if isinstance(module, Tokenizer):
            module.load_published(weights.state)
        else:
            own = {k.removeprefix("decoder."): v for k, v in weights.state.items() if k.startswith("decoder.")}
            module.load_state_dict(matching_state(module, own, f"{weights.config.name} decoder"))
    except ValueError as error:
        raise DataError(f"{weights.file}: {error}") from error
    return module.eval().requires_grad_(False)


def _luminance(rgb: Tensor) -> Tensor:
    """BT.601 luminance: (N, 3, H, W) -> (N, 1, H, W)."""
    return (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _read(path: Path, parts: tuple[str, ...] | None = None) -> _Weights:
    if not path.exists():
        raise FileNotFoundError(f"no tokenizer at {path}: give a run folder, a bundle, or a file of official weights")
    if (path / BUNDLED).is_file():
        state = _read_safetensors(path / BUNDLED, None)
        return _Weights(path / BUNDLED, _config(_named_in_slots(path).partition(":")[0], path), state)
    if (path / CHECKPOINT).is_file():
        return _read_run(path / CHECKPOINT)
    file = _official_file(path)
    state = _read_safetensors(file, parts) if file.suffix == ".safetensors" else _read_bin(file)
    return _Weights(file, _official_config(state, file), state)


def _named_in_slots(bundle: Path) -> str:
    try:
        return str(json.loads((bundle / SLOTS).read_text())["tokenizer_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{bundle} is no complete bundle: {SLOTS} does not name the tokenizer ({error!r})") from error


def _config(name: str, path: Path) -> TokenizerConfig:
    if name not in TOKENIZERS:
        raise DataError(f"{path} is for an unknown tokenizer {name!r}; known: {', '.join(sorted(TOKENIZERS))}")
    return TOKENIZERS[name]


def _read_run(file: Path) -> _Weights:
    state = _unpickle(file)
    if state.get("kind") != "tokenizer":
        raise DataError(
            f"{file.parent} is a {state.get('kind')} run: give the folder of a tokenizer run, or of a bundle"
        )
    # A tokenizer is known by the checksum of its weights. Rounded here, before anything is trained on it, it keeps that
    # identity when a bundle stores it as float16.
    average = {name.removeprefix("tokenizer."): value.half().float() for name, value in state["average"].items()}
    return _Weights(file, _config(state["name"], file.parent), average)


def _official_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in OFFICIAL_SUFFIXES:
            raise DataError(f"{path}: official weights are a {' or '.join(OFFICIAL_SUFFIXES)} file; a run is a folder")
        return path
    if (path / OFFICIAL).is_file():
        return path / OFFICIAL
    found = sorted(file for file in path.iterdir() if file.suffix in OFFICIAL_SUFFIXES)
    if len(found) > 1:
        raise DataError(f"{path} holds {len(found)} files of weights: name one, e.g. {found[0]}")
    if not found:
        raise DataError(
            f"{path} holds no tokenizer: neither a run's {CHECKPOINT} (train first, or give the run folder), "
            f"nor a bundle's {BUNDLED}, nor official weights ({' or '.join(OFFICIAL_SUFFIXES)})"
        )
    return found[0]


def _official_config(state: dict[str, Tensor], file: Path) -> TokenizerConfig:
    """Tell the published models apart by the size of their latent tokens."""
    published = {(c.num_tokens, c.width): c for c in TOKENIZERS.values() if c.pixel_width}
    shape = tuple(state["latent_tokens"].shape) if "latent_tokens" in state else None
    if shape in published:
        return published[shape]
    known = ", ".join(f"{k}×{w} ({c.name})" for (k, w), c in published.items())
    has = "no latent_tokens" if shape is None else f"latent_tokens of {'×'.join(map(str, shape))}"
    raise DataError(
        f"{file} is none of the published TiTok models: it has {has}, not {known}. "
        "Runs and bundles are given by their folders"
    )


def _read_safetensors(file: Path, parts: tuple[str, ...] | None) -> dict[str, Tensor]:
    """Read the tensors whose names begin with one of the parts; None reads all."""
    try:
        with safe_open(file, framework="pt") as tensors:
            wanted = [name for name in tensors.keys() if parts is None or name.partition(".")[0] in parts]  # noqa: SIM118
            return {name: tensors.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise DataError(f"cannot read {file}: it is cut short, damaged, or no safetensors file ({error})") from error


def _read_bin(file: Path) -> dict[str, Tensor]:
    state = _unpickle(file)
    strange = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise DataError(f"{file} is no plain table of tensors: {strange[0]} is something else")
    return state


def _unpickle(file: Path) -> dict[str, Any]:
    """Read a dictionary of tensors and plain values; anything that could run code is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, for files that are refused anyway
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise DataError(
                f"{file} is refused: it asks for {asked[1]}, and reading such objects can run code; "
                "only plain tensors are read. Take the .safetensors file of the model"
            ) from error
        raise DataError(f"cannot read {file}: it is no checkpoint of plain tensors") from error
    except (RuntimeError, EOFError, LookupError, ValueError) as error:
        raise DataError(f"cannot read {file}: it is cut short, damaged, or no checkpoint") from error
    if not isinstance(state, dict):
        raise DataError(f"{file} is no table of tensors but a {type(state).__name__}")
    return state
