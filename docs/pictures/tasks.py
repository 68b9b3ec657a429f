"""Make a focus and an exposure pair of the drawn scene, fuse both with TITA, and put all pictures side by side.

python docs/pictures/tasks.py        writes docs/pictures/tasks.jpg; needs weights/tita and the training tools
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
WIDTH = 400
ROWS = {
    "focus": ("near in focus", "far in focus", "fused"),
    "exposure": ("over-exposed", "under-exposed", "fused"),
}
SETTINGS = {"focus": ["--set", "first=near"], "exposure": []}


def run(*words: object) -> None:
    """Run one of the project's own commands."""
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)


def row(kind: str, folder: Path) -> list[Image.Image]:
    """Both sources and the fused picture."""
    (folder / "scene").mkdir(exist_ok=True)
    (folder / "scene" / "visible.png").write_bytes((HERE / "visible.png").read_bytes())
    made, fused = folder / kind, folder / f"{kind}.png"
    words = ("--images", folder / "scene", "--out", made, "--count", 1, "--seed", 4, *SETTINGS[kind])
    run("training", "synthesise", kind, *words)
    a, b = (next((made / side).iterdir()) for side in ("a", "b"))
    run("app", "fuse", a, b, "-o", fused, "--model", "tita")
    return [Image.open(path).convert("RGB") for path in (a, b, fused)]


def main() -> None:
    """Write the sheet."""
    with tempfile.TemporaryDirectory() as name:
        rows = {kind: row(kind, Path(name)) for kind in ROWS}
    height = max(WIDTH * pictures[0].height // pictures[0].width for pictures in rows.values())
    page = Image.new("RGB", (3 * WIDTH, len(rows) * height), "white")
    for line, (kind, pictures) in enumerate(rows.items()):
        for column, (text, picture) in enumerate(zip(ROWS[kind], pictures, strict=True)):
            small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
            draw = ImageDraw.Draw(small)
            draw.rectangle((0, 0, 8 + 7 * len(text), 18), fill="black")
            draw.text((5, 3), text, fill="white")
            page.paste(small, (column * WIDTH, line * height))
    page.save(HERE / "tasks.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
