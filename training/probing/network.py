"""The network whose tokens are probed: loaded from a run or a bundle, frozen, its own edit left out."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from models.registry import build
from models.token_fusion import TokenFusionModel
from models.tokenizer import Tokenizer
from models.tokenizer.checkpoint import matching_state
from training.data.images import DataError
from training.titok_ste import load_trained, read_slots
from training.tokenizer_files import load_tokenizer

_WEIGHTS = "fusion.safetensors"


def load_model(path: Path, tokenizer_folder: Path | None = None) -> TokenFusionModel:
    """A trained fusion model in eval mode, without gradients.

    Args:
        path: A run folder of ``titok-ste``, or a released bundle.
        tokenizer_folder: Run folder of its tokenizer, or a bundle; a bundle brings its own.

    Raises:
        DataError: The folder holds neither, the tokenizer is missing or another one, or files do not fit together.
    """
    bundle = (path / _WEIGHTS).is_file()
    if tokenizer_folder is None and not bundle:
        raise DataError(f"{path} is a run folder: give its tokenizer too (--tokenizer)")
    tokenizer = load_tokenizer(tokenizer_folder or path)
    try:
        model = _from_bundle(path, tokenizer) if bundle else load_trained(path, tokenizer)[0]
    except (ValueError, SafetensorError) as error:  # another tokenizer, weights of another network, a damaged file
        raise DataError(f"{path}: {error}") from error
    return model.eval().requires_grad_(False)


def _from_bundle(folder: Path, tokenizer: Tokenizer) -> TokenFusionModel:
    try:
        runs = json.loads((folder / "card.json").read_text())["training"]["runs"]
        profile = json.loads(runs[-1]["recipe"])["profile"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"card.json does not tell which network the bundle holds ({error!r})") from error
    model = build(profile, tokenizer, read_slots(folder / "slots.json"))
    if not isinstance(model, TokenFusionModel):
        raise DataError(f"the profile {profile!r} has no tokens to probe")
    model.load_state_dict(matching_state(model, load_file(folder / _WEIGHTS), profile))
    return model
