"""The recipe of a backbone run: images, views, head, losses, schedule."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from models.unifusion import ViTConfig
from models.unifusion.config import STRIDE
from training.config import ImageFolder, OptimConfig, PairFolder, Recipe, Strict
from training.data.tone import ToneConfig

Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class Source(Strict):
    """Images of one kind: aligned pairs, or single images.

    Attributes:
        share: How often images of this source are drawn, relative to the other sources and whatever their number.
        pairs: Two folders with the same names.
        images: One folder.
    """

    share: float = Field(default=1.0, gt=0)
    pairs: PairFolder | None = None
    images: ImageFolder | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.pairs is None) == (self.images is None):
            raise ValueError("give `pairs` or `images`, and not both")
        return self


class ViewConfig(Strict):
    """How the views of an image are made; see ``training.backbone_views``.

    Attributes:
        batch: Images per step and device; each gives two canvases, and each canvas one window.
        sides: A step's windows have one of these sides in pixels, drawn at random.
        margin: How much longer a canvas is than its window, in patches. The place of the window in it is random, so
            where a patch lies in the window does not tell where it lies in the canvas.
        zoom: Pixels of the image per pixel of a canvas, drawn evenly on a logarithmic scale; less where the image is
            too small for it.
        aspect: Largest ratio by which one axis is zoomed more than the other, at least 1.
        min_side: Single images that are shorter on a side are left out.
        cross: Share of the canvases of pairs whose window shows the other sensor than the canvas does.
        mirror: Share of the windows that are mirrored.
        mask: Smallest and largest share of a window's patches that are hidden.
        student: Tone changes of the windows.
        teacher: Tone changes of the canvases.
    """

    batch: int = Field(default=16, ge=1)
    sides: tuple[Annotated[int, Field(ge=2 * STRIDE, multiple_of=STRIDE)], ...] = Field(default=(128,), min_length=1)
    margin: int = Field(default=3, ge=0)
    zoom: Range = (0.75, 2.5)
    aspect: float = Field(default=1.33, ge=1)
    min_side: int = Field(default=96, ge=1)
    cross: Share = 0.5
    mirror: Share = 0.5
    mask: Range = (0.3, 0.6)
    student: ToneConfig
    teacher: ToneConfig

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom must be two rising numbers above 0, not {list(self.zoom)}")
        if not 0 < self.mask[0] <= self.mask[1] < 1:
            raise ValueError(f"mask must be two rising shares between 0 and 1, not {list(self.mask)}")
        return self


class HeadConfig(Strict):
    """The projection head of class token and patches.

    Attributes:
        hidden: Channels of its two hidden layers.
        bottleneck: Channels in which tokens and prototypes are compared.
        prototypes: How many, K.
    """

    hidden: int = Field(default=512, ge=1)
    bottleneck: int = Field(default=64, ge=1)
    prototypes: int = Field(default=1024, ge=2)


class LossConfig(Strict):
    """Weights and temperatures of the losses; see ``training.backbone_loss``.

    Attributes:
        masked: Weight of hidden patches.
        visible: Weight of the others.
        cls: Weight of the class token.
        apart: Weight of telling patches apart.
        edges: Weight of the edge directions of all patches; 0 leaves this loss out.
        alone: Steps at the beginning in which edges are all that counts: a fresh teacher knows nothing to be learned,
            and a student that follows it while tones differ does not begin to look at the content.
        rise: Steps after these over which the weights of what the teacher says rise to their values.
        student_temperature: Of the student's distributions.
        teacher_temperature: Of the teacher's; lower, so that targets are sharper than what is compared with them.
        centre: Decay of the running centre of the teacher's scores.
    """

    masked: float = Field(default=1.0, ge=0)
    visible: float = Field(default=0.2, ge=0)
    cls: float = Field(default=0.5, ge=0)
    apart: float = Field(default=1.0, ge=0)
    edges: float = Field(default=5.0, ge=0)
    alone: int = Field(default=0, ge=0)
    rise: int = Field(default=0, ge=0)
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.04, gt=0)
    centre: float = Field(default=0.9, ge=0, lt=1)

    def teacher_share(self, step: int) -> float:
        """Share of their weights that the terms of the teacher have at a step, in [0, 1]."""
        return min(1.0, max(0, step - self.alone + 1) / max(1, self.rise))

    @model_validator(mode="after")
    def _begins_with_something(self) -> Self:
        if self.alone and not self.edges:
            raise ValueError("`alone` needs `edges`: without them there is nothing to learn in these steps")
        return self


class Validation(Strict):
    """A quick look at how well patches of one sensor are found again in the other's image.

    Attributes:
        every: Steps between two.
        pairs: Where the pairs lie; ``limit`` in an entry takes only the first.
        side: Only the central square of this side is looked at, or less where a pair is smaller.
    """

    every: int = Field(ge=1)
    pairs: tuple[PairFolder, ...] = Field(min_length=1)
    side: int = Field(default=192, ge=4 * STRIDE, multiple_of=STRIDE)


class BackboneRecipe(Recipe):
    """Everything that decides a run.

    Attributes:
        network: Values of ``ViTConfig`` that differ from its defaults: ``{depth: 8}``.
        mean: Grey level that images are brought to 0 from, alike for all three channels.
        std: Grey levels that become 1.
        steps: Optimiser steps.
        views: How views are made.
        head: The projection head.
        loss: Weights and temperatures.
        optim: Learning rate and its schedule; ``ema`` is the decay of the teacher.
        sources: Training images.
        validation: How often and on what.
        max_cache_mb: Most memory for the images of one source.
    """

    network: dict[str, Any] = Field(default_factory=dict)
    mean: float = 0.4
    std: float = Field(default=0.25, gt=0)
    steps: int = Field(ge=1)
    views: ViewConfig
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig
    sources: tuple[Source, ...] = Field(min_length=1)
    validation: Validation
    max_cache_mb: float = 8000.0

    @field_validator("network")
    @classmethod
    def _is_a_network(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            ViTConfig(**value)
        except TypeError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("optim")
    @classmethod
    def _has_a_teacher(cls, value: OptimConfig) -> OptimConfig:
        if not 0 < value.ema < 1:
            raise ValueError(f"ema must lie between 0 and 1, as it moves the teacher, not {value.ema}")
        return value
