"""One table of our values and the paper's, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.ablation.asked import TONES
from training.ablation.measured import Measured
from training.ablation.study import Job, Skip
from training.ablation.tables import Table
from training.evaluation import wording
from training.evaluation.bootstrap import LEVEL
from training.evaluation.report import write_json
from training.evaluation.results import Results
from training.evaluation.summary import Difference, Report

JSON, MARKDOWN = "table.json", "table.md"


@dataclass(frozen=True)
class Setting:
    """How all rows were run.

    Attributes:
        recipe: Its name.
        overrides: What ``--set`` changed in it.
        seed: Of every row's first run.
        data: Name of the pairs that were measured.
        size: ``native``, or such as ``256×256``.
        pairs: Their names.
        runs: Of every row; the seed of each is that of the one before plus 1.
    """

    recipe: str
    overrides: tuple[str, ...]
    seed: int
    data: str
    size: str
    pairs: tuple[str, ...]
    runs: int = 1


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: As in the table's definition.
        job: What it needs; why it is left out; None if its turn has not come.
        measured: Its values, once it is finished.
    """

    name: str
    job: Job | Skip | None = None
    measured: Measured | None = None


@dataclass(frozen=True)
class Outcome:
    """The table so far."""

    table: Table
    setting: Setting
    rows: tuple[Row, ...]

    @property
    def finished(self) -> dict[str, Measured]:
        """Finished rows by name."""
        return {row.name: row.measured for row in self.rows if row.measured is not None}

    @property
    def reference(self) -> str | None:
        """The first finished row, which all others are held against."""
        return next(iter(self.finished), None)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The table's metrics, and what else every finished row has, such as the distance to the wanted tone."""
        rows = list(self.finished.values())
        more = rows[0].values if rows else {}
        shared = (name for name in more if all(name in row.values for row in rows))
        return tuple(dict.fromkeys((*self.table.metrics, *shared)))

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """Mean of each metric, ``[row][metric]``."""
        return self._results.means()

    @cached_property
    def differences(self) -> dict[str, dict[str, Difference]]:
        """Each other row minus the reference on the same pairs, ``[row][metric]``."""
        if self.reference is None:
            return {}
        others = tuple(name for name in self.finished if name != self.reference)
        found: dict[str, dict[str, Difference]] = {name: {} for name in others}
        for columns, results in self._by_set():
            ranked = tuple(_metric(column) for column in columns if column in self.table.metrics)
            report = Report(self.setting.data, self.setting.size, results, ranked_by=ranked, references=others)
            for name in others:
                own = report.differences[name][self.reference]
                found[name] |= {column: own[_metric(column)] for column in columns}
        return found

    def _by_set(self) -> Iterator[tuple[list[str], Results]]:
        """The columns of each set of pairs, and their values by the metrics' plain names on these pairs only."""
        for name in dict.fromkeys(_set(column) for column in self.columns):
            columns = [column for column in self.columns if _set(column) == name]
            rows = [row for row, pair in enumerate(self.setting.pairs) if not name or pair.startswith(f"{name}/")]
            values = {
                row: {_metric(column): table[column] for column in columns}
                for row, table in self._results.values.items()
            }
            metrics = tuple(_metric(column) for column in columns)
            yield columns, Results(metrics, self.setting.pairs, values).only(rows)

    @property
    def _results(self) -> Results:
        values = {name: row.values for name, row in self.finished.items()}
        return Results(self.columns, self.setting.pairs, values)

    def paper(self, row: str) -> dict[str, dict[str, float]]:
        """The paper's values of a row, ``[data set][metric]``."""
        metrics = self.table.metrics
        return {
            name: dict(zip(metrics, rows[row], strict=True)) for name, rows in self.table.paper.items() if row in rows
        }


def _metric(column: str) -> str:
    """``MI`` of ``MI multi-focus``."""
    return column.partition(" ")[0]


def _set(column: str) -> str:
    """``multi-focus`` of ``MI multi-focus``; nothing where one set is measured."""
    return column.partition(" ")[2]


def to_markdown(outcome: Outcome) -> str:
    """The table, what each row is, and the notes."""
    table, setting = outcome.table, outcome.setting
    heads = ["row", "values", *(f"{metric} {wording.arrow(_metric(metric))}" for metric in outcome.columns)]
    lines = [f"# {table.name.capitalize()} of {table.model}: {table.title}", "", _how(outcome), "", *_head(heads)]
    for row in outcome.rows:
        lines += _row_lines(outcome, row)
    lines += ["", *_about(outcome)]
    notes = [*table.notes, *_marked(outcome), *_tones(outcome), *_starts(outcome)]
    lines += ["", *(f"- {note}" for note in notes)]
    lines += [f"- Recipe values changed: {', '.join(setting.overrides)}."] if setting.overrides else []
    return "\n".join(lines) + "\n"


def _how(outcome: Outcome) -> str:
    setting = outcome.setting
    count = len(setting.pairs)
    last = setting.seed + setting.runs - 1
    seeds = f"seed {last}" if setting.runs == 1 else f"seeds {setting.seed} to {last}"
    text = (
        f"Recipe {setting.recipe}, {seeds}. Ours: {setting.data}, {count} pair{'s' * (count != 1)}, "
        f"{'native size' if setting.size == 'native' else setting.size}; the paper's {outcome.table.elsewhere}."
    )
    if outcome.reference is None:
        return text
    return (
        f"{text} Differences are to row {outcome.reference} on the same pairs, with the paired bootstrap interval "
        f"({LEVEL:.0%}); bold where it excludes 0, better (▲) or worse (▼)."
    )


