"""The command ``draw``: a data root of drawn pairs, in the layout that the shipped recipes read."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from os import cpu_count
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from training.data.images import MIN_SIDE, SUFFIXES, DataError
from training.drawn.streets import draw_street

KINDS = ("visible", "infrared")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training draw``."""
    parser.add_argument("--out", type=Path, required=True, help="data root; pairs go to ivf/train and ivf/val below it")
    parser.add_argument("--train", type=int, default=48, help="training pairs")
    parser.add_argument("--val", type=int, default=6, help="validation pairs")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--samples", type=int, default=2, help="rays per pixel and axis; 1 takes a third of the time")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other streets")


def run(args: argparse.Namespace) -> None:
    """Draw all pairs, one process for each core.

    Raises:
        DataError: A number is too small, a folder already holds other images, or the pictures cannot be written.
    """
    if min(args.train, args.val, args.samples) < 1 or args.seed < 0:
        raise DataError("--train, --val and --samples must be at least 1, --seed at least 0")
    if min(args.size) < MIN_SIDE:
        raise DataError(f"--size must be at least {MIN_SIDE} pixels a side")
    seeds = {"train": range(args.train), "val": range(args.train, args.train + args.val)}
    targets = [(args.out / "ivf" / part, seed) for part, numbers in seeds.items() for seed in numbers]
    height, width = args.size
    draw = partial(_write_pair, height=height, width=width, samples=args.samples, seed=args.seed)
    try:
        for part, numbers in seeds.items():
            _make_folders(args.out / "ivf" / part, {_name(seed) for seed in numbers})
        with ProcessPoolExecutor(min(cpu_count() or 1, len(targets))) as pool:
            for _ in tqdm(pool.map(draw, targets), desc="drawing", total=len(targets), unit="pair", mininterval=1.0):
                pass
    except OSError as error:
        raise DataError(f"cannot write to {args.out}: {error}") from error
    print(f"{args.train} training and {args.val} validation pairs of {width}×{height} pixels in {args.out}/ivf")


def _name(number: int) -> str:
    return f"street_{number:04}"


def _make_folders(part: Path, names: set[str]) -> None:
    for kind in KINDS:
        folder = part / kind
        folder.mkdir(parents=True, exist_ok=True)
        others = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.stem not in names]
        if others:
            raise DataError(f"{folder} already holds other images, e.g. {others[0].name}: give another --out")


def _write_pair(target: tuple[Path, int], *, height: int, width: int, samples: int, seed: int) -> None:
    folder, number = target
    pictures = draw_street(1_000_000 * seed + number, height, width, samples)
    for kind, pixels in zip(KINDS, pictures, strict=True):
        Image.fromarray(pixels).save(folder / kind / f"{_name(number)}.png")
