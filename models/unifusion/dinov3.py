"""The paper's backbone: DINOv3 ViT-S/16 as timm builds it, with weights that the user has.

Shape letters: h and w the patch grid, P = h · w patches.

The weights are under the DINOv3 licence and not part of this project.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.tokenizer.checkpoint import describe_names, matching_state
from models.unifusion.backbone import VisionBackbone
from models.unifusion.config import HEAD_DIM
from models.unifusion.official import to_timm_names
from models.unifusion.rope import AxialRotation

ARCHITECTURE = "vit_small_patch16_dinov3"
TAPS = (2, 5, 8, 11)


class DinoV3Backbone(VisionBackbone):
    """Built without weights: 21,586,944 random parameters until ``load_official``, with residuals at full strength.

    Attributes:
        file_sha256: Checksum of the file that the weights came from; ``None`` before.

    Raises:
        ImportError: timm cannot be imported.
    """

    def __init__(self) -> None:
        super().__init__("dinov3-vits16", embed_dim=384, taps=TAPS)
        self.vit: Any = import_timm().create_model(ARCHITECTURE, pretrained=False, num_classes=0)
        self.vit.rope = _Rotation()
        # timm begins at 1e-5, and random blocks would add nearly nothing to the patches, and all taps be alike
        for block in self.vit.blocks:
            nn.init.ones_(block.gamma_1)
            nn.init.ones_(block.gamma_2)
        self.file_sha256: str | None = None
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The taps, normed by the last layer norm; see ``VisionBackbone.forward``."""
        taps: list[Tensor] = self.vit.forward_intermediates(
            self.normalise(image), indices=list(self.taps), norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return [tap.float() for tap in taps]

    def load_official(self, path: Path) -> str:
        """Load published weights.

        Args:
            path: ``.safetensors`` or ``.pth``, as Meta, transformers or timm publish it.

        Returns:
            SHA-256 of the file, also kept in ``file_sha256``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or a tensor is missing, unknown or has another shape; the message names it.
            ImportError: It is a safetensors file and safetensors is not installed.
        """
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        self.load_published(_read(path))
        self.file_sha256 = checksum
        return checksum

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load published tensors by name; see ``models.unifusion.official``.

        Raises:
            ValueError: A tensor is missing, unknown or has another shape; the message names it.
        """
        named = to_timm_names(state)
        if unknown := sorted(named.keys() - self.vit.state_dict().keys()):
            raise ValueError(f"the checkpoint is not a {self.name}: it holds unknown tensors {describe_names(unknown)}")
        self.vit.load_state_dict(matching_state(self.vit, named, self.name))


class _Rotation(nn.Module):
    """Stands for timm's own, which makes Python numbers of the grid's sides: an exported graph would have one size."""

    def __init__(self) -> None:
        super().__init__()
        self.rotation = AxialRotation(HEAD_DIM, prefix=0)

    def get_embed(self, shape: tuple[int, int]) -> Tensor:
        """Sine, then cosine, of all angles of a grid of h × w patches: (P, 2 · 64)."""
        cos, sin = self.rotation.tables(*shape)
        return torch.cat([sin, cos], dim=-1)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load_file(str(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ImportError(f"{path.name} needs safetensors: pip install 'pairfuse[train]'") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} holds no weights: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # cannot be named without importing safetensors
            raise
        raise ValueError(f"{path} holds no weights: {_first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold tensors by name and nothing else")
    return state


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0] or type(error).__name__


def import_timm() -> Any:
    """timm, loaded when it is wanted only.

    Raises:
        ImportError: It is missing, or its torchvision does not fit; the message says what to install.
    """
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
        raise ImportError(
            f"published vision transformers need timm, which cannot be imported ({error}): "
            f"pip install 'pairfuse[interfaces]', with the torchvision that belongs to torch {torch.__version__}"
        ) from error
