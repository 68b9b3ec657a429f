"""The command ``synthesise``: folders of pairs with their truth, made from single images, for a fixed evaluation."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from training.config import checked_values
from training.data.images import DataError, list_images
from training.synthesis.files import choose_images, generator_of, new_folder, read_image, write_pair, write_record
from training.synthesis.kinds import CONFIGS, synthesise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training synthesise``."""
    parser.add_argument("kind", choices=CONFIGS, help="multi-focus or multi-exposure pairs")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="sharp, well-exposed images")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder for a/, b/ and truth/")
    parser.add_argument("--count", type=int, metavar="N", help="pairs to make (default: one of each image)")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other pairs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. --set 'radius=[2, 8]'")


def run(args: argparse.Namespace) -> None:
    """Make the pairs.

    Raises:
        DataError: A number or setting is wrong, an image cannot be read, or the folder exists or cannot be written.
    """
    if args.seed < 0:
        raise DataError(f"--seed must be at least 0, got {args.seed}")
    config = checked_values({}, CONFIGS[args.kind], args.set, f"settings of {args.kind}")
    jobs = choose_images(list_images(args.images), args.count, args.seed)
    try:
        with new_folder(args.out) as folder:
            for job in tqdm(jobs, desc=args.kind, unit="pair", mininterval=1.0):
                pair = synthesise(read_image(job.path), config, generator_of(args.seed, job.name))
                write_pair(folder, job.name, pair)
            record = {"seed": args.seed, "settings": config.model_dump(), "pairs": [job.name for job in jobs]}
            write_record(folder, record)
    except OSError as error:
        raise DataError(f"cannot write to {args.out}: {error}") from error
    print(f"{len(jobs)} {args.kind} pairs in {args.out}: a, b and truth")
