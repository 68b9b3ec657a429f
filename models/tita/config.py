"""What a TITA network is made of, and a name for every row of the paper's Tables 4 to 6."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

FusionBlocks = Literal["inter", "mixed", "intra"]
PixelAttentionKind = Literal["ipa", "pa", "te", "none"]
RelationActivation = Literal["softmax", "sigmoid"]
FusionHead = Literal["oaf", "conv"]
Operation = Literal["hpf", "add", "mul"]
PadMode = Literal["multiple", "authors"]
Output = Literal["image", "blend"]

_CHOICES = {
    "fusion_blocks": get_args(FusionBlocks),
    "pixel_attention": get_args(PixelAttentionKind),
    "relation_act": get_args(RelationActivation),
    "fusion_head": get_args(FusionHead),
    "pad_mode": get_args(PadMode),
    "output": get_args(Output),
}


@dataclass(frozen=True)
class TITAConfig:
    """Architecture of the network. The defaults are the authors' code, which departs from the paper's text in places.

    Attributes:
        dim: Channels D of every token.
        fold: Side in pixels of what a token stands for. The paper's token is one pixel; squares of 4 × 4 need a
            fifteenth of its multiplications.
        heads: Heads of the window attentions.
        window: Side of a window in pixels, even; every second block shifts its windows by half of it.
        mlp_ratio: Hidden channels of an MLP as a multiple of ``dim``.
        extract_depth: Blocks per stream before the streams meet.
        fusion_depths: Attention layers per stream in each fusion group.
        rebuild_depth: Blocks after the streams have been fused.
        fusion_blocks: Layers of a fusion group: all ``inter`` (between the streams; IeSF), all ``intra`` (within a
            stream; IrSF), or ``mixed``, the first half intra and the second inter (SF, as in SwinFusion).
        pixel_attention: What follows the window attention of an inter block: interaction-enhanced pixel attention
            (``ipa``), plain pixel attention (``pa``), token exchange (``te``), or nothing.
        pixel_heads: Heads of the pixel attention. The paper's text has one, its code six.
        relation_act: Last activation of the relation discriminator: ``softmax`` over its channels (code) or
            ``sigmoid`` (paper).
        fusion_head: How two streams become one: operation-based adaptive fusion (``oaf``) or one convolution.
        operations: Branches of OAF.
        dynamic_weights: Predict the weights of the branches from the images; else all are equal.
        drop_path: Largest rate of stochastic depth; it grows linearly from 0 within each of the three parts.
        pad_mode: ``multiple`` pads to the next multiple of the window; ``authors`` adds a whole window where a side is
            one already, as the authors' test script does.
        output: What the last layer predicts: the fused ``image`` itself (paper), or how to ``blend`` it from the
            sources; see ``models.tita.output``.
    """

    dim: int = 60
    fold: int = 1
    heads: int = 6
    window: int = 8
    mlp_ratio: int = 2
    extract_depth: int = 4
    fusion_depths: tuple[int, ...] = (4, 4)
    rebuild_depth: int = 4
    fusion_blocks: FusionBlocks = "inter"
    pixel_attention: PixelAttentionKind = "ipa"
    pixel_heads: int = 6
    relation_act: RelationActivation = "softmax"
    fusion_head: FusionHead = "oaf"
    operations: tuple[Operation, ...] = ("hpf", "add", "mul")
    dynamic_weights: bool = True
    drop_path: float = 0.1
    pad_mode: PadMode = "multiple"
    output: Output = "image"

    @property
    def multiple(self) -> int:
        """What the sides of an image are padded to a multiple of, in pixels: the side of a window."""
        return self.window * self.fold

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        known = get_args(Operation)
        if not self.operations or len(set(self.operations)) < len(self.operations) or set(self.operations) - set(known):
            raise ValueError(f"operations must be some of {', '.join(known)}, each once, not {self.operations!r}")
        if self.dim % 4 or self.dim % self.heads or self.dim % self.pixel_heads:
            raise ValueError(f"4, {self.heads} heads and {self.pixel_heads} pixel heads must divide dim {self.dim}")
        if self.window < 2 or self.window % 2:
            raise ValueError(f"the window must be even, for it is shifted by half its side, not {self.window}")
        if self.fold < 1:
            raise ValueError(f"fold must be at least 1, not {self.fold}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path must be in [0, 1), not {self.drop_path}")


PROFILES: dict[str, TITAConfig] = {
    "code": TITAConfig(),
    "paper": TITAConfig(relation_act="sigmoid", pixel_heads=1),
    "product": TITAConfig(fold=4, output="blend"),
}

_BASELINE = TITAConfig(fusion_blocks="mixed", pixel_attention="none", fusion_head="conv")
_FULL = PROFILES["code"]

ABLATIONS: dict[str, TITAConfig] = {
    "sf": _BASELINE,
    "irsf": replace(_BASELINE, fusion_blocks="intra"),
    "iesf": replace(_BASELINE, fusion_blocks="inter"),
    "te": replace(_BASELINE, pixel_attention="te"),
    "pa": replace(_BASELINE, pixel_attention="pa"),
    "ipa": replace(_BASELINE, pixel_attention="ipa"),
    "ti": replace(_FULL, fusion_head="conv"),
    "ta": replace(_BASELINE, fusion_head="oaf"),
    "full": _FULL,
    "no-hpf": replace(_FULL, operations=("add", "mul")),
    "no-add": replace(_FULL, operations=("hpf", "mul")),
    "no-mul": replace(_FULL, operations=("hpf", "add")),
    "no-dw": replace(_FULL, dynamic_weights=False),
}
"""Networks of the rows. Table 4: ``sf`` (Baseline, Baseline-TS, MO), ``ti``, ``ta`` and ``full``, each with and without
MO, which changes only the training. Table 5: ``sf`` to ``ipa``. Table 6: ``no-hpf`` to ``no-dw`` and ``full``."""
