"""Pictures of fused images: thumbnails for the HTML report, a contact sheet, and files of every image."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from training.data.images import DataError
from training.evaluation.pairs import Grey, Pair

_LABEL_HEIGHT = 16
_THUMB_WIDTH = 480
_THUMB_QUALITY = 82


class Keeper:
    """Called with every fused image: keeps what the reports will show, and saves all images if asked to.

    Args:
        methods: Names of all methods.
        sheet: The pairs of the contact sheet.
        thumbnails: Whether to keep every image as a small JPEG. Which pairs are the worst is known only at the
            end, and full images of all pairs and methods would fill the memory.
        save_to: Folder for all fused images, ``METHOD/PAIR.png``; None saves nothing.

    Attributes:
        rows: Images of the contact sheet, ``[pair][label]``.
        thumbnails: JPEG files, ``[method, pair]``.

    Raises:
        DataError: Two methods would be saved to one folder.
    """

    def __init__(
        self, methods: Iterable[str], sheet: Sequence[Pair], *, thumbnails: bool, save_to: Path | None
    ) -> None:
        self.rows: dict[str, dict[str, Grey]] = {p.name: _known(p) for p in sheet}
        self.thumbnails: dict[tuple[str, str], bytes] = {}
        self._thumbnails = thumbnails
        self._folders = {name: save_to / file_name(name) for name in methods} if save_to else {}
        if len(set(self._folders.values())) < len(self._folders):
            raise DataError(f"--save-fused needs names that differ in more than signs: {', '.join(self._folders)}")

    def __call__(self, method: str, pair: Pair, fused: Grey) -> None:
        """Keep one image."""
        if pair.name in self.rows:
            self.rows[pair.name][method] = fused
        if self._thumbnails:
            self.thumbnails[method, pair.name] = thumbnail(fused)
        if method in self._folders:
            self._folders[method].mkdir(parents=True, exist_ok=True)
            Image.fromarray(fused).save(self._folders[method] / f"{pair.name}.png")


def _known(pair: Pair) -> dict[str, Grey]:
    truth = {} if pair.truth is None else {"truth": pair.truth}
    return {f"{pair.name} a": pair.a, "b": pair.b, **truth}


def file_name(method: str) -> str:
    """A method's name as a file name: every run of spaces and signs becomes one hyphen."""
    return re.sub(r"[^\w.+]+", "-", method).strip("-.") or "method"


def thumbnail(image: Grey) -> bytes:
    """A JPEG of an image (H, W), made narrower where it is wide."""
    width = min(_THUMB_WIDTH, image.shape[1])
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    buffer = io.BytesIO()
    small = Image.fromarray(image)
    if size != small.size:
        small = small.resize(size, Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=_THUMB_QUALITY, optimize=True)
    return buffer.getvalue()


def contact_sheet(rows: Sequence[Mapping[str, Grey]], height: int = 240) -> Image.Image:
    """Images side by side, a row per pair, each with its label above.

    Args:
        rows: Label and image (H, W) in order, such as ``{"a": …, "b": …, "average": …}``; at least one row.
        height: Height of each image on the sheet in pixels; larger images are made smaller, none larger.
    """
    thumbs = [[_thumb(label, image, height) for label, image in row.items()] for row in rows]
    width = max(sum(thumb.width for thumb in row) for row in thumbs)
    sheet = Image.new("L", (width, sum(row[0].height for row in thumbs)), 255)
    top = 0
    for row in thumbs:
        left = 0
        for thumb in row:
            sheet.paste(thumb, (left, top))
            left += thumb.width
        top += row[0].height
    return sheet


def _thumb(label: str, image: Grey, height: int) -> Image.Image:
    scale = min(1.0, height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    thumb = Image.new("L", (size[0] + 2, size[1] + _LABEL_HEIGHT), 255)
    thumb.paste(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), (1, _LABEL_HEIGHT))
    ImageDraw.Draw(thumb).text((3, 2), label, fill=0)
    return thumb
