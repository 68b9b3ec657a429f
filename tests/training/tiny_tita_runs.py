"""A TITA recipe small enough for tests, and command lines of runs with it."""

import yaml

NETWORK = {
    "dim": 12,
    "heads": 3,
    "pixel_heads": 3,
    "extract_depth": 1,
    "fusion_depths": [2],
    "rebuild_depth": 1,
    "drop_path": 0.2,
}
PAIRS = [{"a": "ivf/train/visible", "b": "ivf/train/infrared"}]
MADE = {"images": [{"path": "ivf/train/visible"}], "how": {"kind": "focus", "radius": [1.0, 3.0]}}


def recipe(**changes):
    """Values of the recipe with some of them changed."""
    return {
        "profile": "tita",
        "network": NETWORK,
        "seed": 3,
        "precision": "32-true",
        "steps": 4,
        "sampling": {"batch": 2, "side": 32},
        "optim": {"lr": 3e-3, "warmup_steps": 1, "clip": 0.0, "ema": 0.9},
        "tasks": [
            {"name": "infrared-visible", "pairs": PAIRS, "objective": {"correlation": 1.0, "out_of_range": 10.0}},
            {"name": "multi-focus", "made": MADE, "objective": {"truth": True, "target": "mean", "shares": "equal"}},
        ],
        "validation": {
            "every": 2,
            "pairs": 1,
            "side": 64,
            "tasks": [{"name": "infrared-visible", "pairs": PAIRS}, {"name": "multi-focus", "made": MADE}],
        },
        **changes,
    }


def tita_words(data, folder, out, **changes):
    """Writes the recipe into ``folder``; the command that runs it."""
    path = folder / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe(**changes)))
    return ["tita", "--recipe", path, "--data", data, "--out", out]
