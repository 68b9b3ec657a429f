"""Names of the tensors of published DINOv3 weights, from each of three publishers, brought to those of timm.

| publisher | a tensor's name |
|---|---|
| Meta | ``blocks.0.ls1.gamma`` |
| transformers | ``layer.0.layer_scale1.lambda1``, in some versions behind ``model.`` |
| timm | ``blocks.0.gamma_1`` |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_META = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
)
_TRANSFORMERS = (
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
_UNUSED = re.compile(r"^(mask_token|rope_embed\.periods)$|\.attn\.qkv\.bias_mask$|\.attn\.k_proj\.bias$")
_QKV_BIAS = re.compile(r"\.attn\.(qkv|q_proj|v_proj)\.bias$")
_PROJECTION = re.compile(r"\.attn\.[qkv]_proj\.weight$")


def to_timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring published tensors to timm's names.

    What no image is described with is left out: mask token, rotation periods, masks of biases, and the biases of
    queries and values, which are zero in all published weights.

    Args:
        state: Tensors under the names of any of the publishers.

    Raises:
        ValueError: A bias that timm's network has no place for is not zero, or only some of a block's queries, keys and
            values are there.
    """
    named: dict[str, Tensor] = {}
    for old, value in state.items():
        name = _rename(old)
        if _QKV_BIAS.search(name):
            _check_zero(old, value)
        elif not _UNUSED.search(name):
            named[name] = value
    return _join_projections(named)


def _rename(name: str) -> str:
    name = name.removeprefix("model.")
    rules = _TRANSFORMERS if name.startswith(("embeddings.", "layer.")) else _META
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _check_zero(name: str, bias: Tensor) -> None:
    # Meta stores the bias of the keys too, which its network masks: it may have any value.
    used = torch.cat([bias.chunk(3)[0], bias.chunk(3)[2]]) if name.endswith("qkv.bias") else bias
    if used.any():
        raise ValueError(f"{name} is not zero: these are not weights of DINOv3 ViT-S/16 without query and value biases")


def _join_projections(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack the separate projections of transformers as timm has them."""
    blocks = {name.rpartition(".attn.")[0] for name in named if _PROJECTION.search(name)}
    for block in sorted(blocks):
        parts = [f"{block}.attn.{letter}_proj.weight" for letter in "qkv"]
        if missing := [part for part in parts if part not in named]:
            raise ValueError(f"the checkpoint lacks {', '.join(missing)} (timm's names)")
        named[f"{block}.attn.qkv.weight"] = torch.cat([named.pop(part) for part in parts])
    return named
