"""The ablation of UniFusion's paper: rows, printed values, and what each row changes in the recipe.

"UniFusion: A Unified Image Fusion Framework with Robust Representation and Source-Aware Preservation", CVPR 2026. The
authors' code has no switch for any row; how ours are built stands in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.unifusion.config import ABLATION_CHANGES
from training.ablation.tables import Table

_NETWORKS = {
    row: tuple(f"network.{key}={str(value).lower()}" for key, value in changes.items())
    for row, changes in ABLATION_CHANGES.items()
}

CHANGES: Mapping[str, tuple[str, ...]] = {
    **_NETWORKS,
    "no-bilevel": ("levels.joint=true", "levels.inner_steps=1", "levels.fuse_grad_to_adapter=1"),
    "random": ("backbone.random=true",),
}
"""What a row changes in the recipe, as ``--set`` takes it."""

SETS: Mapping[str, tuple[str, ...]] = {
    "infrared-visible": ("MI", "VIF"),
    "multi-exposure": ("MI", "VIF"),
    "multi-focus": ("MI", "Qabf"),
}
"""Validation tasks of the recipe whose pairs are measured, and by what."""

_TABLE = Table(
    0,
    "parts of the network and of its training",
    tuple(f"{metric} {name}" for name, metrics in SETS.items() for metric in metrics),
    {
        "full": "everything",
        "no-adapter": "the last tap alone, projected and enlarged",
        "no-adapter-skip": "the same, and the image itself",
        "no-dinov3": "four blocks trained with the adapters in place of a frozen backbone",
        "no-reconstruction": "no reconstruction; the fusion loss trains the adapters",
        "no-bilevel": "one optimiser for the sum of both losses",
        "random": "the backbone with random weights, frozen",
    },
    {
        "M3FD, MEFB, MFIF": {
            "full": (4.268, 0.899, 6.861, 1.484, 6.253, 0.685),
            "no-adapter": (3.646, 0.863, 5.512, 1.232, 5.375, 0.532),
            "no-dinov3": (3.681, 0.879, 5.709, 1.334, 5.624, 0.491),
            "no-reconstruction": (3.846, 0.870, 6.434, 1.396, 5.838, 0.579),
            "no-bilevel": (3.924, 0.876, 6.374, 1.424, 6.021, 0.583),
        }
    },
    (
        "Compare the order of rows and their distances, not the values: other images, other training images. The "
        "authors' configurations name the same folders for training and for testing.",
        "The paper does not say what takes the adapter's place; no-adapter and no-adapter-skip are two readings.",
        "The paper lacks the row random: what the architecture does without what it has learned. The authors' code, as "
        "published, is no-bilevel around such a backbone: it trains on one sum of both losses, and overwrites most of "
        "DINOv3 with random values before freezing it.",
    ),
    model="unifusion",
    elsewhere="on other images",
    decimals=3,
)
TABLES: dict[int, Table] = {_TABLE.number: _TABLE}
