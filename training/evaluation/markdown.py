"""The Markdown report: means, intervals, paired differences and groups as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from training.evaluation import wording
from training.evaluation.summary import RANK, Report


def to_markdown(report: Report) -> str:
    """All tables. The first is ``means_table``; differences that exclude 0 are bold and carry ▲ or ▼."""
    parts = [means_table(report)]
    if len(report.results.pairs) > 1:
        parts += [_intervals_table(report)]
        parts += [_differences_table(report, reference) for reference in report.references]
    if report.groups:
        parts += [_groups_table(report)]
    return "\n".join(part for part in parts if part)


def means_table(report: Report) -> str:
    """What was measured, the findings, and a row per method, best mean rank first; best values are bold."""
    heads = [f"{name} {wording.arrow(name)}" for name in report.columns]
    rows = [[name, *(_mean_cell(report, column, name) for column in report.columns)] for name in report.by_rank]
    lines = [
        f"{report.dataset}: {wording.setting(report)}. {wording.method_text(report)}",
        "",
        *wording.headline(report),
        "",
        *_table(["method", *heads], rows),
    ]
    return "\n".join(lines) + "\n"


def _mean_cell(report: Report, column: str, method: str) -> str:
    text = wording.number(report.table[column][method])
    return f"**{text}**" if method in wording.best_of(report.table[column], column) else text


def _intervals_table(report: Report) -> str:
    deviations = report.results.deviations()
    rows = [
        [
            method,
            *(
                (f"{wording.number(deviations[method][column])}; " if column != RANK else "")
                + wording.interval(report.intervals[column][method])
                for column in report.columns
            ),
        ]
        for method in report.by_rank
    ]
    title = ["## Standard deviation over the pairs; interval of the mean", ""]
    return "\n".join([*title, *_table(["method", *report.columns], rows)]) + "\n"


def _differences_table(report: Report, reference: str) -> str:
    others = [name for name in report.by_rank if name != reference]
    if not others:
        return ""
    rows = [
        [f"{column} {wording.arrow(column)}", *(_difference_cell(report, reference, name, column) for name in others)]
        for column in report.columns
    ]
    lines = [
        f"## Differences: {reference} minus another method, on the same pairs",
        "",
        f"Mean difference and its interval. Bold: the interval excludes 0, {reference} is better (▲) or worse (▼).",
        "",
        *_table(["", *others], rows),
    ]
    return "\n".join(lines) + "\n"


def _difference_cell(report: Report, reference: str, other: str, column: str) -> str:
    difference = report.differences[reference][other][column]
    (text, ends), sign = wording.difference(difference), wording.verdict(difference)
    mean = f"**{text}** {sign}" if sign else text
    return f"{mean} ({ends})" if ends else mean


def _groups_table(report: Report) -> str:
    groups = report.group_ranks
    heads = [f"{name} ({group.pairs})" for name, group in groups.items()]
    rows = [[method, *(wording.number(group.ranks[method]) for group in groups.values())] for method in report.by_rank]
    title = ["## Mean rank by group (number of pairs)", ""]
    return "\n".join([*title, *_table(["method", *heads], rows)]) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(map(_cell, heads)) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
