"""Fill the tables of README.md and docs/quality.md from cards, benchmark files, and the settings class.

python docs/tables.py            rewrite both
python docs/tables.py --check    fail if one is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality import details, gather, overview
from serving import serving_table

from app.settings import settings_table

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "quality.md")
BENCHMARKS = ROOT / "docs" / "benchmarks"
SIZE = {"height": 480, "width": 640}


@dataclass(frozen=True)
class Speed:
    """What a benchmark file says of one model.

    Attributes:
        findings: Measured values by key.
        machine: Facts of the machine.
        report: The file's readable form, relative to the clone.
    """

    findings: dict[str, Any]
    machine: dict[str, str]
    report: str

    @property
    def on_gpu(self) -> bool:
        """Whether the models ran on CUDA; a file that names no device is of a CPU."""
        return "cuda" in self.machine.get("device", "cpu").lower()

    @property
    def place(self) -> str:
        """Processor and runtime, and the device if it is no CPU."""
        device = f"{self.machine['device']}, " if self.on_gpu else ""
        return f"{device}{self.machine['processor']}, onnxruntime {self.machine['onnxruntime']}"

    def cell(self) -> str:
        """Times of the fuse graph and of a whole request."""
        threads = int(self.machine["threads of one run"])
        on = "" if self.on_gpu else f", {threads} thread{'s' * (threads != 1)}"
        return f"[{self._time('fuse_ms')} / {self._time('post_cold_ms')}]({self.report}){on}"

    def _time(self, key: str) -> str:
        value = self.findings.get(key, {}).get("value")
        return "not measured" if value is None else f"{value:.0f} ms"


def speeds() -> dict[tuple[str, bool], Speed]:
    """By model and whether on a GPU, from the newest file that has it; a file without a date is the oldest."""
    files = [(path, json.loads(path.read_text())) for path in sorted(BENCHMARKS.glob("**/bench.json"))]
    found = {}
    for path, bench in sorted(files, key=lambda file: file[1]["machine"].get("date", "")):
        report = path.with_suffix(".md").relative_to(ROOT).as_posix()
        for model in bench["models"]:
            if model["size"] == SIZE:
                speed = Speed(model["findings"], bench["machine"], report)
                found[model["name"], speed.on_gpu] = speed
    return found


def model_table(cards: list[dict[str, Any]]) -> str:
    """What each model is for and what it costs, and what the columns mean."""
    found = speeds()
    lines = [
        "| model | tasks | parameters, M | `fuse`, GMAC/megapixel | `encode`, GMAC/image "
        "| `fuse` / whole POST, CPU | `fuse` / whole POST, GPU |",
        "|---|---|---|---|---|---|---|",
    ]
    places: dict[str, list[str]] = {}
    for card in cards:
        name, macs = card["name"], card["macs"]
        frozen = sum(count for part, count in card["parameters"].items() if part != "fusion")
        cells = [
            f"`{name}`",
            ", ".join(task["name"] for task in card["tasks"]),
            f"{card['parameters']['fusion'] / 1e6:.2f}" + (f" + {frozen / 1e6:.2f}" if frozen else ""),
            f"{macs['fuse_per_pixel'] / 1e3:.1f}",
            f"{macs['encode_per_image'] / 1e9:.2f}" if card.get("encoder") else "–",
        ]
        for on_gpu in (False, True):
            speed = found.get((name, on_gpu))
            cells.append(speed.cell() if speed else "not measured")
            if speed:
                places.setdefault(speed.place, []).append(f"`{name}`")
        lines.append(f"| {' | '.join(cells)} |")
    where = "; ".join(f"{', '.join(names)} on {place}" for place, names in places.items())
    if len(places) == 1:
        where = f"on {next(iter(places))}"
    lines += [
        "",
        "Parameters: trained network + frozen tokenizer or backbone. `encode` is counted for one image of 480×640, and "
        "cached; tokenizers see a small square of it, at the same cost for every size.",
        f"Times: medians for a pair of 480×640, POST with images that are not cached; {where}. `make bench` measures "
        "yours.",
    ]
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """What stands between the markers of each name."""
    cards = [json.loads(path.read_text()) for path in sorted(ROOT.glob("weights/*/card.json"))]
    tables, models = gather(cards), [card["name"] for card in cards]
    reading = (
        "Mean rank over the metrics of the set (1 is best), and the place among all models and baselines measured on "
        "it. Compare within a row: the next has other pairs, and maybe other metrics and rivals. Native size, edit "
        "slots at strength 1; bold: the best of several models; dB: PSNR to the truth. "
        "[docs/quality.md](docs/quality.md) has the metrics of every method."
    )
    return {
        "models": "\n\n".join([model_table(cards), overview(tables, models), reading]),
        "quality": details(tables, models),
        "serving": serving_table(json.loads((BENCHMARKS / "serve" / "serve.json").read_text())),
        "settings": settings_table(),
    }


def filled(text: str, parts: dict[str, str]) -> str:
    """A document with all its tables made anew."""
    for name, part in parts.items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text = re.sub(pattern, lambda m, part=part: f"{m[1]}{part}\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def main() -> str | int:
    """Rewrite or check the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    parts = sections()
    made = {path: filled(path.read_text(), parts) for path in DOCUMENTS}
    stale = {path: text for path, text in made.items() if text != path.read_text()}
    if check:
        return f"out of date: {', '.join(path.name for path in stale)}" if stale else 0
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
