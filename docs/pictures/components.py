"""Sheet of what the backbone sees, from the pictures of `python -m training backbone-report --random`.

python docs/pictures/components.py REPORT_FOLDER PAIR

Only the features are taken, one pixel a patch and enlarged: the photographs belong to others.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

PATCH, SHOWN, GAP = 16, 9, 6
HERE = Path(__file__).resolve().parent


def features(path: Path) -> tuple[Image.Image, Image.Image]:
    """The features of both images, one pixel a patch: the lower half of a picture of the report."""
    picture = Image.open(path)
    width, height = (picture.width - PATCH) // 2, (picture.height - PATCH) // 2
    lower = picture.crop((0, height + PATCH, picture.width, picture.height))
    left, right = (lower.crop((x, 0, x + width, height)) for x in (0, width + PATCH))
    small = (width // PATCH, height // PATCH)
    return left.resize(small, Image.Resampling.NEAREST), right.resize(small, Image.Resampling.NEAREST)


def sheet(rows: list[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """One row for each network, one column for each sensor."""
    width, height = (SHOWN * side for side in rows[0][0].size)
    whole = Image.new("RGB", (2 * width + GAP, len(rows) * (height + GAP) - GAP), "white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            large = image.resize((width, height), Image.Resampling.NEAREST)
            whole.paste(large, (column * (width + GAP), row * (height + GAP)))
    return whole


def main(folder: str, pair: str) -> None:
    """Write components.png: trained features above, those of random weights below."""
    rows = [features(Path(folder, f"{pair}-{network}-components.png")) for network in ("trained", "random")]
    sheet(rows).save(HERE / "components.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