def _row_lines(outcome: Outcome, row: Row) -> list[str]:
    name, metrics, decimals, lines = row.name, outcome.columns, outcome.table.decimals, []
    if row.measured is not None:
        lines.append(_line([name, "ours", *(wording.number(outcome.means[name][m]) for m in metrics)]))
    else:
        reason = row.job.reason if isinstance(row.job, Skip) else "not run yet"
        lines.append(_line([name, f"ours: {reason}", *("" for _ in metrics)]))
    if name in outcome.differences:
        cells = [_difference(outcome.differences[name][m]) for m in metrics]
        lines.append(_line(["", f"{name} − {outcome.reference}", *cells]))
    if row.measured is not None and row.measured.spread:
        cells = [f"{row.measured.spread[m]:.{outcome.table.decimals}f}" for m in metrics]
        lines.append(_line(["", f"standard deviation over {row.measured.seeds} seeds", *cells]))
    mark = " †" if name in outcome.table.foreign else ""
    for data, values in outcome.paper(name).items():
        lines.append(
            _line(["", f"paper, {data}{mark}", *(f"{values[m]:.{decimals}f}" if m in values else "" for m in metrics)])
        )
    return lines


def _difference(found: Difference) -> str:
    (text, ends), sign = wording.difference(found), wording.verdict(found)
    mean = f"**{text}** {sign}" if sign else text
    return f"{mean} ({ends})" if ends else mean


def _about(outcome: Outcome) -> list[str]:
    """A table of what each row is, with the columns that its job knows."""
    facts = {row.name: row.job.facts() for row in outcome.rows if row.job and not isinstance(row.job, Skip)}
    columns = list(dict.fromkeys(column for known in facts.values() for column in known))
    lines = _head(["row", "what it is", *columns, "steps"])
    for row in outcome.rows:
        known = facts.get(row.name, {})
        steps = "" if row.measured is None else str(row.measured.steps)
        cells = [row.name, outcome.table.rows[row.name], *(known.get(column, "") for column in columns), steps]
        lines.append(_line(cells))
    return lines


def _marked(outcome: Outcome) -> list[str]:
    names = {row.name for row in outcome.rows}
    return [f"† {text}" for name, text in outcome.table.foreign.items() if name in names]


def _tones(outcome: Outcome) -> list[str]:
    if not set(TONES) & set(outcome.columns):
        return []
    return ["tone_0, tone_1: distance to the tone that the recipe asks for at strength 0 and 1, grey levels."]


def _starts(outcome: Outcome) -> list[str]:
    """A warning where rows differ in more than the table's subject."""
    jobs = {row.name: row.job for row in outcome.rows if row.job and not isinstance(row.job, Skip)}
    changed: dict[tuple[str, ...], list[str]] = {}
    for name, job in jobs.items():
        if job.departures:
            changed.setdefault(job.departures, []).append(name)
    return [
        f"Row{'s' * (len(names) > 1)} {', '.join(names)} ran with {', '.join(settings)}. "
        f"Give one value to all rows with --set to leave only the table's subject between them."
        for settings, names in changed.items()
    ]


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_json(outcome: Outcome) -> dict[str, Any]:
    """The same for programs; values that are not defined are null."""
    table, setting = outcome.table, outcome.setting
    return {
        "model": table.model,
        "table": table.number,
        "title": table.title,
        "recipe": setting.recipe,
        "set": list(setting.overrides),
        "seed": setting.seed,
        "runs": setting.runs,
        "data": setting.data,
        "size": setting.size,
        "pairs": list(setting.pairs),
        "metrics": list(outcome.columns),
        "reference": outcome.reference,
        "rows": {row.name: _row_json(outcome, row) for row in outcome.rows},
        "notes": [*table.notes, *table.foreign.values(), *_tones(outcome), *_starts(outcome)],
    }


def _row_json(outcome: Outcome, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"text": outcome.table.rows[row.name], "paper": outcome.paper(row.name)}
    if isinstance(row.job, Skip):
        return {**found, "status": "skipped", "reason": row.job.reason}
    found["status"] = "not run" if row.measured is None else "finished"
    if row.job is not None:
        found |= {"set": list(row.job.settings), **row.job.record()}
    if row.measured is not None:
        found |= {"steps": row.measured.steps, "seconds": round(row.measured.seconds, 1)}
        if row.measured.spread:
            found |= {"seeds": row.measured.seeds, "spread": row.measured.spread}
        found["mean"] = {m: _defined(v) for m, v in outcome.means[row.name].items()}
    if row.name in outcome.differences:
        found["difference"] = {m: _difference_json(d) for m, d in outcome.differences[row.name].items()}
    return found


def _difference_json(found: Difference) -> dict[str, Any]:
    ends = [_defined(end) for end in found.interval]
    return {"mean": _defined(found.mean), "interval": None if None in ends else ends, "better": found.better}


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_table(outcome: Outcome, folder: Path) -> None:
    """Write both files into the table's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JSON, to_json(outcome))
    (folder / MARKDOWN).write_text(to_markdown(outcome), encoding="utf-8")
