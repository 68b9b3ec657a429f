"""The transformer with what only its training needs: a projection head onto prototypes, and one onto edges.

Shape letters: N images, P patches, E width, K prototypes, C channels of the
bottleneck, D = 32 values that tell the edges of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tita.layers import linear
from models.unifusion import SmallViT, ViTConfig
from training.backbone_edges import EDGE_VALUES
from training.backbone_recipe import BackboneRecipe, HeadConfig

NAME = "small-vit"
"""Under which checkpoints know the trained network."""


class Scores(NamedTuple):
    """What the network says about a batch, float32.

    Attributes:
        cls: Likeness of the class token to each prototype, (N, K) in [-1, 1].
        patches: The same of every patch, (N, P, K).
        projected: Patches as they are compared with prototypes, and with each other, (N, P, C).
        edges: Its guess of the edges of every patch, (N, P, D).
        features: Patches as the last block leaves them, (N, P, E).
    """

    cls: Tensor
    patches: Tensor
    projected: Tensor
    edges: Tensor
    features: Tensor


class ProjectionHead(nn.Module):
    """An MLP, then the cosine to each of K learned prototypes. One head for class token and patches alike."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            linear(width, config.hidden),
            nn.GELU(),
            linear(config.hidden, config.hidden),
            nn.GELU(),
            linear(config.hidden, config.bottleneck),
        )
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, config.bottleneck))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (..., E) -> unit vectors (..., C), and scores (..., K) in [-1, 1], float32."""
        x = F.normalize(self.mlp(tokens).float(), dim=-1)
        # a cosine of 8 bits, divided by a temperature of 0.05, would be off by a tenth
        with torch.autocast(x.device.type, enabled=False):
            return x, F.linear(x, F.normalize(self.prototypes.float(), dim=-1))


class Student(nn.Module):
    """Transformer and heads; the teacher is the running average of one.

    Args:
        recipe: Of the run.
    """

    def __init__(self, recipe: BackboneRecipe) -> None:
        super().__init__()
        self.vit = build_vit(recipe)
        self.head = ProjectionHead(self.vit.embed_dim, recipe.head)
        self.edges = linear(self.vit.embed_dim, EDGE_VALUES)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Scores:
        """Describe images.

        Args:
            image: Luminance, (N, 1, H, W) in [0, 1], H and W multiples of 16.
            mask: True for patches to hide, (N, P), bool.
        """
        cls, patches = self.vit.forward_features(image.expand(-1, 3, -1, -1), mask)
        projected, scores = self.head(torch.cat([cls.unsqueeze(1), patches], dim=1))
        return Scores(scores[:, 0], scores[:, 1:], projected[:, 1:], self.edges(patches).float(), patches.float())


def build_vit(recipe: BackboneRecipe) -> SmallViT:
    """The untrained transformer of a recipe, with a mask token."""
    mean, std = (recipe.mean,) * 3, (recipe.std,) * 3
    vit = SmallViT(ViTConfig(**recipe.network), name=NAME, mean=mean, std=std)
    _balance_filters(vit)
    return vit


def build_control(config: ViTConfig, mean: Sequence[float], std: Sequence[float], seed: int) -> SmallViT:
    """What a training begins with, frozen: tells what a trained transformer owes to its architecture.

    Args:
        config: Size of the trained one.
        mean: That it subtracts from the three channels.
        std: That it divides them by.
        seed: Of the random weights.
    """
    vit = SmallViT.random(seed, config, mean=mean, std=std)
    _balance_filters(vit)
    return vit


@torch.no_grad()
def _balance_filters(vit: SmallViT) -> None:
    """Make the sum of each filter 0.

    With any other the grey level outweighs all else in fresh features, and a student that sees another tone than its
    teacher learns for long to guess a grey level that it cannot know.
    """
    vit.patches.weight -= vit.patches.weight.mean(dim=(1, 2, 3), keepdim=True)
