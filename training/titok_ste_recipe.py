"""The recipe of a TiTok+STE run: every weight and schedule number of Algorithm 1."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from training.config import PairFolder, Recipe, Strict
from training.data.sampling import Sampling
from training.losses import VIF_MIN_SIDE
from training.targets import TargetConfig


class StageOneLoss(Strict):
    """Reconstruction warm-up (eq. 14-16); ``gradient`` is the paper's λ_g, whose term it does not print."""

    ssim: float = 5.0
    mse: float = 1.0
    gradient: float = 5.0
    decomposition: float = 2.0
    delta: float = 1.01


class StageTwoLoss(Strict):
    """Fusion (eq. 17-18) and the terms of our profiles.

    Attributes:
        intensity: α_in.
        intensity_target: ``max`` of both sources (paper) or the ``tone`` target.
        tone_scale: Images are shrunk by this much before the tone is compared. 8 leaves details to the gradient term;
            at 1 a pixel of the result depends on its two sources only, as far as the other terms let it.
        gradient: α_g.
        gradient_target: ``magnitude`` (paper) or ``signed`` gradients.
        reconstruction: λ_r of SSIM and MSE against each source.
        reconstruction_ssim: Weight of SSIM relative to MSE in that term.
        ssim: Weight of 1 - mean SSIM to both sources.
        scd: Weight of 2 - SCD.
        vif: Weight of 1 - mean VIF to both sources.
        out_of_range: Weight of the distance by which the un-clamped output leaves the displayable range.
        margin: Head-room kept at both ends of the range.
        decomposition: λ_d.
        delta: δ of eq. 16.
    """

    intensity: float = 1.0
    intensity_target: Literal["max", "tone"] = "max"
    tone_scale: Literal[1, 2, 4, 8] = 8
    gradient: float = 10.0
    gradient_target: Literal["magnitude", "signed"] = "magnitude"
    reconstruction: float = 0.5
    reconstruction_ssim: float = 5.0
    ssim: float = 0.0
    scd: float = 0.0
    vif: float = 0.0
    out_of_range: float = 0.0
    margin: float = 0.0
    decomposition: float = 2.0
    delta: float = 1.01


class StrengthDraw(Strict):
    """How the edit strength is drawn per image and slot in stage II (§4.5 of the model notes).

    Attributes:
        zero: Probability of 0.
        one: Probability of 1.
        maximum: The rest is uniform from 0 to this.
    """

    zero: float = 0.4
    one: float = 0.4
    maximum: float = 1.5


class Schedule(Strict):
    """Steps and learning rate.

    Attributes:
        kind: ``step`` halves as the paper does, ``cosine`` falls to ``floor`` with a short warm-up.
        edit_lr_ratio: Learning rate of Δ relative to the rest.
        edit_norm: Largest norm of each Δ, so that strengths up to 2 stay within the trained region.
        edit_start: Δ starts at ``zero``, or at ``edit_norm`` along the mean token shift of the ``probe``. From
            zero, neither Δ nor what reads it gets a useful gradient for a long time.
        clip: Global gradient norm limit, Δ excluded.
    """

    steps_per_epoch: int
    stage1_epochs: int
    stage2_epochs: int
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    kind: Literal["step", "cosine"] = "step"
    decay: float = 0.5
    decay_epochs: int = 20
    floor: float = 1e-6
    warmup_steps: int = 0
    clip: float = 0.01
    ema: float = 0.0
    edit_lr_ratio: float = 10.0
    edit_norm: float = 0.375
    edit_start: Literal["zero", "probe"] = "zero"


class FusionRecipe(Recipe):
    """Everything that decides a run besides the tokenizer and the slot file.

    ``validate_epochs`` is how often the model is validated; of all validations, that with the best mean rank of EN,
    SCD and SSIM is kept beside the last one (§9).

    Attributes:
        channels_last: Memory order of images and weights; a quarter faster on CPUs, the same result up to rounding.
        max_cache_mb: Most memory for the images of ``train`` or of ``val``; more is an error, not a swapping machine.
        stage1_mix: With ``stage1_reference: mix``, share of the batches whose reference is the input.
    """

    profile: str
    channels_last: bool = False
    sampling: Sampling
    schedule: Schedule
    stage1_reference: Literal["input", "zero", "mix"] = "mix"
    stage1_mix: float = 0.5
    stage1: StageOneLoss
    stage2: StageTwoLoss
    strength: StrengthDraw
    target: TargetConfig
    validate_epochs: int
    validate_pairs: int = 50
    max_cache_mb: float = 8000.0
    train: list[PairFolder]
    val: list[PairFolder]

    @model_validator(mode="after")
    def _vif_fits(self) -> Self:
        if self.stage2.vif and min(self.sampling.sides) < VIF_MIN_SIDE:
            raise ValueError(f"sampling.sides: stage2.vif needs at least {VIF_MIN_SIDE} pixels; or set it to 0")
        return self
