"""What the command line asks for: sizes, methods by name, metrics. Every mistake is a one-line ``DataError``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from training.data.images import DataError
from training.evaluation.methods import FusedFolder, Method, PairMethod
from training.evaluation.metrics import METRICS, RANKED, TRUTH_METRICS, find_metrics
from training.evaluation.runner import Bundle

AnyMethod = Method | PairMethod


def parse_size(text: str) -> int | None:
    """``native`` to None, or a side in pixels.

    Raises:
        DataError: It is neither.
    """
    if text == "native":
        return None
    if not text.isdecimal() or int(text) < 2:
        raise DataError(f"--size must be native or a side in pixels, not {text!r}")
    return int(text)


def choose_metrics(
    names: Sequence[str], rank_by: Sequence[str] | None, *, truth: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics to measure, and those that count for the mean rank.

    Args:
        names: Metrics, or ``all`` alone.
        rank_by: Metrics that count, measured in any case; None takes those of ``RANKED`` among the names, or all
            names where there is none.
        truth: Whether the truth is known; what is measured against it then comes first, asked for or not.

    Raises:
        ValueError: There is no metric of a name.
        DataError: A metric needs the truth, which is not known.
    """
    if list(names) == ["all"]:
        names = list(METRICS)
    asked = tuple(dict.fromkeys([*names, *(rank_by or ())]))
    find_metrics(asked)
    needy = [name for name in asked if name in TRUTH_METRICS]
    if needy and not truth:
        raise DataError(f"{needy[0]} needs the truth of every pair: give its sub-folder with --truth")
    implied = tuple(name for name in RANKED if name in asked) or asked
    measured = tuple(dict.fromkeys([*TRUTH_METRICS, *asked])) if truth else asked
    return measured, tuple(dict.fromkeys(rank_by)) if rank_by else implied


def name_bundles(bundles: Sequence[Bundle]) -> dict[str, Bundle]:
    """Bundles by the name in their card; those that share one by as much of their folder as tells them apart.

    Raises:
        DataError: One folder is given twice.
    """
    folders = [bundle.folder.resolve() for bundle in bundles]
    if len(set(folders)) < len(folders):
        raise DataError("--bundle names one folder twice")
    named: dict[str, Bundle] = {}
    for bundle, folder in zip(bundles, folders, strict=True):
        rivals = [f for other, f in zip(bundles, folders, strict=True) if other.name == bundle.name and f != folder]
        name = _short_path(folder, rivals) if rivals else bundle.name
        if name in named:
            raise DataError(
                f"two bundles would be called {name!r}: rename one of {named[name].folder}, {bundle.folder}"
            )
        named[name] = bundle
    return named


def _short_path(folder: Path, rivals: Sequence[Path]) -> str:
    """The fewest last parts of a path that no rival ends in."""
    for count in range(1, len(folder.parts)):
        if all(rival.parts[-count:] != folder.parts[-count:] for rival in rivals):
            return "/".join(folder.parts[-count:])
    return str(folder)


def choose_methods(
    bundles: Mapping[str, Bundle], fused: Sequence[str], baselines: Mapping[str, Method]
) -> dict[str, AnyMethod]:
    """All methods by name: baselines, bundles, then folders of fused images.

    Args:
        bundles: By name.
        fused: ``NAME=FOLDER`` each.
        baselines: By name.

    Raises:
        DataError: There is none, two share a name, or a ``NAME=FOLDER`` is malformed.
    """
    named: list[tuple[str, AnyMethod]] = [*baselines.items(), *bundles.items()]
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


def choose_references(
    reference: str | None, bundles: Iterable[str], methods: Sequence[str], baselines: Iterable[str]
) -> tuple[str, ...]:
    """Methods whose differences to all others are reported: the one asked for, else all bundles.

    Without bundles it is the first method that is no baseline, else the first of all.

    Raises:
        DataError: There is no method of the name asked for.
    """
    if reference is not None:
        if reference not in methods:
            raise DataError(f"--reference {reference!r} is none of the methods: {', '.join(methods)}")
        return (reference,)
    own = tuple(bundles) or tuple(name for name in methods if name not in set(baselines))[:1]
    return own or (methods[0],)
