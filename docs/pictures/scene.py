"""Draws the sample pair of the README: one street at dusk, seen by a colour camera and by a thermal camera.

Nothing is photographed. A ray per sample meets the surfaces of a small street (``street.py`` says which,
``training/drawn`` draws them), each of which has a colour, a light of its own and a temperature. Lamps and head-lights
make the visible picture from the first two, the temperature makes the infrared one. Both cameras stand in one place, so
the pictures are aligned to the pixel. What one cannot see, the other shows: people in the shade of a tree and behind
the glare of head-lights are warm, while lit windows and road marks are bright but not warm.

    python docs/pictures/scene.py OUTDIR      writes OUTDIR/visible.png and OUTDIR/infrared.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from street import CAMERA, GREY_OF_CELSIUS, STREET

from training.drawn.cameras import Pixels
from training.drawn.draw import draw_pair


def draw() -> tuple[Pixels, Pixels]:
    """The visible picture (480, 640, 3) and the infrared one (480, 640)."""
    return draw_pair(STREET, CAMERA, GREY_OF_CELSIUS)


def main(arguments: Sequence[str]) -> None:
    """Write both pictures into a folder."""
    if len(arguments) != 1:
        sys.exit("usage: python docs/pictures/scene.py OUTDIR")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(("visible", "infrared"), draw(), strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
