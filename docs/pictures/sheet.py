"""Fuse the drawn scene at strength 0, 1 and 2 and put all five pictures side by side.

python docs/pictures/sheet.py        writes docs/pictures/fused.jpg; needs a model in weights/
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
STRENGTHS = ("0", "1", "2")
WIDTH = 400


def fuse(strength: str, folder: Path) -> Image.Image:
    """Run the project's own command line on the scene."""
    out = folder / f"fused_{strength}.png"
    sources = [str(HERE / "visible.png"), str(HERE / "infrared.png")]
    command = [sys.executable, "-m", "app", "fuse", *sources, "-o", str(out), "--strength", strength]
    subprocess.run(command, check=True)
    return Image.open(io.BytesIO(out.read_bytes()))


def sheet(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures in rows of up to three, each with its name in the corner."""
    first = next(iter(pictures.values()))
    height = WIDTH * first.height // first.width
    page = Image.new("RGB", (3 * WIDTH, 2 * height), "white")
    slots = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1)]
    for (column, row), (name, picture) in zip(slots, pictures.items(), strict=True):
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        draw = ImageDraw.Draw(small)
        draw.rectangle((0, 0, 8 + 7 * len(name), 18), fill="black")
        draw.text((5, 3), name, fill="white")
        page.paste(small, (column * WIDTH, row * height))
    return page


def main() -> None:
    """Write the sheet."""
    pictures = {name: Image.open(HERE / f"{name}.png") for name in ("visible", "infrared")}
    with tempfile.TemporaryDirectory() as folder:
        pictures |= {f"strength {s}": fuse(s, Path(folder)) for s in STRENGTHS}
        sheet(pictures).save(HERE / "fused.jpg", quality=88)


if __name__ == "__main__":
    main()
