"""Compares ways to write and read pictures: CPU milliseconds and bytes, of fused pictures and of one request's pair.

python -m benchmarks.codecs                        drawn pairs of 640×480 and 1280×1024
python -m benchmarks.codecs --a FOLDER --b FOLDER  photographs as well: files of the same name, at their own size

Packages that are not installed are left out: cv2, imagecodecs, fpng_py, pyspng, zlib_ng, deflate. The service needs
none of them.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from app.bundles import read_bundle
from app.codec import decode, open_image
from app.color import join_color, to_bytes
from app.engine import Engine
from app.errors import BundleError, StartupError
from app.onnx_backend import OnnxBackend
from app.settings import CLONE_WEIGHTS, Settings
from benchmarks.codec_ways import LOSSLESS, NO_LIMIT, Pixels, Ways, all_ways, filtered_rows
from benchmarks.errors import BenchError
from benchmarks.facts import machine_facts
from benchmarks.pictures import Scene
from benchmarks.rounds import WHOLE, Step, interleave, processor_timed, spread

FAILED = 2
SIZES = ((480, 640), (1024, 1280))
Row = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """Pictures that are measured together.

    Attributes:
        name: Which they are.
        pairs: Files of both sources, each pair as a request has it.
        fused: Fused pictures, colour (H, W, 3) and grey (H, W) by these two names.
    """

    name: str
    pairs: list[tuple[bytes, bytes]]
    fused: dict[str, list[Pixels]]


def make_sheet(engine: Engine, name: str, pairs: list[tuple[bytes, bytes]]) -> Sheet:
    """Fuses pairs of files as the service does, with the chroma of the sources and without."""
    fused: dict[str, list[Pixels]] = {"colour": [], "grey": []}
    edit = tuple(slot.default for slot in engine.card.edit_slots)
    for files in pairs:
        first, second = (decode(open_image(data, "image", NO_LIMIT), "image", "stretch") for data in files)
        luma = engine.run([engine.job(first.luma, second.luma, edit)])[0].luma
        fused["grey"].append(to_bytes(luma))
        fused["colour"].append(join_color(luma, first.rgb, second.rgb, "auto"))
    return Sheet(name, pairs, fused)


def measure(sheet: Sheet, ways: Ways, rounds: int) -> dict[str, list[Row]]:
    """Returns the rows of each table: write, pack and read."""
    tables: dict[str, list[Row]] = {"write": [], "pack": [], "read": []}
    for kind, pictures in sheet.fused.items():
        steps: dict[str, Step] = {}
        sizes: dict[str, int] = {}
        for (output, way), write in ways.write.items():
            if kind == "grey" and way.startswith("fpng"):  # It takes colour only.
                continue
            name = f"{output}: {way}"
            sizes[name] = sum(_written(write, picture, output, way) for picture in pictures)
            steps[name] = processor_timed(partial(_each, write, pictures))
        tables["write"] += _rows(sheet.name, kind, steps, sizes, rounds)
        rows = [filtered_rows(picture) for picture in pictures]
        sizes = {name: sum(len(pack(each)) for each in rows) for name, pack in ways.pack.items()}
        steps = {name: processor_timed(partial(_each, pack, rows)) for name, pack in ways.pack.items()}
        tables["pack"] += _rows(sheet.name, kind, steps, sizes, rounds)
    for output in ("png", "jpeg"):
        files = [data if output == "png" else _as_jpeg(data) for pair in sheet.pairs for data in pair]
        readers = {f"{output}: {way}": read for (kind, way), read in ways.read.items() if kind == output}
        steps = {name: processor_timed(partial(_each, read, files)) for name, read in readers.items()}
        sizes = dict.fromkeys(readers, sum(map(len, files)))
        tables["read"] += _rows(sheet.name, "both sources", steps, sizes, rounds)
    return tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    console = Console(soft_wrap=True, highlight=False)
    ways = all_ways()
    for name in ways.missing:
        console.print(f"left out: {name} is not installed")
    tables: dict[str, list[Row]] = {"write": [], "pack": [], "read": []}
    try:
        for sheet in _sheets(options):
            for table, rows in measure(sheet, ways, options.rounds).items():
                tables[table] += rows
    except (BenchError, BundleError, StartupError) as error:
        print(f"codecs: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    machine = machine_facts(1) | ways.versions
    text = _report(machine, tables)
    console.print(text, markup=False)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "codecs.md").write_text(text, encoding="utf-8")
    content = {"machine": machine, "left out": ways.missing, "rounds": options.rounds} | tables
    (options.out / "codecs.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


def _sheets(options: argparse.Namespace) -> Iterator[Sheet]:
    bundle = read_bundle(options.weights / options.model)
    backend = OnnxBackend(bundle, Settings(device="cpu", threads=1))
    engine = Engine(bundle.card, backend, 0, lambda hit: None)
    for height, width in options.sizes:
        yield make_sheet(engine, f"drawn, {width}×{height}", [Scene(height, width).files()])
    if options.a:
        pairs = list(_photographs(options.a, options.b, options.limit))
        yield make_sheet(engine, f"photographs ({len(pairs)})", pairs)


def _photographs(folder_a: Path, folder_b: Path, limit: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields pairs of PNG files of the same name, as a camera's files would be sent."""
    partners = {path.stem: path for path in sorted(folder_b.iterdir())}
    found = [(path, partners[path.stem]) for path in sorted(folder_a.iterdir()) if path.stem in partners]
    if not found:
        raise BenchError(f"{folder_a} and {folder_b} have no file names in common")
    for paths in found[:: max(1, len(found) // limit)][:limit]:
        first, second = (_as_png(path.read_bytes()) for path in paths)
        yield first, second


def _written(write: Callable[[Pixels], bytes], picture: Pixels, output: str, way: str) -> int:
    """Returns the bytes of a picture, after a look at what was written."""
    data = write(picture)
    found = np.asarray(Image.open(io.BytesIO(data)).convert("L" if picture.ndim == 2 else "RGB"))
    if output in LOSSLESS and not np.array_equal(found, picture):
        raise BenchError(f"{way} wrote another picture than it was given")
    return len(data)


def _rows(name: str, kind: str, steps: dict[str, Step], sizes: dict[str, int], rounds: int) -> list[Row]:
    rows: list[Row] = []
    for way, samples in interleave(steps, rounds, lambda: None).items():
        found = spread([sample[WHOLE] * 1000 for sample in samples])
        times = {"CPU ms": found.median, "low": found.low, "high": found.high}
        rows.append({"pictures": name, "kind": kind, "way": way, **times, "kB": sizes[way] / 1000})
    return rows


def _each(work: Callable[[Pixels], object] | Callable[[bytes], object], items: Iterable[object]) -> None:
    for item in items:
        work(item)  # type: ignore[arg-type]


def _as_png(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "PNG")
    return buffer.getvalue()


def _as_jpeg(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _report(machine: dict[str, str], tables: dict[str, list[Row]]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    titles = {
        "write": "Writing fused pictures, lossy ones at quality 90",
        "pack": "Compressing the filtered rows of a PNG",
        "read": "Reading what a request brings",
    }
    parts = ["# Codecs", f"CPU time of one thread, median and quartiles over the rounds; {facts}."]
    for table, rows in tables.items():
        parts += [f"## {titles[table]}", _pivot(rows)]
    return "\n\n".join(parts) + "\n"


def _pivot(rows: Sequence[Row]) -> str:
    """Returns a table with a line for each way and a column for each kind of pictures."""
    columns = list(dict.fromkeys((row["pictures"], row["kind"]) for row in rows))
    cells = {(row["way"], row["pictures"], row["kind"]): f"{row['CPU ms']:.2f} / {row['kB']:.0f}" for row in rows}
    lines = [
        "| CPU ms / kB | " + " | ".join(f"{pictures}, {kind}" for pictures, kind in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        lines.append(f"| {way} | " + " | ".join(cells.get((way, *column), "–") for column in columns) + " |")
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codecs", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, default=CLONE_WEIGHTS, help="folder that holds the bundles")
    parser.add_argument("--model", default="titok-ste-lite", help="what fuses the pairs")
    parser.add_argument("--sizes", type=_size, nargs="+", default=SIZES, metavar="HxW", help="of the drawn pairs")
    parser.add_argument("--a", type=Path, help="folder of photographs a")
    parser.add_argument("--b", type=Path, help="folder of photographs b")
    parser.add_argument("--limit", type=int, default=8, help="most pairs of photographs (default 8)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of every time (default 7)")
    parser.add_argument("--out", type=Path, default=Path("out/codecs"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.limit < 1:
        parser.error("--rounds and --limit must be at least 1")
    if (options.a is None) != (options.b is None):
        parser.error("--a and --b belong together")
    return options


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
