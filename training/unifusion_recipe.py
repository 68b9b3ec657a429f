"""The recipe of a UniFusion run: backbone, tasks, how the two levels are trained, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from training.config import OptimConfig, Recipe, Strict
from training.data.tasks import TaskSampling
from training.tita_recipe import TrainedTask, Validation, own_names


class BackboneConfig(Strict):
    """The frozen network that describes the images. A network that trains an encoder of its own takes none.

    Attributes:
        kind: ``small``, one of ``python -m training backbone``, or ``dinov3``, the paper's.
        path: Its weights; ``dinov3`` takes a file as Meta, transformers or timm publish it. None for random ones.
        random: Random weights in place of those at ``path``: the control that tells what the architecture does without
            what it has learned. A ``small`` one has the size and normalisation of that at ``path``.
        seed: Of random weights.
        depth: Blocks of a ``small`` one without ``path``, as wide as the network asks for.
    """

    kind: Literal["small", "dinov3"] = "small"
    path: Path | None = None
    random: bool = False
    seed: int = 0
    depth: int = Field(default=12, ge=4)


class Levels(Strict):
    """How reconstruction (lower level: adapters, their parameters φ) and fusion (upper level, θ) are trained.

    Attributes:
        joint: One optimiser for the sum of both losses (the authors' code, row "w/o Bilevel") in place of two levels.
        inner_steps: Steps of the lower level in each step of the upper.
        fuse_grad_to_adapter: What part of the fusion loss's gradient reaches the adapters, whose own optimiser applies
            it: 0 in the paper. In a ``joint`` run all of it does, as in the authors' code.
        skip_drop: Share of the samples whose adapters have to rebuild the image without seeing it; 0 in the paper. With
            the image to copy from, they may learn to ignore the backbone. Fusion always sees it.
        rec_weight: Weight of the reconstruction loss, where a task has none of its own. In two levels, it only counts
            against ``fuse_grad_to_adapter``.

    A network without reconstruction (``network.reconstruction_depth: 0``) has one level, whatever stands here: the
    fusion loss trains everything, and all of these values are ignored.
    """

    joint: bool = False
    inner_steps: int = Field(default=1, ge=1)
    fuse_grad_to_adapter: float = Field(default=0.1, ge=0, le=1)
    skip_drop: float = Field(default=0.0, ge=0, lt=1)
    rec_weight: float = Field(default=5.0, gt=0)

    @model_validator(mode="after")
    def _joint_has_one_level(self) -> Self:
        usual = {name: Levels.model_fields[name].default for name in ("inner_steps", "fuse_grad_to_adapter")}
        if self.joint and self.inner_steps != usual["inner_steps"]:
            raise ValueError(f"joint: there are no inner steps in one level: leave out inner_steps={self.inner_steps}")
        if self.joint and self.fuse_grad_to_adapter not in (usual["fuse_grad_to_adapter"], 1.0):
            raise ValueError(
                "joint: all of the fusion gradient reaches the adapters in one level: set fuse_grad_to_adapter to 1, "
                f"not {self.fuse_grad_to_adapter:g}"
            )
        return self


class RebuiltTask(TrainedTask):
    """A task with what it asks of the network.

    Attributes:
        rec_weight: Weight of its reconstruction; that of ``levels`` by default.
    """

    rec_weight: float | None = Field(default=None, gt=0)


class Examples(Validation):
    """A quick look at the network during training; gradients of tasks are not compared here."""

    angles_every: Literal[0] = 0


class UniFusionRecipe(Recipe):
    """Everything that decides a run.

    Attributes:
        profile: Network by its name in ``models.registry``, the rows of the ablation among them.
        network: Values of ``UniFusionConfig`` that differ from the profile's: ``{width: 32}``.
        backbone: What the network is built around.
        steps: Of the upper level.
        schedule: Whether each step sees ``sampling.batch`` crops of ``all`` tasks, or of one task in ``round-robin``.
        only: Names of the tasks to train and validate, such as one, as the authors do; all by default.
        optim: Of the upper level, η_U; ``ema`` averages the fusion network only, adapters are used as they are.
        body_lr_ratio: Learning rate of the fusion network relative to ``optim.lr``, but for what begins at nothing: the
            last convolution and the correction of a blend. An untrained blend is a useful picture, and a body that
            moves fast spoils it before these have learned to follow.
        adapter_lr_ratio: Learning rate of the adapters relative to that of the fusion network's body, η_L / η_U; above
            1 in the paper.
        levels: How both are trained.
        max_cache_mb: Most memory for the images of one task.
    """

    profile: str
    network: dict[str, Any] = Field(default_factory=dict)
    backbone: BackboneConfig = BackboneConfig()
    steps: int = Field(ge=1)
    schedule: Literal["all", "round-robin"] = "all"
    only: tuple[str, ...] = ()
    sampling: TaskSampling
    optim: OptimConfig
    body_lr_ratio: float = Field(default=1.0, gt=0, le=1)
    adapter_lr_ratio: float = Field(default=2.0, gt=0)
    levels: Levels = Levels()
    tasks: tuple[RebuiltTask, ...] = Field(min_length=1)
    validation: Examples
    max_cache_mb: float = 8000.0

    @property
    def trained_tasks(self) -> tuple[RebuiltTask, ...]:
        """The tasks that ``only`` leaves."""
        return tuple(task for task in self.tasks if not self.only or task.name in self.only)

    @property
    def examples(self) -> Validation:
        """The validation with the tasks that ``only`` leaves."""
        tasks = tuple(task for task in self.validation.tasks if not self.only or task.name in self.only)
        return self.validation.model_copy(update={"tasks": tasks})

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        for what, tasks in (("tasks", self.tasks), ("validation.tasks", self.validation.tasks)):
            names = own_names(what, tasks)
            if unknown := [name for name in self.only if name not in names]:
                raise ValueError(f"only: {what} has no {unknown[0]!r}; known: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _loss_is_not_scaled(self) -> Self:
        if self.precision == "16-mixed":
            raise ValueError("two optimisers cannot share the loss scale of 16-mixed: take bf16-mixed or 32-true")
        return self
