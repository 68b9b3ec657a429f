"""A UniFusion recipe small enough for tests, trainers and command lines of runs with it."""

import torch
import yaml

from tests.training.tiny_tita_runs import MADE, PAIRS
from training.unifusion import UniFusionTrainer
from training.unifusion_recipe import UniFusionRecipe

NETWORK = {"embed_dim": 64, "width": 8, "heads": 2, "cross_blocks": 1}
BACKBONE = {"kind": "small", "path": None, "seed": 1, "depth": 4}


def recipe(**changes):
    """Values of the recipe with some of them changed."""
    return {
        "profile": "unifusion",
        "network": NETWORK,
        "backbone": BACKBONE,
        "seed": 3,
        "precision": "32-true",
        "steps": 4,
        "sampling": {"batch": 2, "side": 32},
        "optim": {"lr": 3e-3, "warmup_steps": 1, "clip": 1.0, "ema": 0.9},
        "tasks": [
            {"name": "infrared-visible", "pairs": PAIRS, "objective": {"correlation": 1.0}},
            {"name": "multi-focus", "made": MADE, "objective": {"truth": True}, "rec_weight": 10.0},
        ],
        "validation": {
            "every": 2,
            "pairs": 1,
            "side": 64,
            "tasks": [{"name": "infrared-visible", "pairs": PAIRS}, {"name": "multi-focus", "made": MADE}],
        },
        **changes,
    }


def tiny_trainer(data, folder, **changes):
    """A trainer whose untrained network already uses all its features: fresh ones begin with a plain blend."""
    trainer = UniFusionTrainer(UniFusionRecipe.model_validate(recipe(**changes)), data, folder)
    with torch.no_grad():
        for parameter in trainer.network.fusion.head[3].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trainer.average.load_state_dict(trainer.module.state_dict())
    return trainer


def unifusion_words(data, folder, out, **changes):
    """Writes the recipe into ``folder``; the command that runs it."""
    path = folder / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe(**changes)))
    return ["unifusion", "--recipe", path, "--data", data, "--out", out]
