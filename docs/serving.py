"""The table of README.md that holds the service against other servers, from what ``make bench-serve`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONE_SIZE = "one size"


def serving_table(bench: Mapping[str, Any]) -> str:
    """Pictures a second and 99th percentile by server and number of clients, and how to read them."""
    cells = {(cell["name"], cell["clients"]): cell["medians"] for cell in bench["servers"] if cell["pairs"] == ONE_SIZE}
    names = list(dict.fromkeys(name for name, _ in cells))
    numbers = sorted({clients for _, clients in cells})
    heads = [f"{clients} client{'s' * (clients != 1)}" for clients in numbers]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(numbers)}"]
    for name in names:
        shown = [_cell(cells.get((name, clients)), bold=name == names[0]) for clients in numbers]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    machine = bench["machine"]
    lines += [
        "",
        f"Pictures a second, in brackets as a part of what the same {machine['usable cores']} cores do in process, "
        f"without HTTP; 99th percentile. `{machine['model']}`, pairs of 480×640, the same client in the same run, "
        f"medians; {machine['processor']}, onnxruntime {machine['onnxruntime']}. "
        "[docs/performance.md](docs/performance.md) has mixed sizes, memory, overload and SIGTERM.",
    ]
    return "\n".join(lines)


def _cell(medians: Mapping[str, float] | None, *, bold: bool) -> str:
    if medians is None:
        return "–"
    rate = f"{medians['pictures_a_second']:.1f} ({medians['of_best_in_process']:.2f})"
    return f"{f'**{rate}**' if bold else rate}, {medians['p99_ms']:.0f} ms"
