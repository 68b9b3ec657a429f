"""The command ``evaluate``: metrics of bundles, baselines and foreign results on a folder of pairs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.images import DataError
from training.evaluation.baselines import SOURCES, TASKS, baselines_for
from training.evaluation.controls import controls_of
from training.evaluation.groups import read_groups
from training.evaluation.markdown import means_table
from training.evaluation.methods import evaluate_methods
from training.evaluation.metrics import DEFAULT, METRICS, RANKED, TRUTH_METRICS
from training.evaluation.page import PairPictures
from training.evaluation.pairs import Pair, load_pairs
from training.evaluation.report import card_entry, write_json, write_report
from training.evaluation.runner import Bundle, write_evaluation
from training.evaluation.selection import (
    AnyMethod,
    choose_methods,
    choose_metrics,
    choose_references,
    name_bundles,
    parse_size,
)
from training.evaluation.sheet import Keeper, contact_sheet
from training.evaluation.strength import Slot, study_json, study_markdown, study_strength
from training.evaluation.summary import Report
from training.stopped import INTERRUPTED, Stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate`` to a parser."""
    data = parser.add_argument_group("images")
    data.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with two sub-folders; grey of 16 bits is read as in training: the 0.1th percentile of an image "
        "becomes black, the 99.9th white",
    )
    data.add_argument("--a", default="visible", help="sub-folder of the first images (default: visible)")
    data.add_argument("--b", default="infrared", help="sub-folder of the second images (default: infrared)")
    data.add_argument(
        "--truth",
        metavar="SUBFOLDER",
        help="sub-folder of what fusion should give, as `synthesise` writes it (truth): measure "
        f"{' and '.join(TRUTH_METRICS)} of every method, and of both sources as {' and '.join(SOURCES)}",
    )
    data.add_argument("--size", default="native", help="native, or a side such as 256 to squash both images to")
    data.add_argument("--limit", type=int, metavar="N", help="only the first N pairs")
    data.add_argument("--groups", type=Path, metavar="FILE.csv", help="columns name,group: mean ranks per group too")
    _add_methods(parser.add_argument_group("methods"))
    _add_results(parser.add_argument_group("results"))


def _add_methods(what: argparse._ArgumentGroup) -> None:
    what.add_argument("--bundle", type=Path, action="append", default=[], metavar="FOLDER", help="repeatable")
    what.add_argument(
        "--fused",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="images of another method, repeatable; grey of 16 bits is read at full scale: 65535 is white",
    )
    what.add_argument(
        "--baselines",
        nargs="?",
        const=TASKS[0],
        metavar="TASK",
        help=f"add {', '.join(baselines_for(TASKS[0]))}; TASK exposure: OpenCV's Mertens too (default: {TASKS[0]})",
    )
    what.add_argument(
        "--controls",
        action="store_true",
        help="add each bundle at strength 0, with the tokens of another image, and with zeroed tokens",
    )
    what.add_argument(
        "--reference", metavar="NAME", help="method to hold all others against (default: each bundle; pairs: the first)"
    )


