"""The command ``evaluate``: metrics of bundles, baselines and foreign results on a folder of pairs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from training.data.images import DataError
from training.evaluation.baselines import BASELINES
from training.evaluation.methods import FusedFolder, Method, evaluate_methods
from training.evaluation.metrics import DEFAULT, METRICS, RANKED
from training.evaluation.pairs import Grey, Pair, load_pairs
from training.evaluation.report import (
    Report,
    card_entry,
    contact_sheet,
    to_markdown,
    write_json,
    write_report,
)
from training.evaluation.runner import Bundle, write_evaluation
from training.evaluation.strength import Slot, study_json, study_markdown, study_strength


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate`` to a parser."""
    data = parser.add_argument_group("images")
    data.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder with two sub-folders")
    data.add_argument("--a", default="visible", help="sub-folder of the first images (default: visible)")
    data.add_argument("--b", default="infrared", help="sub-folder of the second images (default: infrared)")
    data.add_argument("--size", default="native", help="native, or a side such as 256 to squash both images to")
    data.add_argument("--limit", type=int, metavar="N", help="only the first N pairs")
    what = parser.add_argument_group("methods")
    what.add_argument("--bundle", type=Path, action="append", default=[], metavar="FOLDER", help="repeatable")
    what.add_argument(
        "--fused",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="images of another method, repeatable",
    )
    what.add_argument("--baselines", action="store_true", help=f"add {', '.join(BASELINES)}")
    out = parser.add_argument_group("results")
    out.add_argument("--metrics", nargs="+", default=list(DEFAULT), metavar="NAME", help=f"of {', '.join(METRICS)}")
    out.add_argument("--out", type=Path, metavar="FOLDER", help="write metrics.json and metrics.md here")
    out.add_argument("--label", help="name of the data set in the report (default: the folder's last two names)")
    out.add_argument("--sheet", type=int, default=0, metavar="N", help="contact sheet of N pairs (needs --out)")
    out.add_argument("--save-fused", action="store_true", help="save every fused image as PNG (needs --out)")
    out.add_argument("--strength-study", action="store_true", help="study the bundles' edit strength (needs --out)")
    out.add_argument("--write-card", action="store_true", help="put the results into each bundle's card")
    out.add_argument("--threads", type=int, default=1, help="threads of onnxruntime (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the table and write what was asked for.

    Raises:
        DataError: An option, an image, a bundle or a fused image is wrong; the message says which.
    """
    if (args.sheet or args.save_fused or args.strength_study) and args.out is None:
        raise DataError("--sheet, --save-fused and --strength-study need --out FOLDER")
    if args.write_card and not args.bundle:
        raise DataError("--write-card needs --bundle")
    side = _parse_size(args.size)
    bundles = [Bundle(folder, threads=args.threads) for folder in args.bundle]
    methods = _methods(bundles, args.fused, baselines=args.baselines or args.write_card)
    pairs = load_pairs(args.data, args.a, args.b, size=side, limit=args.limit)
    try:
        report = _evaluate(args, pairs, methods)
        studies = _study_bundles(pairs, bundles, args.out) if args.strength_study else {}
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from error
    if args.write_card:
        for bundle in bundles:
            entry = card_entry(report, [bundle.name, *BASELINES])
            study = {"strength": studies[bundle.name]} if bundle.name in studies else {}
            write_evaluation(bundle.folder, {**entry, **study})


def _evaluate(args: argparse.Namespace, pairs: Sequence[Pair], methods: Mapping[str, Method | FusedFolder]) -> Report:
    """Measure, print the table and, with ``--out``, write the report and the images."""
    keeper = _Keeper(pairs[: args.sheet], args.out if args.save_fused else None, len(pairs) * len(methods))
    results = evaluate_methods(pairs, methods, args.metrics, on_fused=keeper)
    size = args.size if args.size == "native" else f"{args.size}x{args.size}"
    label = args.label or "/".join(args.data.resolve().parts[-2:])
    ranked_by = tuple(name for name in RANKED if name in args.metrics) or tuple(args.metrics)
    report = Report(label, size, results, ranked_by)
    print(to_markdown(report), end="")
    if args.out is not None:
        write_report(report, args.out)
    if keeper.rows:
        contact_sheet(list(keeper.rows.values())).save(args.out / "sheet.png")
    return report


class _Keeper:
    """Keeps the fused images of some pairs for a contact sheet, saves all if asked to, and shows progress."""

    def __init__(self, sheet: Sequence[Pair], folder: Path | None, total: int) -> None:
        self.rows: dict[str, dict[str, Grey]] = {p.name: {f"{p.name} a": p.a, "b": p.b} for p in sheet}
        self._folder, self._total, self._done = folder, total, 0

    def __call__(self, method: str, pair: Pair, fused: Grey) -> None:
        if pair.name in self.rows:
            self.rows[pair.name][method] = fused
        if self._folder is not None:
            path = self._folder / "fused" / method.replace(" ", "-") / f"{pair.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(fused).save(path)
        self._done += 1
        if sys.stderr.isatty():
            end = "\n" if self._done == self._total else ""
            print(f"\r{self._done} / {self._total} images", end=end, file=sys.stderr, flush=True)


def _parse_size(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isdecimal() or int(text) < 2:
        raise DataError(f"--size must be native or a side in pixels, not {text!r}")
    return int(text)


def _methods(bundles: Sequence[Bundle], fused: Sequence[str], *, baselines: bool) -> dict[str, Method | FusedFolder]:
    """All methods by name, baselines first.

    Raises:
        DataError: There is none, two share a name, or a ``NAME=FOLDER`` is malformed.
    """
    named: list[tuple[str, Method | FusedFolder]] = list(BASELINES.items()) if baselines else []
    named += [(bundle.name, bundle) for bundle in bundles]
    for text in fused:
        name, _, folder = text.partition("=")
        if not name or not folder or "/" in name:
            raise DataError(f"--fused takes NAME=FOLDER, not {text!r}")
        named.append((name, FusedFolder(Path(folder))))
    methods = dict(named)
    if not methods:
        raise DataError("nothing to evaluate: give --bundle, --fused or --baselines")
    if len(methods) < len(named):
        raise DataError(f"method names must differ: {', '.join(name for name, _ in named)}")
    return methods


def _study_bundles(pairs: Sequence[Pair], bundles: Sequence[Bundle], out: Path) -> dict[str, Any]:
    """Write strength.json and strength.md for all bundles that have edit slots; return the former by bundle."""
    found = {}
    for bundle in bundles:
        slots = [Slot(str(s["name"]), float(s["default"]), float(s["max"])) for s in bundle.slots]
        if slots:
            found[bundle.name] = study_strength(pairs, bundle.fuse, slots)
    if not found:
        raise DataError("--strength-study needs a bundle with edit slots")
    as_json = {name: study_json(studies) for name, studies in found.items()}
    write_json(out / "strength.json", as_json)
    text = "\n".join(study_markdown(name, studies) for name, studies in found.items())
    (out / "strength.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return as_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command by itself: ``python -m training.evaluation.command``."""
    parser = argparse.ArgumentParser(prog="python -m training evaluate", description=__doc__)
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
