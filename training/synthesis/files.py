"""Images in, folders of pairs out: deterministic for a seed, and all or nothing."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data.images import MIN_SIDE, DataError, read_picture
from training.synthesis.pair import SynthesisedPair

RECORD = "synthesis.json"
"""How the pairs of a folder were made."""


class Job(NamedTuple):
    """One pair to make: from which image, and its name."""

    path: Path
    name: str


def choose_images(files: Sequence[Path], count: int | None, seed: int) -> list[Job]:
    """Which images to make pairs of: each once, or ``count`` of them drawn by the seed; further rounds if that is more.

    Raises:
        DataError: ``count`` is below 1, or two images share a name.
    """
    if count is not None and count < 1:
        raise DataError(f"--count must be at least 1, got {count}")
    if count is None:
        jobs = [Job(path, path.stem) for path in files]
    else:
        drawn = random.Random(seed).sample(files, len(files))
        rounds = -(-count // len(files))
        all_rounds = [Job(path, _name(path, i, rounds)) for i in range(rounds) for path in drawn]
        jobs = sorted(all_rounds[:count], key=lambda job: job.name)
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two images share the name {twice!r}: remove one of them")
    return jobs


def _name(path: Path, number: int, rounds: int) -> str:
    return path.stem if rounds == 1 else f"{path.stem}_{number + 1:0{len(str(rounds))}}"


def generator_of(seed: int, name: str) -> torch.Generator:
    """Random numbers of one pair, whatever else is made."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def read_image(path: Path) -> Tensor:
    """An image with its colours, (1, 1 or 3, H, W) in [0, 1].

    Raises:
        DataError: It cannot be read, or is shorter than 32 pixels on a side.
    """
    pixels = read_picture(path)
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise DataError(f"{path} is {width}×{height}: every side must have at least {MIN_SIDE} pixels")
    planes = torch.from_numpy(pixels.reshape(height, width, -1).astype(np.float32))
    return planes.permute(2, 0, 1)[None] / 255.0


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` when the block ends well, and is gone otherwise.

    Raises:
        DataError: ``out`` is a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already and is left as it is: give another --out, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        folder = holder / out.name
        folder.mkdir()
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(holder)


def write_pair(folder: Path, name: str, pair: SynthesisedPair) -> None:
    """Write ``a/NAME.png``, ``b/NAME.png`` and ``truth/NAME.png``, 8 bit, of a pair of one image."""
    for side, image in pair._asdict().items():
        (folder / side).mkdir(exist_ok=True)
        pixels = (image[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()  # (H, W, C)
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(folder / side / f"{name}.png")


def write_record(folder: Path, record: Mapping[str, object]) -> None:
    """Write ``synthesis.json``."""
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
