"""A backbone recipe small enough for tests, and command lines of runs with it."""

import yaml

from training.backbone_recipe import BackboneRecipe

PAIRS = {"a": "ivf/train/visible", "b": "ivf/train/infrared"}
VIEWS = {
    "batch": 2,
    "sides": [32],
    "margin": 1,
    "zoom": [0.8, 1.5],
    "min_side": 48,
    "student": {"gamma": [0.5, 2.0], "invert_probability": 0.5, "noise_probability": 0.5, "noise_sigma": 0.05},
    "teacher": {"brightness": 0.1},
}


def recipe(**changes):
    """Values of the recipe with some of them changed."""
    return {
        "network": {"embed_dim": 64, "depth": 4, "heads": 1, "registers": 1},
        "seed": 3,
        "precision": "32-true",
        "steps": 4,
        "views": VIEWS,
        "head": {"hidden": 16, "bottleneck": 8, "prototypes": 24},
        "optim": {"lr": 3e-3, "warmup_steps": 1, "ema": 0.9, "weight_decay": 0.05},
        "sources": [{"share": 2, "pairs": PAIRS}, {"images": {"path": "ivf/train/visible"}}],
        "validation": {"every": 2, "pairs": [{"a": "ivf/val/visible", "b": "ivf/val/infrared"}], "side": 64},
        **changes,
    }


def model_recipe(**changes):
    """The same as the trainer takes it."""
    return BackboneRecipe.model_validate(recipe(**changes))


def backbone_words(data, folder, out, **changes):
    """Writes the recipe into ``folder``; the command that runs it."""
    path = folder / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe(**changes)))
    return ["backbone", "--recipe", path, "--data", data, "--out", out]
