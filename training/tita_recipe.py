"""The recipe of a TITA run: tasks, objectives, how they are weighted, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from training.config import OptimConfig, Recipe, Strict
from training.data.tasks import Task, TaskSampling
from training.famo import WeightingConfig
from training.tita_loss import Objective


class TrainedTask(Task):
    """A task with what it asks of the network."""

    objective: Objective = Objective()


class Validation(Strict):
    """A quick look at the network during training.

    Attributes:
        every: Steps between two.
        pairs: The first so many of each task.
        side: Only the central square of this side is fused, or less where a pair is smaller.
        angles_every: Steps between two measurements of the angles between the tasks' gradients; 0 for none. One costs
            about as much as two steps.
        tasks: Pairs by task; pairs made of single images are the same every time.
    """

    every: int = Field(ge=1)
    pairs: int = Field(default=8, ge=1)
    side: int = Field(default=192, ge=64)
    angles_every: int = Field(default=0, ge=0)
    tasks: tuple[Task, ...] = Field(min_length=1)


class TITARecipe(Recipe):
    """Everything that decides a run.

    Attributes:
        profile: Network by its name in ``models.registry``, the rows of the ablation tables among them: ``tita-sf``.
        network: Values of ``TITAConfig`` that differ from the profile's: ``{fold: 4}``.
        steps: Optimiser steps; each sees ``sampling.batch`` crops of every task.
        optim: Learning rate and its schedule; ``clip: 0`` does not clip, as the paper's results were trained.
        body_lr_ratio: Learning rate of the network relative to that of what begins at nothing: the last convolution and
            the correction of a blend. At a rate that suits these, OAF's operands soon outgrow what differs from pixel
            to pixel, and the norm behind it leaves a constant.
        weighting: How the losses of the tasks become one.
        max_cache_mb: Most memory for the images of one task.
    """

    profile: str
    network: dict[str, Any] = Field(default_factory=dict)
    steps: int = Field(ge=1)
    sampling: TaskSampling
    optim: OptimConfig
    body_lr_ratio: float = Field(default=1.0, gt=0, le=1)
    weighting: WeightingConfig = WeightingConfig()
    tasks: tuple[TrainedTask, ...] = Field(min_length=1)
    validation: Validation
    max_cache_mb: float = 8000.0

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        own_names("tasks", self.tasks)
        own_names("validation.tasks", self.validation.tasks)
        return self


def own_names(what: str, tasks: Sequence[Task]) -> list[str]:
    """Names of the tasks under a key of the recipe.

    Raises:
        ValueError: Two have one name.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"{what} must have names of their own, got {', '.join(names)}")
    return names
