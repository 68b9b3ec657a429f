"""The paper's tables 3, 4, 6 and 7: their rows and printed values ("From 2D Grids to 1D Tokens", arXiv 2606.12303)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.data.images import DataError

Values = tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        number: As in the paper; 0 for its only ablation, whose number we do not know.
        title: What its rows differ in.
        metrics: Columns, by their names in the registry of metrics. Where several sets of pairs are measured, the set
            follows: ``MI multi-focus`` is of the pairs whose names begin with ``multi-focus/``.
        rows: What each row is, by its name, in the order of the table; the first is the reference.
        paper: Printed values, ``paper[data set][row]``, one number per metric; rows that the paper lacks are absent.
        notes: What a reader must know before comparing.
        foreign: Why the printed values of a row are of another model, by row.
        model: Whose table it is.
        elsewhere: On what the paper measured.
        decimals: Of the printed values.
        parameters: Printed size of a row's network, by row, where the paper has it.
    """

    number: int
    title: str
    metrics: tuple[str, ...]
    rows: Mapping[str, str]
    paper: Mapping[str, Mapping[str, Values]]
    notes: tuple[str, ...]
    foreign: Mapping[str, str] = field(default_factory=dict)
    model: str = "titok-ste"
    elsewhere: str = "at 256×256, on other images"
    decimals: int = 2
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``table 4``; just ``ablation`` without a number."""
        return f"table {self.number}" if self.number else "ablation"


_EDGES = ("EI", "SF", "AG", "SSIM")
_TONES = ("EN", "SD", "SCD", "SSIM")
_UNNAMED = "set not named"

_ALL = (
    Table(
        3,
        "edited positions",
        _EDGES,
        {
            "none": "no edit slot",
            "sharpen": "the first slot only",
            "smooth": "the second slot only",
            "both": "both slots",
        },
        {
            _UNNAMED: {
                "none": (34.39, 7.90, 2.94, 1.37),
                "sharpen": (36.01, 8.19, 3.10, 1.40),
                "smooth": (36.87, 8.44, 3.17, 1.40),
                "both": (37.42, 8.63, 3.21, 1.42),
            }
        },
        (
            "The paper edits positions 12 and 18 of TiTok-L-32; positions of another tokenizer are other places.",
            "Where the recipe's target moves with the strength, a row without a slot is trained for strength 1 only.",
        ),
    ),
    Table(
        4,
        "number of tokens",
        _EDGES,
        {"32": "32 tokens", "64": "64 tokens", "128": "128 tokens"},
        {
            _UNNAMED: {
                "32": (37.42, 8.63, 3.21, 1.42),
                "64": (34.57, 7.73, 2.94, 1.38),
                "128": (32.13, 7.32, 2.79, 1.36),
            }
        },
        (
            "The paper's rows are TiTok-L-32, B-64 and S-128: the encoder's size changes with the number of tokens.",
            "Its edited positions are 12 and 18, 18 and 60, 69 and 20; it gives channels (6-8) for 32 tokens only.",
        ),
    ),
    Table(
        6,
        "interface",
        _TONES,
        {
            "titok": "tokens of the tokenizer",
            "dinov3": "patch tokens of DINOv3 ViT-B/16, pooled and projected",
            "clip": "patch tokens of CLIP ViT-B/16, pooled and projected",
            "none": "tokens that are all zero",
        },
        {
            "M3FD": {
                "titok": (7.10, 44.54, 1.83, 0.70),
                "dinov3": (6.36, 24.35, 1.41, 0.63),
                "clip": (6.58, 27.29, 1.51, 0.59),
            },
            "RoadScene": {
                "titok": (7.42, 50.79, 1.84, 0.71),
                "dinov3": (6.73, 30.62, 1.25, 0.66),
                "clip": (6.84, 32.24, 1.36, 0.60),
            },
            "TNO": {
                "titok": (7.17, 43.94, 1.82, 0.70),
                "dinov3": (6.40, 25.87, 1.40, 0.65),
                "clip": (6.58, 28.29, 1.49, 0.59),
            },
            "MIF": {
                "titok": (4.27, 74.35, 1.68, 0.74),
                "dinov3": (4.44, 58.88, 1.66, 0.66),
                "clip": (6.19, 38.49, 0.32, 0.45),
            },
        },
        (
            "The paper lacks the row none, the control that shows what tokens add to the image's own details.",
            "Its SSIM here is about half of that in its other tables, so it is probably a mean over both sources; "
            "ours is the sum.",
        ),
    ),
    Table(
        7,
        "number of edit slots",
        _TONES,
        {"0": "no slot", "1": "1 slot", "2": "2 slots", "3": "3 slots", "4": "4 slots"},
        {
            "M3FD": {
                "0": (6.80, 35.22, 1.62, 1.02),
                "1": (7.08, 44.60, 1.79, 1.41),
                "2": (7.19, 47.35, 1.85, 1.49),
                "3": (7.16, 47.02, 1.84, 1.47),
                "4": (7.11, 46.55, 1.82, 1.45),
            }
        },
        ("Where the recipe's target moves with the strength, it moves with the first two slots only.",),
        {"0": "The paper's row of 0 slots is CDDFuse, not its own model without edits; our row is the real zero."},
    ),
)
TABLES: dict[int, Table] = {table.number: table for table in _ALL}


def choose_rows(table: Table, names: list[str] | None) -> list[str]:
    """The wanted rows in the order given; all by default.

    Raises:
        DataError: The table has no such row, or one is named twice.
    """
    chosen = list(table.rows) if names is None else names
    if unknown := [name for name in chosen if name not in table.rows]:
        raise DataError(f"--rows: {table.name} has no row {unknown[0]!r}; known: {', '.join(table.rows)}")
    if len(set(chosen)) < len(chosen) or not chosen:
        raise DataError("--rows: name each row once, and at least one")
    return chosen
