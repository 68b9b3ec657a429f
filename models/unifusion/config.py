"""What a UniFusion network is made of, and a name for every row of the paper's ablations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

STRIDE = 16
"""Pixels per side of what one place of a tap stands for."""

NUM_TAPS = 4
"""Depths at which a backbone is read."""

HEAD_DIM = 64
"""Channels per head of a vision transformer: rotary positions need 16 periods for rows and 16 for columns."""

NORM_GROUPS = 8
"""Groups of the adapters' group norm."""

AdapterKind = Literal["hierarchical", "none"]
AdapterNorm = Literal["batch", "group"]
Encoder = Literal["frozen", "trained"]
Output = Literal["image", "residual", "blend"]

_CHOICES = {
    "adapter": get_args(AdapterKind),
    "norm": get_args(AdapterNorm),
    "encoder": get_args(Encoder),
    "output": get_args(Output),
    "fold": (1, 2, 4),
}

_TYPES: dict[type, str] = {int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class UniFusionConfig:
    """Architecture of the network. The defaults are the authors' code.

    Attributes:
        embed_dim: Channels E of the backbone's taps.
        width: Channels C of everything behind the adapters.
        heads: Heads of the channel attentions.
        cross_blocks: Cross blocks per image.
        fold: Side in pixels of what one place of the fused features stands for. 1 in the paper; at 4 the adapters end
            two steps earlier, and everything behind them works on a sixteenth of the places.
        adapter: The paper's ``hierarchical`` one, or ``none``: the last tap alone, enlarged (row "w/o Adapter").
        skip: Let the adapters see the image too: the only way for detail finer than a patch.
        norm: Of the adapters: ``batch`` (paper), or ``group``, which keeps tasks apart that are trained together.
        encoder: A ``frozen`` backbone that is given, or four blocks ``trained`` with the adapters (row "w/o DINOv3").
        reconstruction_depth: Blocks of each reconstruction head: 2 in the authors' code, 4 in the paper. 0 for none
            (row "w/o Reconstruction"): the fusion loss trains the adapters then.
        whole_sides: Longest height and width together, in patches, of an image that the backbone sees as it is; it sees
            a larger one reduced by the smallest whole number that brings it below. Its attention costs the square of
            its patches. 0 for no limit (paper).
        output: What the last layer predicts: the fused RGB ``image`` itself (paper), or of luminance a ``residual`` to
            the mean of the sources, or how to ``blend`` the sources; see ``models.unifusion.output``.
    """

    embed_dim: int = 384
    width: int = 64
    heads: int = 8
    cross_blocks: int = 4
    fold: int = 1
    adapter: AdapterKind = "hierarchical"
    skip: bool = True
    norm: AdapterNorm = "batch"
    encoder: Encoder = "frozen"
    reconstruction_depth: int = 2
    whole_sides: int = 0
    output: Output = "image"

    @property
    def channels(self) -> int:
        """Channels of the images that the adapters see: RGB where the output is, else luminance."""
        return 3 if self.output == "image" else 1

    @property
    def adapted_dim(self) -> int:
        """Channels of the last up-convolution of an adapter, and of its image skip."""
        return self.embed_dim * self.fold // STRIDE

    @property
    def code_dim(self) -> int:
        """Channels of a code: those of all taps."""
        return NUM_TAPS * self.embed_dim

    def __post_init__(self) -> None:
        for key in fields(self):
            value, wanted = getattr(self, key.name), type(key.default)
            if wanted in _TYPES and type(value) is not wanted:  # true is an int, too
                raise ValueError(f"{key.name} must be {_TYPES[wanted]}, not {value!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(map(str, allowed))
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        if self.embed_dim < STRIDE or self.embed_dim % STRIDE:
            raise ValueError(f"embed_dim must be a multiple of {STRIDE}, not {self.embed_dim}")
        if self.encoder == "trained" and self.embed_dim % HEAD_DIM:
            raise ValueError(
                f"the heads of a trained encoder, {HEAD_DIM} wide, do not divide embed_dim {self.embed_dim}"
            )
        if self.heads < 1 or self.width < 2 or self.width % self.heads or self.width % 2:
            raise ValueError(f"width must be even and a multiple of {self.heads} heads, not {self.width}")
        if self.cross_blocks < 1:
            raise ValueError(f"cross_blocks must be 1 or more, not {self.cross_blocks}")
        if self.reconstruction_depth < 0:
            raise ValueError(f"reconstruction_depth must be 0 or more, not {self.reconstruction_depth}")
        if self.whole_sides < 0:
            raise ValueError(f"whole_sides must be 0 or more, not {self.whole_sides}")
        if self.norm == "group" and self.adapted_dim % NORM_GROUPS:
            raise ValueError(
                f"{NORM_GROUPS} groups do not divide the adapters' {self.adapted_dim} channels: "
                f"embed_dim · fold must be a multiple of {NORM_GROUPS * STRIDE}"
            )


PROFILES: dict[str, UniFusionConfig] = {
    "code": UniFusionConfig(),
    "paper": UniFusionConfig(reconstruction_depth=4),
    "light": UniFusionConfig(embed_dim=192, width=48, fold=4, norm="group", whole_sides=96, output="blend"),
}

ABLATION_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "no-adapter": {"adapter": "none", "skip": False},
    "no-adapter-skip": {"adapter": "none"},
    "no-dinov3": {"encoder": "trained"},
    "no-reconstruction": {"reconstruction_depth": 0},
}
"""What each row takes away from a full network."""

ABLATIONS: dict[str, UniFusionConfig] = {
    row: replace(PROFILES["code"], **changes) for row, changes in ABLATION_CHANGES.items()
}
"""Networks of the rows. "w/o Adapter" is built with and without the image skip. ``full`` is also the network of
"w/o Bilevel", which changes only the training, and of our control with a random backbone."""
