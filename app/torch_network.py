"""The network of a bundle in torch, from its safetensors, as the stages that the service runs.

Torch and the networks are imported here and nowhere else in the service, and only once a network is asked for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app.bundles import CODE_INPUTS, COUNTED_INPUT, EDIT_INPUT, MEAN_INPUT, Bundle
from app.card import ModelCard
from app.errors import BundleError, StartupError
from app.replays import Stage, Tensors

WEIGHTS = ".safetensors"
SLOTS = "slots.json"


@dataclass(frozen=True)
class Network:
    """A network in eval mode.

    Attributes:
        module: The network.
        encode: ``image`` (N, 1, H, W) -> codes (N, ...).
        fuse: ``a``, ``b``, and ``code_a``, ``code_b``, ``edit`` as far as the card has them -> (N, 1, H, W).
        sums: First pass over tiles: ``a``, ``b``, ``counted`` -> (N, C); None if the network has no tiles.
        given: Second pass: ``a``, ``b``, ``mean`` -> (N, 1, H, W); likewise.
    """

    module: Any
    encode: Stage
    fuse: Stage
    sums: Stage | None = None
    given: Stage | None = None

    def layers(self) -> Iterator[Any]:
        """All its modules, those of a frozen tokenizer or backbone too, which are no part of it."""
        for whole in (self.module, *(getattr(self.module, name, None) for name in ("tokenizer", "backbone"))):
            yield from whole.modules() if whole is not None else ()


def import_torch() -> Any:
    """Returns the torch module.

    Raises:
        StartupError: What the torch backend needs is not installed.
    """
    try:
        importlib.import_module("models.rebuild")
        importlib.import_module("safetensors.torch")
        return importlib.import_module("torch")
    except ImportError as error:
        raise StartupError(
            f"PAIRFUSE_BACKEND=torch, but {error.name} is not installed. Run: pip install 'pairfuse[torch]', "
            "or unset PAIRFUSE_BACKEND."
        ) from None


def load_network(bundle: Bundle, place: Callable[[Any], Any]) -> Network:
    """Builds the network of a bundle and fills it with its weights.

    Args:
        bundle: A checked bundle.
        place: Moves a module to where it runs.

    Raises:
        BundleError: The bundle has no weights for torch, or they do not belong together.
    """
    card, folder = bundle.card, bundle.fusion.parent
    try:
        module = place(_rebuild(card, folder))
    except (OSError, ValueError, RuntimeError) as error:  # Among the last: no room for it on the GPU.
        raise BundleError(card.name, f"its network cannot be built for torch: {str(error)[:300]}") from None
    if card.slots not in ((), tuple(module.slots)):
        raise BundleError(card.name, f"its network edits {list(module.slots)}, the card lists {list(card.slots)}")
    tiled = hasattr(module, "feature_sums")
    return Network(
        module,
        encode=lambda x: module.encode(x["image"]),
        fuse=partial(_fuse, module, place(import_torch().tensor(module.default_edit))),
        sums=(lambda x: module.feature_sums(x["a"], x["b"], x[COUNTED_INPUT])) if tiled else None,
        given=(lambda x: module.fuse_given(x["a"], x["b"], x[MEAN_INPUT])) if tiled else None,
    )


def _fuse(module: Any, default_edit: Any, inputs: Tensors) -> Any:
    """Fuses; what the card's model has not, the network gets as nothing, or at its default."""
    a, b = inputs["a"], inputs["b"]
    codes = (inputs[name] if name in inputs else a.new_zeros(len(a), 0, 0) for name in sorted(CODE_INPUTS))
    edit = inputs[EDIT_INPUT] if EDIT_INPUT in inputs else default_edit.expand(len(a), -1)
    return module.fuse(a, b, *codes, edit)


def _rebuild(card: ModelCard, folder: Path) -> Any:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    from models.rebuild import Parts, rebuild  # noqa: PLC0415

    files = [folder / name for name in card.files if name.endswith(WEIGHTS)]
    if not files:
        raise ValueError(f"it has no {WEIGHTS} files; export it again, or unset PAIRFUSE_BACKEND")
    profile = card.extra.get("profile")
    if not isinstance(profile, str):
        raise ValueError("its card does not name the network (extra.profile); export it again")
    try:
        weights = {file.stem: load_file(file) for file in files}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    slots = json.loads((folder / SLOTS).read_bytes()) if SLOTS in card.files else None
    return rebuild(Parts(profile, weights, card.extra.get("network", {}), slots, card.extra.get("backbone")))
