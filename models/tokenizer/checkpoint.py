"""Check tensors read from a file against a module before they are loaded, with messages that name the fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


def describe_names(names: Sequence[str]) -> str:
    """The first few of many names, and how many there are."""
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} ({len(names)} in all)"


def matching_state(module: nn.Module, state: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """The tensors that a module needs; others are left out.

    Args:
        module: What they are for.
        state: Tensors by name.
        model: Name of the model in messages.

    Raises:
        ValueError: One is missing or has another shape; the message names it.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    if missing:
        raise ValueError(f"the checkpoint is not a {model}: it lacks {describe_names(missing)}")
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise ValueError(
                f"the checkpoint is not a {model}: {name} has shape {tuple(state[name].shape)}, "
                f"expected {tuple(value.shape)}"
            )
    return {name: state[name] for name in own}
