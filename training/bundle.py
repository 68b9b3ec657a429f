"""What every bundle has, whatever the model: a card, checksums, the record of its training."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.card_text import CardText
from training.record import run_records


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """A folder to write a bundle into, which becomes ``folder`` if nothing fails.

    A bundle that is there already stays whole until the new one has passed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        yield (made := Path(name))
        for path in made.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner may read
            path.replace(folder / path.name)


def write_card(card: dict[str, Any], folder: Path) -> None:
    """Write ``card.json``."""
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")


def file_record(path: Path) -> dict[str, Any]:
    """Checksum and size of a file."""
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def data_names(state: dict[str, Any]) -> dict[str, str]:
    """Name of each data folder of a run for the card: both folders where the images belong to pairs."""
    if state["kind"] != "tokenizer":
        return {name: name for name in state["data"]}
    folders = json.loads(state["recipe"])["train"]
    return {f["path"]: f"{f['path']} + {f['partner']}" if f["partner"] else f["path"] for f in folders}


def training_record(text: CardText, folder: Path, state: dict[str, Any], use: str) -> dict[str, list[dict[str, Any]]]:
    """The card's training section for one run and those that it started from, from its checkpoint.

    Args:
        text: Terms of the data.
        folder: Run folder.
        state: The checkpoint.
        use: ``tokenizer`` or ``fusion``.
    """
    names = data_names(state)
    data = [{**row, "name": names[row["name"]]} for row in data_record(text, state["data"], use)]
    return {"data": data, "runs": run_records(folder, state["kind"])}


def data_record(text: CardText, counts: Mapping[str, int], use: str) -> list[dict[str, Any]]:
    """The card's record of the data behind some weights.

    Args:
        text: Terms of the data.
        counts: Images by their folder, and pairs by their folders with ' + ' between.
        use: What was trained on it.
    """
    return [
        {
            "name": name,
            "count": count,
            "unit": "pairs" if " + " in name else "images",
            "use": use,
            "licence": text.data_licences.get(name.split(" + ")[0].rpartition("/")[0], "not stated"),
        }
        for name, count in counts.items()
    ]
