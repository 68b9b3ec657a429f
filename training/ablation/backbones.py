"""DINOv3 and CLIP for table 6, through timm, with weights that the user has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.interface import PatchFeatures
from models.unifusion.dinov3 import import_timm
from training.data.images import DataError


@dataclass(frozen=True)
class Known:
    """A backbone: its name in timm, which is also where its weights can be had, and the side of its input."""

    model: str
    image_size: int


BACKBONES = {
    "dinov3": Known("vit_base_patch16_dinov3.lvd1689m", 256),
    "clip": Known("vit_base_patch16_clip_quickgelu_224.openai", 224),
}


class PatchTokens(nn.Module):
    """A timm vision transformer without its class and register tokens."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, S, S), normalised -> (N, P, W)."""
        tokens: Tensor = self.vit.forward_features(image)
        return tokens[:, self.vit.num_prefix_tokens :]


def load_interface(name: str, weights: Path, *, num_tokens: int, token_dim: int) -> PatchFeatures:
    """Patch features of a backbone.

    Args:
        name: A key of ``BACKBONES``.
        weights: Its ``.safetensors`` or ``.bin`` file as timm publishes it.
        num_tokens: K.
        token_dim: C.

    Raises:
        DataError: timm is missing or unusable, or the file is missing, damaged or of another model.
    """
    known = BACKBONES[name]
    if not weights.is_file():
        raise DataError(f"--backbone {name}: no file {weights}")
    try:
        timm = import_timm()
    except ImportError as error:
        raise DataError(f"--backbone {name}: {error}") from error
    try:
        vit = timm.create_model(known.model, pretrained=False, checkpoint_path=str(weights))
    except Exception as error:  # timm, safetensors and pickle each have their own
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise DataError(f"--backbone {name}: {weights} holds no {known.model}: {reason}") from error
    return PatchFeatures(
        name,
        PatchTokens(vit),
        width=vit.num_features,
        image_size=known.image_size,
        num_tokens=num_tokens,
        token_dim=token_dim,
        mean=vit.pretrained_cfg["mean"],
        std=vit.pretrained_cfg["std"],
    )
