"""Fill the README's tables from what commands wrote: cards, the benchmark file and the settings class.

python docs/tables.py            rewrite README.md
python docs/tables.py --check    fail if it is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from app.settings import settings_table

ROOT = Path(__file__).resolve().parent.parent
BENCHMARK = ROOT / "docs" / "benchmarks" / "bench.json"
COLUMNS = ("EN", "SD", "SCD", "SSIM", "MI", "VIF", "Qabf", "CC", "clip")
TRUTH = ("PSNR_truth", "SSIM_truth")
"""Columns of data sets whose pairs were made of one image."""


def quality_table(evaluation: dict[str, Any], card: dict[str, Any]) -> str:
    """One row a method, best mean rank first; our model in bold."""
    rank, metrics, model = evaluation["mean_rank"], evaluation["metrics"], card["name"]
    columns = (*(name for name in TRUTH if name in metrics[model]), *COLUMNS)
    strength = ", strength 1" if card["edit_slots"] else ""
    lines = [
        f"Quality on {evaluation['dataset']} ({evaluation['pairs']} pairs, {evaluation['size']} size{strength}). "
        f"Mean rank over {', '.join(evaluation['ranked_by'])}; `clip` is the percentage of pixels at black or white "
        "that no source explains (less is better).",
        "",
        "| method | mean rank | " + " | ".join(columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for method in sorted(rank, key=rank.__getitem__):
        name = f"**{method}**" if method == model else method
        cells = " | ".join(f"{metrics[method][column]:.3f}" for column in columns)
        lines.append(f"| {name} | {rank[method]:.2f} | {cells} |")
    return "\n".join(lines)


def overview_row(card: dict[str, Any], benchmark: dict[str, Any] | None) -> str:
    """One row of the model table."""
    parameters = sum(card["parameters"].values()) / 1e6
    tasks = ", ".join(task["name"] for task in card["tasks"])
    speed = "not measured"
    if benchmark:
        fuse, post = (benchmark[key]["value"] for key in ("fuse_ms", "post_cold_ms"))
        speed = f"{fuse:.0f} ms / {post:.0f} ms"
    return (
        f"| `{card['name']}` | {tasks} | {parameters:.2f} M | {card['macs']['fuse_per_pixel'] / 1e3:.1f} | "
        f"{card['macs']['encode_per_image'] / 1e9:.2f} | {speed} |"
    )


def models_section() -> str:
    """The model table and, for each model, its quality table."""
    cards = [json.loads(path.read_text()) for path in sorted(ROOT.glob("weights/*/card.json"))]
    bench = json.loads(BENCHMARK.read_text()) if BENCHMARK.is_file() else None
    speeds = {model["name"]: model["findings"] for model in bench["models"]} if bench else {}
    lines = [
        "| model | task | parameters | fuse kMAC/pixel | encode GMAC/image | `fuse` graph / whole POST, 480×640 |",
        "|---|---|---|---|---|---|",
        *(overview_row(card, speeds.get(card["name"])) for card in cards),
        "",
    ]
    if bench:
        machine = bench["machine"]
        facts = f"{machine['processor']}, {machine['usable cores']} cores, onnxruntime {machine['onnxruntime']}"
        lines += [
            f"Times: medians on {facts}, new images each time ([all figures](docs/benchmarks/bench.md)); "
            "`make bench` measures yours.",
            "",
        ]
    for card in cards:
        lines += [quality_table(e, card) + "\n" for e in card["evaluation"] if e["size"] == "native"]
    return "\n".join(lines).rstrip()


def filled(text: str) -> str:
    """The README with all tables made anew."""
    for name, table in (("models", models_section()), ("settings", settings_table())):
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text = re.sub(pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def main() -> int:
    """Rewrite or check the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = filled(readme.read_text())
    if check:
        return int(text != readme.read_text())
    readme.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
