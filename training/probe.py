"""``python -m training probe``: which tokens may be edited, and what each edit does. Writes the slot file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from models.ste import SlotSpec
from training.config import PairFolder
from training.data.images import DataError
from training.probing.prober import Method, Options, Prober
from training.probing.report import budget_summary, spec_lines, summary_markdown, unedited_means
from training.probing.settings import (
    CheckSettings,
    Modality,
    PairSettings,
    SearchSettings,
    add_options,
    from_args,
)
from training.probing.slots import GROUP, Slot, write_json
from training.run import seed_everything

FOLDERS = ("ivf/train/visible", "ivf/train/infrared")
"""Default folders below the data root."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training probe``."""
    parser.add_argument("--method", choices=get_args(Method), default="supervised", help="how slots are chosen")
    parser.add_argument("--tokenizer", type=Path, help="run folder of the tokenizer, or a bundle")
    parser.add_argument("--run", type=Path, help="trained fusion network: its run folder, or a bundle")
    parser.add_argument("--data", type=Path, help="data root")
    parser.add_argument("--folder", action="append", help="supervised: image folder below it; may be repeated")
    parser.add_argument("--a", default=FOLDERS[0], help=f"first images of the probing pairs ({FOLDERS[0]})")
    parser.add_argument("--b", default=FOLDERS[1], help=f"second images of the probing pairs ({FOLDERS[1]})")
    parser.add_argument("--slots", type=int, help="how many slots, 0 to 4 (2)")
    parser.add_argument("--budgets", type=int, nargs="+", metavar="N", help="several slot counts; --out is a folder")
    parser.add_argument(
        "--modality",
        nargs="+",
        choices=get_args(Modality),
        default=["both"],
        help="whose tokens are edited; further ones are searched too, for the plots (both)",
    )
    parser.add_argument("--positions", type=int, nargs="+", default=[], metavar="K", help="fixed: token positions")
    parser.add_argument("--channels", type=int, nargs="+", default=[6, 7, 8], metavar="C", help="fixed (6 7 8)")
    parser.add_argument("--amount", type=float, default=1.0, help="supervised: strength of the sharpened copies (1.0)")
    parser.add_argument("--sigma", type=float, default=2.0, help="supervised: blur of the smoothed copies (2.0)")
    parser.add_argument("--seed", type=int, default=5, help="first seed of the search, or of the random choice (5)")
    for section in (PairSettings, SearchSettings, CheckSettings):
        add_options(parser, section)
    parser.add_argument("--plots", type=Path, metavar="DIR", help="folder for plots")
    parser.add_argument("--out", type=Path, required=True, help="slot file to write (JSON); a folder with --budgets")


def run(args: argparse.Namespace) -> None:
    """Probe and write the slot file, or one for each budget and a summary."""
    if args.budgets is not None and args.slots is not None:
        raise DataError("give --slots or --budgets, not both")
    seed_everything(args.seed)
    prober = Prober(_options(args))
    if args.budgets is None:
        default = len(args.positions) if args.method == "fixed" else 2
        spec = _probe(prober, default if args.slots is None else args.slots, args.plots)
        write_json(args.out, spec.to_dict())
        return
    specs = {}
    for budget in sorted(set(args.budgets)):
        plots = None if args.plots is None else args.plots / f"slots{budget}"
        specs[budget] = _probe(prober, budget, plots)
        write_json(args.out / f"slots{budget}.json", specs[budget].to_dict())
    unedited = None if prober.subject is None else unedited_means(prober.subject)
    summary = budget_summary(specs, unedited)
    write_json(args.out / "summary.json", summary)
    table = summary_markdown(summary)
    (args.out / "summary.md").write_text(table)
    print(table, end="")
    if args.plots is not None and unedited is not None:
        from training.probing.plots import save_budgets  # noqa: PLC0415  only plots need matplotlib

        save_budgets(specs, unedited, args.plots)


def _options(args: argparse.Namespace) -> Options:
    return Options(
        method=args.method,
        tokenizer=args.tokenizer,
        run=args.run,
        data=args.data,
        pair_folder=PairFolder(a=args.a, b=args.b),
        folders=tuple(args.folder or FOLDERS),
        amount=args.amount,
        sigma=args.sigma,
        seed=args.seed,
        positions=tuple(args.positions),
        channels=tuple(args.channels),
        modalities=tuple(args.modality),
        pairs=from_args(PairSettings, args),
        search=from_args(SearchSettings, args),
        check=from_args(CheckSettings, args),
    )


def _probe(prober: Prober, budget: int, plots: Path | None) -> SlotSpec:
    spec = prober.probe(budget)
    for line in spec_lines(spec):
        print(line)
    if plots is not None:
        _plot(prober, spec, budget, plots)
    return spec


def _plot(prober: Prober, spec: SlotSpec, budget: int, folder: Path) -> None:
    from training.probing import plots  # noqa: PLC0415  only plots need matplotlib

    if budget in prober.selections:
        plots.save_search(prober.selections[budget], folder)
    if prober.subject is None:
        return
    places = zip(spec.positions, spec.channels, strict=True)
    plots.save_check(prober.check, [(p, channels[0] // GROUP) for p, channels in places], folder)
    effects = spec.evidence["slot_effects"]
    slots = {
        name: Slot(p, own, tuple(effects[name]["mean_shift"]), "")
        for name, p, own in zip(spec.names, spec.positions, spec.channels, strict=True)
    }
    if slots:
        plots.save_effects(prober.subject, slots, prober.options.check.amplitude, folder)