def _add_results(out: argparse._ArgumentGroup) -> None:
    out.add_argument(
        "--metrics",
        nargs="+",
        default=list(DEFAULT),
        metavar="NAME",
        help=f"all, or some of {', '.join(METRICS)} (default: {' '.join(DEFAULT)})",
    )
    out.add_argument(
        "--rank-by",
        nargs="+",
        metavar="NAME",
        help=f"metrics that count for the mean rank (default: those measured of {' '.join(RANKED)})",
    )
    out.add_argument("--out", type=Path, metavar="FOLDER", help="write metrics.json, metrics.md and report.html here")
    out.add_argument("--label", help="name of the data set in the report (default: the folder's last two names)")
    out.add_argument(
        "--html-pairs", type=int, default=20, metavar="N", help="pairs with images in report.html (default: 20)"
    )
    out.add_argument("--sheet", type=int, default=0, metavar="N", help="contact sheet of N pairs (needs --out)")
    out.add_argument("--save-fused", action="store_true", help="save every fused image as PNG (needs --out)")
    out.add_argument("--strength-study", action="store_true", help="study the bundles' edit strength (needs --out)")
    out.add_argument("--write-card", action="store_true", help="put the results into each bundle's card")
    out.add_argument("--threads", type=int, default=1, help="threads of onnxruntime (default: 1)")
    out.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that compute metrics (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the table and write what was asked for.

    Raises:
        DataError: An option, an image, a bundle or a fused image is wrong; the message says which.
        Stopped: The evaluation was interrupted.
    """
    _check(args)
    try:
        _run(args)
    except OSError as error:  # reading has its own messages; what is left is writing
        raise DataError(f"cannot write the results: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from error
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command evaluates from the start") from None


def _check(args: argparse.Namespace) -> None:
    if (args.sheet or args.save_fused or args.strength_study) and args.out is None:
        raise DataError("--sheet, --save-fused and --strength-study need --out FOLDER")
    if (args.write_card or args.controls) and not args.bundle:
        raise DataError("--write-card and --controls: each needs --bundle")
    for option, least in (("limit", 1), ("sheet", 0), ("html_pairs", 0), ("threads", 0), ("jobs", 1)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise DataError(f"--{option.replace('_', '-')} must be {least} or more, not {value}")


def _run(args: argparse.Namespace) -> None:
    metrics, ranked_by = choose_metrics(args.metrics, args.rank_by, truth=args.truth is not None)
    side = parse_size(args.size)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)  # now, so that a bad folder costs no evaluation
    bundles = name_bundles([Bundle(folder, threads=args.threads) for folder in args.bundle])
    task = args.baselines or (TASKS[0] if args.write_card else None)
    baselines = baselines_for(task) if task else {}
    sources = SOURCES if args.truth is not None else {}
    methods = choose_methods(bundles, args.fused, {**baselines, **sources})
    pairs = load_pairs(args.data, args.a, args.b, truth=args.truth, size=side, limit=args.limit)
    models = _add_controls(methods, bundles, pairs) if args.controls else {}
    references = choose_references(args.reference, bundles, list(methods), [*baselines, *sources])
    groups = read_groups(args.groups, [pair.name for pair in pairs]) if args.groups else {}
    keeper = Keeper(
        methods,
        pairs[: args.sheet],
        thumbnails=args.out is not None and args.html_pairs > 0,
        save_to=args.out / "fused" if args.save_fused else None,
    )
    results = evaluate_methods(pairs, methods, metrics, on_fused=keeper, jobs=args.jobs)
    size = args.size if side is None else f"{side}x{side}"
    label = args.label or "/".join(args.data.resolve().parts[-2:])
    report = Report(label, size, results, ranked_by, references, groups, models)
    print(means_table(report), end="")
    if args.out is not None:
        _write(args, report, pairs, keeper)
    studies = _study_bundles(pairs, bundles, args.out) if args.strength_study else {}
    if args.write_card:
        _write_cards(report, bundles, list(baselines), list(sources), studies)


def _add_controls(
    methods: dict[str, AnyMethod], bundles: Mapping[str, Bundle], pairs: Sequence[Pair]
) -> dict[str, str]:
    """Add the controls of every bundle to the methods; return the bundle's name by control."""
    models: dict[str, str] = {}
    for name, bundle in bundles.items():
        controls = controls_of(name, bundle, pairs)
        if taken := controls.keys() & methods.keys():
            raise DataError(f"{min(taken)!r} is the name of a control: give that method another")
        methods |= controls
        models |= dict.fromkeys(controls, name)
    if not models:
        raise DataError("--controls needs a bundle with tokens or edit slots")
    return models


def _write(args: argparse.Namespace, report: Report, pairs: Sequence[Pair], keeper: Keeper) -> None:
    write_report(report, args.out, PairPictures(pairs, keeper.thumbnails, args.html_pairs, (args.a, args.b)))
    if keeper.rows:
        contact_sheet(list(keeper.rows.values())).save(args.out / "sheet.png")
    print(f"\nwritten: {args.out / 'report.html'}, metrics.md, metrics.json")


def _write_cards(
    report: Report,
    bundles: Mapping[str, Bundle],
    baselines: Sequence[str],
    sources: Sequence[str],
    studies: Mapping[str, Any],
) -> None:
    for name, bundle in bundles.items():
        entry = card_entry(report, [name, *baselines], own=name, called=bundle.name, beside=sources)
        study = {"strength": studies[name]} if name in studies else {}
        write_evaluation(bundle.folder, {**entry, **study})


def _study_bundles(pairs: Sequence[Pair], bundles: Mapping[str, Bundle], out: Path) -> dict[str, Any]:
    """Write strength.json and strength.md for all bundles that have edit slots; return the former by bundle."""
    found = {}
    for name, bundle in bundles.items():
        slots = [Slot(str(s["name"]), float(s["default"]), float(s["max"])) for s in bundle.slots]
        if slots:
            found[name] = study_strength(pairs, bundle.fuse, slots)
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
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
