"""Shows findings as tables, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from benchmarks.findings import Finding, findings
from benchmarks.large import Large
from benchmarks.large_report import large_json, large_markdown, large_table
from benchmarks.measure import Measured

COLUMNS = ("", "median", "quartiles", "unit", "target", "")
VERDICTS = {True: "pass", False: "miss", None: ""}
COLORS = {True: "green", False: "red", None: ""}
NUMERIC = range(1, 3)
NOTE = (
    "Everything was measured in turn in the same rounds, never two things at once; each round keeps the "
    "better of two tries. Ratios are taken round by round. MACs are those of convolutions and matrix "
    "products; 1 MAC = 2 FLOP, 1 MB = 10⁶ bytes."
)


def as_tables(measured: list[Measured]) -> Iterator[Table | str]:
    """Yields one table a model for the terminal, then one more, or a line that says why there is none."""
    for item in measured:
        table = Table(*COLUMNS, title=_title(item), title_justify="left")
        for number in NUMERIC:
            table.columns[number].justify = "right"
        for section, rows in findings(item).items():
            table.add_row(f"[bold]{section}[/bold]")
            for row in rows:
                *cells, verdict = _cells(row)
                color = COLORS[row.passed]
                table.add_row(*cells, f"[{color}]{verdict}[/{color}]" if color else verdict)
            table.add_section()
        yield table
    for item in measured:
        yield large_table(item.name, item.large) if isinstance(item.large, Large) else f"{item.name}: {item.large}"


def as_markdown(facts: Mapping[str, str], measured: list[Measured]) -> str:
    """Returns the whole report as Markdown."""
    lines = ["# Benchmark", "", ", ".join(f"{name}: {value}" for name, value in facts.items()), "", NOTE]
    for item in measured:
        lines += ["", f"## {_title(item)}", ""]
        lines += ["| | median | quartiles | unit | target | |", "|---|---:|---:|---|---|---|"]
        for section, rows in findings(item).items():
            lines.append(f"| **{section}** | | | | | |")
            lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    lines += ["", "## Memory against image size"]
    for item in measured:
        lines += ["", *large_markdown(item.name, item.large)]
    return "\n".join(lines) + "\n"


def as_json(facts: Mapping[str, str], measured: list[Measured]) -> dict[str, Any]:
    """Returns facts, findings and raw samples."""
    return {"machine": dict(facts), "note": NOTE, "models": [_model(item) for item in measured]}


def _title(item: Measured) -> str:
    height, width = item.size
    rounds = len(next(iter(item.series.values())))
    upload = item.upload_bytes / 1000
    return f"{item.name}, {width}×{height}, {rounds} rounds, {upload:.0f} kB of PNG a pair"


def _cells(row: Finding) -> tuple[str, str, str, str, str, str]:
    quartiles = "" if row.low is None or row.high is None else f"{number(row.low)} – {number(row.high)}"
    value = "unknown" if row.value is None else number(row.value)
    target = "" if row.target is None else f"{row.target.sign} {row.target.bound:g}"
    return row.label, value, quartiles, row.unit, target, VERDICTS[row.passed]


def number(value: float) -> str:
    """Formats with three digits or more, never in powers of ten."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _model(item: Measured) -> dict[str, Any]:
    rows = {
        row.key: {
            "value": row.value,
            "quartiles": None if row.low is None else [row.low, row.high],
            "unit": row.unit,
            "target": None if row.target is None else f"{row.target.sign} {row.target.bound:g}",
            "passed": row.passed,
        }
        for section in findings(item).values()
        for row in section
    }
    size = {"height": item.size[0], "width": item.size[1]}
    return {
        "name": item.name,
        "size": size,
        "findings": rows,
        "samples_s": item.series,
        "large": large_json(item.large),
    }
