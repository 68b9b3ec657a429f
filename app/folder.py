"""Fuses two folders of images, pair by pair, and picks up where it was interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from app.errors import ProblemError
from app.options import FuseOptions
from app.pipeline import Pipeline
from app.service import Service

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp"})
EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tiff"}
# One pair is decoded or encoded while another is in the model; more would only hold memory.
PAIRS_AT_ONCE = 3
RECORD = ".pairfuse.json"


@dataclass(frozen=True)
class Pair:
    """Two files to fuse, and where the result goes."""

    image_a: Path
    image_b: Path
    output: Path


def match_pairs(folder_a: Path, folder_b: Path, output: Path, extension: str) -> tuple[list[Pair], list[str]]:
    """Pairs the images of two folders by file name without suffix.

    Args:
        folder_a: Images a.
        folder_b: Images b.
        output: Folder for the results.
        extension: Suffix of the results, with dot.

    Returns:
        The pairs in the order of their names, and one line for each name that has no partner or several
        files.
    """
    files_a, files_b = _by_stem(folder_a), _by_stem(folder_b)
    pairs: list[Pair] = []
    faults: list[str] = []
    for stem in sorted(files_a.keys() | files_b.keys()):
        found_a, found_b = files_a.get(stem, []), files_b.get(stem, [])
        if len(found_a) == len(found_b) == 1:
            pairs.append(Pair(found_a[0], found_b[0], output / f"{stem}{extension}"))
        elif found_a and found_b:
            faults.append(f"{stem}: several files of this name: {', '.join(path.name for path in found_a + found_b)}")
        else:
            faults.append(f"{stem}: not in {folder_b if found_a else folder_a}")
    return pairs, faults


def same_options(output: Path, options: FuseOptions) -> bool:
    """Whether the results in a folder were made with these options; an empty folder takes note of them.

    Without this a second run with another strength would skip what exists and leave two kinds of results.
    """
    record = output / RECORD
    now = json.dumps(asdict(options), sort_keys=True)
    if not record.exists():
        record.write_text(now + "\n", encoding="utf-8")
        return True
    return record.read_text(encoding="utf-8").strip() == now


async def fuse_file(pipeline: Pipeline, pair: Pair, options: FuseOptions) -> None:
    """Fuses one pair of files; the output appears complete or not at all.

    Raises:
        ProblemError: The pair cannot be fused.
        OSError: A file cannot be read or written.
    """
    result = await pipeline.fuse(pair.image_a.read_bytes(), pair.image_b.read_bytes(), options)
    partial = pair.output.with_name(f".{pair.output.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(result.body)
        partial.replace(pair.output)
    finally:
        partial.unlink(missing_ok=True)


async def fuse_pairs(
    service: Service, pairs: Iterable[Pair], options: FuseOptions, advance: Callable[[], None]
) -> list[str]:
    """Fuses many pairs, a few at a time.

    Args:
        service: A built service that is not running.
        pairs: What to fuse.
        options: Checked options, the same for all.
        advance: Called after each pair, whether it worked or not.

    Returns:
        One line for each pair that failed.
    """
    waiting = iter(pairs)
    faults: list[str] = []
    async with running(service) as pipeline, asyncio.TaskGroup() as group:
        for _ in range(PAIRS_AT_ONCE):
            group.create_task(_work(pipeline, waiting, options, advance, faults))
    return sorted(faults)


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[Pipeline]:
    """Runs the pipeline of a service without a server."""
    service.pipeline.start()
    try:
        yield service.pipeline
    finally:
        await service.pipeline.stop()


async def _work(
    pipeline: Pipeline,
    waiting: Iterable[Pair],
    options: FuseOptions,
    advance: Callable[[], None],
    faults: list[str],
) -> None:
    for pair in waiting:
        try:
            await fuse_file(pipeline, pair, options)
        except ProblemError as error:
            faults.append(f"{pair.output.stem}: {error.detail}")
        except OSError as error:
            faults.append(f"{pair.output.stem}: {error}")
        advance()


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found
