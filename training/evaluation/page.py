"""The HTML report: one file with tables, plots and images, which needs neither network nor scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from training.evaluation import wording
from training.evaluation.baselines import SOURCES
from training.evaluation.metrics import ALL_METRICS
from training.evaluation.pairs import Pair
from training.evaluation.plots import means_plot, pairs_plot
from training.evaluation.sheet import thumbnail
from training.evaluation.summary import RANK, Report

_OTHERS = 3
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class PairPictures:
    """What the page may show of the pairs.

    Attributes:
        pairs: All pairs of the report, in its order.
        thumbnails: JPEG of each fused image, ``[method, pair]``.
        shown: How many pairs to show, worst first.
        labels: What the first and second images are, such as visible and infrared.
    """

    pairs: Sequence[Pair]
    thumbnails: Mapping[tuple[str, str], bytes]
    shown: int
    labels: tuple[str, str]


def to_html(report: Report, pictures: PairPictures) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    several = len(report.results.pairs) > 1
    return environment.get_template(_TEMPLATE).render(
        report=report,
        words=wording,
        is_ranked=lambda column: column == RANK or column in report.ranked_by,
        deviations=report.results.deviations(),
        best={column: wording.best_of(report.table[column], column) for column in report.columns},
        texts={RANK: "mean rank, 1 is best", **{name: ALL_METRICS[name].text for name in report.results.metrics}},
        several=several,
        means_plot=Markup(means_plot(report)),  # safe as it is: matplotlib escapes the names of methods
        pairs_plot=Markup(pairs_plot(report)) if several else "",
        entries=_entries(report, pictures),
    )


def _compared(report: Report) -> list[str]:
    """The methods shown in pictures: the reference, other references, then the best of the rest, controls last.

    The sources are shown in any case, and not once more as methods.
    """
    first = [report.reference, *report.references[1:]]
    others = [name for name in report.by_rank if name not in first and name not in SOURCES]
    rest = sorted(others, key=lambda name: name in report.controls)
    return [*first, *rest][: _OTHERS + 1]


def _entries(report: Report, pictures: PairPictures) -> list[dict[str, Any]]:
    """One dictionary per pair that is shown."""
    entries = []
    names = _compared(report)
    values = report.results.values
    for place, row in enumerate(report.worst_first[: pictures.shown], start=1):
        pair = pictures.pairs[row]
        images = [(label, thumbnail(image)) for label, image in zip(pictures.labels, (pair.a, pair.b), strict=True)]
        if pair.truth is not None:
            images.append(("truth", thumbnail(pair.truth)))
        images += [(name, pictures.thumbnails[name, pair.name]) for name in names]
        cells = {RANK: {name: ranks[row] for name, ranks in report.pair_ranks.items()}}
        cells |= {m: {name: table[m][row] for name, table in values.items()} for m in report.results.metrics}
        entries.append(
            {
                "title": f"{place}. {pair.name}",
                "group": report.groups.get(pair.name, ""),
                "size": f"{pair.a.shape[1]}×{pair.a.shape[0]}",
                "notable": wording.notable(report, row),
                "images": [(label, _data_uri(jpeg)) for label, jpeg in images],
                "cells": cells,
                "best": {column: wording.best_of(cells[column], column) for column in report.columns},
            }
        )
    return entries


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
