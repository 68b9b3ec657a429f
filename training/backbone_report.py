"""The command ``backbone-report``: what the features of a trained backbone tell, from one sensor to the other.

For each patch of the first image of a pair the most similar patch of the second is looked for. Features that describe
what is there find the same place although the two sensors show it differently. Random weights of the same architecture
and plain pixels stand beside: what is found without any training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from models.unifusion import SmallViT
from models.unifusion.config import STRIDE
from training.backbone_files import WEIGHTS, load_backbone, load_trained
from training.backbone_matching import Matches, Rates, centre_multiple, match, shifted_parts, usual_shift
from training.backbone_student import build_control
from training.config import PairFolder
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.evaluation.report import write_json
from training.run import CHECKPOINT

SEED = 0
"""Of the random weights."""

Describe = Callable[[Tensor], list[Tensor]]
"""Maps of features of an image: (1, 1, H, W) in [0, 1] -> maps (E, h, w)."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        features: What was compared.
        aligned: Both images as a whole.
        shifted: Parts that do not begin at the same place: what only tells the place finds nothing.
    """

    features: str
    aligned: Rates
    shifted: Rates


def pixels(image: Tensor) -> list[Tensor]:
    """Grey values of each patch less their mean, so that a cosine is a correlation: (1, 1, H, W) -> (256, h, w)."""
    patches = F.pixel_unshuffle(image, STRIDE)[0]
    return [patches - patches.mean(dim=0, keepdim=True)]


def taps_of(vit: SmallViT) -> Describe:
    """The four taps of a backbone, on its device."""
    device = next(vit.parameters()).device

    @torch.no_grad()
    def describe(image: Tensor) -> list[Tensor]:
        return [tap[0].cpu() for tap in vit(image.to(device).expand(-1, 3, -1, -1))]

    return describe


def measure(pairs: ImagePairs, describe: Describe, names: Sequence[str], limit: int | None = None) -> list[Row]:
    """Match all pairs by each map of features.

    Args:
        pairs: Aligned pairs.
        describe: Makes the maps.
        names: Of the maps.
        limit: Longest side in pixels that is looked at; None takes whole images.

    Raises:
        DataError: A pair is too small.
    """
    aligned: list[list[Matches]] = [[] for _ in names]
    shifted: list[list[Matches]] = [[] for _ in names]
    for row in tqdm(range(len(pairs)), desc=names[-1], unit="pair", delay=3.0, leave=False):
        a, b = (centre_multiple(image, limit) for image in pairs.full(row))
        for found, shift in ((aligned, (0, 0)), (shifted, usual_shift(a))):
            maps = (describe(part) for part in shifted_parts(a, b, shift))
            for matches, ours, theirs in zip(found, *maps, strict=True):
                matches.append(match(ours, theirs, shift))
    return [Row(name, Rates.of(a), Rates.of(s)) for name, a, s in zip(names, aligned, shifted, strict=True)]


def to_markdown(rows: Sequence[Row], vit: SmallViT, data: str, count: int) -> str:
    """The table with what it means."""
    identity = vit.identity()
    lines = [
        f"# Backbone {identity.name}, {identity.sha256[:12]}",
        "",
        f"{vit.config.depth} blocks of width {vit.embed_dim}. {count} pairs of {data}, {STRIDE}-pixel patches; means "
        "over the pairs. For each patch of the first image: its nearest neighbour by cosine among all patches of the "
        "second.",
        "",
        "| features | same place | within one patch | distance | same place, shifted | within one patch, shifted "
        "| distance, shifted |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = " | ".join(
            f"{100 * rates.hit:.1f} % | {100 * rates.near:.1f} % | {rates.distance:.2f}"
            for rates in (row.aligned, row.shifted)
        )
        lines.append(f"| {row.features} | {cells} |")
    lines += [
        "",
        f"Chance finds {100 * rows[0].shifted.chance:.2f} %. *Shifted*: the two parts that are compared begin at "
        "different places of the scene, so features that only tell where a patch lies in the image find nothing there, "
        "however well they do on whole images. Distances are in patches.",
        "",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training backbone-report``."""
    parser.add_argument("--run", dest="run_folder", type=Path, required=True, metavar="RUN", help="run, or saved files")
    parser.add_argument("--data", type=Path, required=True, help="data root that the folders lie in")
    parser.add_argument("--a", default="ivf/val/visible", help="folder of the first images (default: %(default)s)")
    parser.add_argument("--b", default="ivf/val/infrared", help="folder of the second images (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for report.md, report.json, pictures"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pairs")
    parser.add_argument("--side", type=int, metavar="PIXELS", help="only the central part; default: whole images")
    parser.add_argument("--show", type=int, default=4, metavar="N", help="pairs to draw (default: %(default)s)")
    parser.add_argument("--random", action="store_true", help="draw the same pictures with random weights too")


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, and write it with pictures.

    Raises:
        DataError: An option, the backbone or an image is wrong.
    """
    if args.show < 0 or (args.limit is not None and args.limit < 1):
        raise DataError("--limit must be 1 or more, and --show 0 or more")
    if args.side is not None and args.side < 3 * STRIDE:
        raise DataError(f"--side must be {3 * STRIDE} or more, not {args.side}")
    args.out.mkdir(parents=True, exist_ok=True)  # now, so that a bad folder costs no measurement
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vit = load_any(args.run_folder)
    control = build_control(vit.config, vit.mean, vit.std, SEED)
    pairs = ImagePairs(args.data, [PairFolder(a=args.a, b=args.b, limit=args.limit)])
    networks = {"trained": taps_of(vit.to(device)), "random": taps_of(control.to(device))}
    rows = [
        row
        for name, describe in networks.items()
        for row in measure(pairs, describe, [f"{name}, block {tap + 1}" for tap in vit.taps], args.side)
    ]
    rows += measure(pairs, pixels, ["pixels"], args.side)
    text = to_markdown(rows, vit, f"{args.a} + {args.b}", len(pairs))
    print(text, end="")
    (args.out / "report.md").write_text(text, encoding="utf-8")
    write_json(args.out / "report.json", to_json(rows, vit, pairs, args.side))
    _draw(pairs, networks if args.random else {"trained": networks["trained"]}, args)


def to_json(rows: Sequence[Row], vit: SmallViT, pairs: ImagePairs, side: int | None) -> dict[str, Any]:
    """All values."""
    return {
        "backbone": vit.identity().record(),
        "pairs": pairs.counts,
        "side": side,
        "rows": [asdict(row) for row in rows],
    }


def load_any(folder: Path) -> SmallViT:
    """The backbone of a run folder, or one that was saved.

    Raises:
        FileNotFoundError: It is neither.
        DataError: It is damaged.
    """
    if (folder / CHECKPOINT).is_file():
        return load_trained(folder)
    if folder.suffix == ".safetensors" or (folder / WEIGHTS).is_file():
        return load_backbone(folder)
    raise FileNotFoundError(f"{folder} holds neither {CHECKPOINT} nor {WEIGHTS}: give a backbone run, or saved files")


def _draw(pairs: ImagePairs, networks: dict[str, Describe], args: argparse.Namespace) -> None:
    from training.backbone_pictures import save_components, save_matches  # noqa: PLC0415  only they need matplotlib

    for row in range(min(args.show, len(pairs))):
        a, b = (centre_multiple(image, args.side) for image in pairs.full(row))
        for name, describe in networks.items():
            stem = args.out / f"{pairs.names[row]}-{name}"
            save_components(a, b, describe(a)[-1], describe(b)[-1], stem.with_name(f"{stem.name}-components.png"))
            shift = usual_shift(a)
            parts = shifted_parts(a, b, shift)
            found = match(describe(parts[0])[-1], describe(parts[1])[-1], shift)
            save_matches(*parts, found, shift, stem.with_name(f"{stem.name}-matches.png"))
