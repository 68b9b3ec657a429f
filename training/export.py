"""Write a bundle: graphs, weights, slot file and card, everything with its checksum."""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from models.token_fusion import TokenFusionModel
from training.bundle import file_record, new_bundle, training_record, write_card
from training.card_text import CardText, load_card_text
from training.data.images import DataError
from training.export_tita import export_tita
from training.export_unifusion import export_unifusion
from training.graphs import OPSET, graph_spec, is_half, parity, round_weights, write_weights
from training.macs import count_macs
from training.record import run_records
from training.run import CHECKPOINT, load_checkpoint
from training.titok_ste import load_trained
from training.tokenizer_files import load_tokenizer

Storage = Literal["float16", "float32"]

WITHOUT_TOKENS = {"tita": export_tita, "unifusion": export_unifusion}
"""How the runs of models without tokens are exported, by their kind."""


def tokenizer_record(folder: Path, text: CardText) -> dict[str, list[dict[str, Any]]]:
    """The card's training section for the tokenizer, from its run or from the bundle that it was taken from."""
    if (folder / CHECKPOINT).is_file():
        return training_record(text, folder, load_checkpoint(folder / CHECKPOINT), "tokenizer")
    training = json.loads((folder / "card.json").read_text())["training"]
    data = [use for use in training["data"] if use["use"] == "tokenizer"]
    return {"data": data, "runs": run_records(folder, "tokenizer")}


def export(
    tokenizer_run: Path,
    fusion_run: Path,
    text: CardText,
    folder: Path,
    *,
    storage: Storage = "float16",
    checkpoint: str = CHECKPOINT,
    fixed_strength: bool = False,
) -> None:
    """Write the whole bundle.

    Args:
        tokenizer_run: Run folder of the tokenizer, or a bundle that holds it.
        fusion_run: Run folder of the network.
        text: Words of the card.
        folder: The bundle.
        storage: How weights are stored; arithmetic is float32 either way.
        checkpoint: Which checkpoint of the network's run.
        fixed_strength: Leave the edit slots out and bake their default in, for a network that did not learn to answer
            to them: a slider that does nothing is worse than none.

    Raises:
        RuntimeError: ONNX and PyTorch disagree, or float16 storage changes the picture.
        DataError: The runs do not belong together.
    """
    tokenizer = load_tokenizer(tokenizer_run)
    model, state = load_trained(fusion_run, tokenizer, checkpoint=checkpoint)
    half = storage == "float16"
    extra = {"profile": state["profile"]} | ({"float16_storage_change": round_weights(model)} if half else {})
    with new_bundle(folder) as made:
        write_weights(model, made, half=half and is_half(tokenizer), fixed=fixed_strength)
        (made / "slots.json").write_text(json.dumps(json.loads(state["slots"]), indent=1) + "\n")
        training = {
            key: first + second
            for (key, first), second in zip(
                tokenizer_record(tokenizer_run, text).items(),
                training_record(text, fusion_run, state, "fusion").values(),
                strict=True,
            )
        }
        write_card(make_card(model, text, made, training, fixed=fixed_strength, extra=extra), made)


def make_card(
    model: TokenFusionModel,
    text: CardText,
    folder: Path,
    training: dict[str, list[dict[str, Any]]],
    *,
    fixed: bool,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The card of a bundle whose other files are written.

    Raises:
        RuntimeError: ONNX and PyTorch disagree.
    """
    tokenizer = model.tokenizer
    per_pixel, per_image = count_macs(deepcopy(model).to("meta"), 480, 640)
    files = ("encoder.onnx", "fusion.onnx", "fusion.safetensors", "tokenizer.safetensors", "slots.json")
    slots = [] if fixed else zip(model.slots, model.ste.strength_limit().tolist(), strict=True)
    return {
        "card_version": 1,
        **text.model_dump(include={"name", "title", "summary", "paper", "tasks"}),
        "opset": OPSET,
        "files": {name: file_record(folder / name) for name in files},
        "fusion": graph_spec(folder / "fusion.onnx"),
        "encoder": graph_spec(folder / "encoder.onnx"),
        "edit_slots": [
            {"name": name, "default": 1.0, "max": round(top, 4), "meaning": text.slots[name]} for name, top in slots
        ],
        "size": text.size,
        "parameters": {
            "fusion": sum(p.numel() for p in model.parameters()),
            "tokenizer": sum(p.numel() for p in tokenizer.parameters()),
        },
        "macs": {"fuse_per_pixel": per_pixel, "encode_per_image": per_image},
        "training": training,
        "evaluation": [],
        "parity": parity(model, folder, fixed=fixed),
        "extra": {"tokenizer_id": tokenizer.tokenizer_id, **extra, **text.extra},
        **text.model_dump(include={"licence", "limits"}),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training export``."""
    parser.add_argument(
        "--tokenizer", type=Path, help="run folder of the tokenizer, or a bundle; for titok-ste models only"
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder of the fusion network")
    parser.add_argument("--card", help="card text: name or .yaml path (default: the kind of run, or titok-ste-lite)")
    parser.add_argument("--storage", choices=("float16", "float32"), default="float16", help="of the weights")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="last, or best by validation")
    parser.add_argument("--fixed-strength", action="store_true", help="no edit slots; their default is baked in")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder, e.g. weights/titok-ste-lite")


def run(args: argparse.Namespace) -> None:
    """Export, check parity and print the bundle's files."""
    checkpoint = f"{args.checkpoint}.pt"
    kind = load_checkpoint(args.run / checkpoint).get("kind")
    text = load_card_text(args.card or (kind if kind in WITHOUT_TOKENS else "titok-ste-lite"))
    _check_options(args, kind)
    try:
        if kind in WITHOUT_TOKENS:
            WITHOUT_TOKENS[kind](args.run, text, args.out, half=args.storage == "float16", checkpoint=checkpoint)
        else:
            export(
                args.tokenizer,
                args.run,
                text,
                args.out,
                storage=args.storage,
                checkpoint=checkpoint,
                fixed_strength=args.fixed_strength,
            )
    except RuntimeError as error:
        raise DataError(str(error)) from error
    for path in sorted(args.out.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path}")


def _check_options(args: argparse.Namespace, kind: str | None) -> None:
    """Refuse options that do not belong to the kind of run."""
    if kind in WITHOUT_TOKENS and (args.tokenizer or args.fixed_strength):
        raise DataError(f"{args.run} is a {kind} run, which has no tokens: leave out --tokenizer and --fixed-strength")
    if kind not in WITHOUT_TOKENS and args.tokenizer is None:
        raise DataError(f"{args.run} needs its tokenizer: give --tokenizer, its run folder or a bundle")
