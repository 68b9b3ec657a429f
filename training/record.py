"""The record of a training run as a card keeps it, and the records of what a run started from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.run import CHECKPOINT, NOTES, load_checkpoint


def run_record(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The card's record of one run.

    Args:
        state: Its checkpoint.
        folder: Its run folder; ``notes.txt`` in it, if there is one, goes into the record.
    """
    recipe = json.loads(state["recipe"])
    notes = folder / NOTES
    return {
        "recipe": json.dumps(recipe, separators=(",", ":")),
        "command": f"python -m training {state['kind']}",
        "steps": state["step"],
        "device": state["device"],
        "seed": recipe["seed"],
        "commit": state["commit"],
        "date": state["date"],
        "seconds": round(state["seconds"], 1),
        "notes": " ".join(notes.read_text().split()) if notes.is_file() else "",
    }


def run_records(source: Path, kind: str) -> list[dict[str, Any]]:
    """All runs behind a run folder or a bundle, oldest first.

    Args:
        source: A run folder, or a bundle, whose card is asked.
        kind: Of the runs of the bundle that count, such as ``tokenizer``.
    """
    if (source / CHECKPOINT).is_file():
        state = load_checkpoint(source / CHECKPOINT)
        return [*state.get("earlier", []), run_record(state, source)]
    runs: list[dict[str, Any]] = json.loads((source / "card.json").read_text())["training"]["runs"]
    return [run for run in runs if run["command"] == f"python -m training {kind}"]
