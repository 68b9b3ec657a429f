"""How a trained TITA weighs its operations from task to task: the paper's Table 9, with the spread over pairs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from models.tita import TITA
from models.tokenizer.checkpoint import matching_state
from training.data.images import MIN_SIDE, DataError, check_pairs, match_pairs, read_luminance
from training.evaluation.report import write_json
from training.evaluation.runner import CARD, read_card
from training.operations_report import OperationReport, TaskWeights, to_json, to_markdown
from training.tita import build_network, load_trained

SIDE = 256
"""Side of the central part that is looked at unless told otherwise."""

_WEIGHTS = "fusion.safetensors"


class TaskPairs(NamedTuple):
    """The pairs of one task.

    Attributes:
        name: Of the task.
        a: Folder of the first images, as it was given.
        b: Folder of the second images.
        files: Both files of each pair.
    """

    name: str
    a: str
    b: str
    files: list[tuple[Path, Path]]


def load_model(folder: Path) -> TITA:
    """The network of a released bundle, in eval mode.

    Args:
        folder: Holds fusion.safetensors and card.json, whose ``extra`` tells the network: its ``profile``, and in
            ``network`` what differs from that.

    Raises:
        DataError: A file is missing or damaged, the card names no TITA network, or the weights are of another one.
    """
    card = read_card(folder)
    try:
        profile, changes = str(card["extra"]["profile"]), dict(card["extra"].get("network", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / CARD} does not tell which TITA network the bundle holds ({error!r})") from error
    model = build_network(profile, changes)
    try:
        model.load_state_dict(matching_state(model, load_file(folder / _WEIGHTS), profile))
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"cannot load {folder / _WEIGHTS}: {error}") from error
    return model.eval()


def find_tasks(root: Path, asked: Sequence[str], *, limit: int | None = None) -> list[TaskPairs]:
    """The pairs of every task.

    Args:
        root: The data root.
        asked: ``TASK=FOLDER_A,FOLDER_B`` each, the folders below the root.
        limit: So many pairs of a task at most, spread evenly over its names: neighbours are often of one scene.

    Raises:
        DataError: A text is malformed, a task comes twice, or its images are no pairs of 32 pixels or more a side.
    """
    tasks: dict[str, TaskPairs] = {}
    for text in asked:
        name, _, folders = text.partition("=")
        a, _, b = folders.partition(",")
        if not (name and a and b) or "," in b:
            raise DataError(f"--pairs takes TASK=FOLDER_A,FOLDER_B, not {text!r}")
        if name in tasks:
            raise DataError(f"--pairs gives the task {name!r} twice")
        found = match_pairs(root / a, root / b)
        if limit is not None and limit < len(found):
            found = [found[row] for row in np.linspace(0, len(found) - 1, limit).round().astype(int)]
        check_pairs(found)
        tasks[name] = TaskPairs(name, a, b, found)
    return list(tasks.values())


@torch.no_grad()
def weigh(model: TITA, task: TaskPairs, side: int | None) -> TaskWeights:
    """The weights of the operations for every pair of a task; a bar shows how far it is.

    Args:
        model: Its device is used.
        task: The pairs.
        side: Only the central part of at most ``side`` × ``side`` pixels is looked at; None takes whole images.

    Raises:
        DataError: A file cannot be read.
    """
    device = next(model.parameters()).device
    rows: list[NDArray[np.float64]] = []
    for files in tqdm(task.files, desc=task.name, unit="pair", disable=None):
        a, b = (_read(path, side).to(device) for path in files)
        rows.append(model.operation_weights(a, b)[0].double().cpu().numpy())  # (2, O)
    return TaskWeights(task.name, task.a, task.b, tuple(a.stem for a, _ in task.files), np.stack(rows))


def _read(path: Path, side: int | None) -> Tensor:
    """The central part of an image, (1, 1, H, W) in [0, 1]."""
    image = read_luminance(path)
    if side is not None:
        top, left = (max(0, (length - side) // 2) for length in image.shape)
        image = image[top : top + side, left : left + side]
    return torch.from_numpy(image.astype(np.float32))[None, None] / 255.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training operations``."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, metavar="FOLDER", help="a released bundle of TITA")
    source.add_argument("--run", dest="run_folder", type=Path, metavar="FOLDER", help="a run folder of TITA")
    parser.add_argument("--data", type=Path, required=True, help="data root that the folders lie in")
    parser.add_argument(
        "--pairs",
        action="append",
        required=True,
        metavar="TASK=FOLDER_A,FOLDER_B",
        help="repeatable; the paper's values stand beside infrared-visible (ivf), multi-exposure (mef) and "
        "multi-focus (mff), whose first images are visible, over-exposed and focused far away",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N pairs of each task, evenly spread over its names"
    )
    parser.add_argument(
        "--size",
        default=str(SIDE),
        metavar="SIDE",
        help="look only at the central part of at most SIDE × SIDE pixels, or `native`: whole images, which take up to "
        f"2 million multiplications per pixel (default: {SIDE})",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write operations.json, .md and .png here")


def run(args: argparse.Namespace) -> None:
    """Measure, print the table and write what was asked for.

    Raises:
        DataError: An option, an image or the network is wrong; the message says which.
    """
    side = _parse_side(args.size)
    if args.limit is not None and args.limit < 1:
        raise DataError(f"--limit must be 1 or more, not {args.limit}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)  # now, so that a bad folder costs no measurement
    tasks = find_tasks(args.data, args.pairs, limit=args.limit)
    folder: Path = args.weights or args.run_folder
    model = load_model(folder) if args.weights else load_trained(folder)[0]
    if model.config.fusion_head != "oaf":
        raise DataError(f"{folder} fuses by a convolution, which has no operations to weigh")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    measured = tuple(weigh(model, task, side) for task in tasks)
    report = OperationReport(folder.resolve().name, args.size, model.config.operations, measured)
    text = to_markdown(report)
    print(text, end="")
    if args.out is not None:
        from training.operations_plot import save_bars  # noqa: PLC0415  only the plot needs matplotlib

        write_json(args.out / "operations.json", to_json(report))
        (args.out / "operations.md").write_text(text, encoding="utf-8")
        save_bars(report, args.out / "operations.png")
        print(f"\nwritten: {args.out / 'operations.md'}, operations.json, operations.png")


def _parse_side(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isdecimal() or int(text) < MIN_SIDE:
        raise DataError(f"--size must be native or a side of at least {MIN_SIDE} pixels, not {text!r}")
    return int(text)
