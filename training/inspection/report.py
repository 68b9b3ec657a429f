"""report.json and report.md of an inspection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from models.tokenizer import Tokenizer
from training.inspection.measures import THUMBNAILS, CodeUse, Fidelity, Spread, bits_per_image


@dataclass(frozen=True)
class Inspection:
    """Everything that was measured.

    Attributes:
        tokenizer: Which.
        fidelity: By folder.
        codes: By folder.
        all_codes: Over all folders.
    """

    tokenizer: Tokenizer
    fidelity: Mapping[str, Fidelity]
    codes: Mapping[str, CodeUse]
    all_codes: CodeUse


def write_report(inspection: Inspection, out: Path) -> None:
    """Write both files into a folder."""
    text = json.dumps(to_json(inspection), indent=1, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    (out / "report.md").write_text(to_markdown(inspection), encoding="utf-8")


def to_json(inspection: Inspection) -> dict[str, Any]:
    """As plain values."""
    tokenizer = inspection.tokenizer
    config = tokenizer.config
    return {
        "tokenizer_id": tokenizer.tokenizer_id,
        "sha256": tokenizer.weights_sha256,
        "num_tokens": config.num_tokens,
        "token_dim": config.token_dim,
        "codebook_size": config.codebook_size,
        "image_size": config.image_size,
        "bits_per_image": bits_per_image(config.num_tokens, config.codebook_size),
        "folders": {
            name: {**inspection.fidelity[name].to_json(), "codes": inspection.codes[name].to_json()}
            for name in inspection.fidelity
        },
        "codes": inspection.all_codes.to_json(),
    }


def to_markdown(inspection: Inspection) -> str:
    """Three tables and the pictures."""
    config = inspection.tokenizer.config
    bits = bits_per_image(config.num_tokens, config.codebook_size)
    side = config.image_size
    lines = [
        f"# {inspection.tokenizer.tokenizer_id}",
        "",
        f"{config.num_tokens} tokens, {config.codebook_size} codes: {bits:.0f} bits per image. "
        f"Images are squashed to {side} × {side}.",
        "",
        "![images above their reconstructions](reconstructions.png)",
        "",
        *_fidelity_table(inspection.fidelity),
        "",
        *_thumbnail_table(inspection.fidelity),
        "",
        *_code_table(inspection),
        "",
        "![codes at each position](usage.png)",
    ]
    return "\n".join(lines) + "\n"


def _fidelity_table(fidelity: Mapping[str, Fidelity]) -> list[str]:
    rows = [
        f"| {name} | {f.images} | {_spread(f.psnr, 2)} | {_spread(f.ssim, 3)} | {_spread(f.mse, 4)} | "
        f"{_number(f.brightness_correlation, 3)} | {_number(f.contrast_correlation, 3)} | "
        f"{_number(f.contrast_kept, 2)} |"
        for name, f in fidelity.items()
    ]
    return [
        "## Reconstructions",
        "",
        "Mean ± standard deviation over the images. *Brightness* and *contrast*: correlation over the images between "
        "mean (standard deviation) before and after. *Kept*: contrast after over contrast before.",
        "",
        "| folder | images | PSNR, dB | SSIM | MSE | brightness | contrast | kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def _thumbnail_table(fidelity: Mapping[str, Fidelity]) -> list[str]:
    heads = " | ".join(f"{k} × {k}, {8 * k * k} bits" for k in THUMBNAILS)
    rows = [
        f"| {name} | {f.psnr.mean:.2f} | " + " | ".join(f"{f.thumbnail_psnr[k]:.2f}" for k in THUMBNAILS) + " |"
        for name, f in fidelity.items()
    ]
    return [
        "## Beside thumbnails",
        "",
        "PSNR in dB of thumbnails with 8 bits a pixel, made of area means and enlarged bicubically.",
        "",
        f"| folder | reconstruction | {heads} |",
        "|---|---:|" + "---:|" * len(THUMBNAILS),
        *rows,
    ]


def _code_table(inspection: Inspection) -> list[str]:
    uses = dict(inspection.codes)
    if len(uses) > 1:
        uses["all folders"] = inspection.all_codes
    rows = []
    for name, use in uses.items():
        entropies = use.position_entropy
        rows.append(
            f"| {name} | {use.tokens} | {use.used} | {100 * use.share:.1f} % | {use.perplexity:.0f} | "
            f"{min(entropies):.2f} | {median(entropies):.2f} | {max(entropies):.2f} | "
            f"{sum(count == 1 for count in use.position_used)} |"
        )
    return [
        "## Codes",
        "",
        f"Of {inspection.all_codes.codebook}. A folder of few tokens cannot choose more codes than it has tokens; "
        "entropy, in bits per position, is at most log2 of the number of images. "
        "*Constant*: positions at which all images have one code.",
        "",
        "| folder | tokens | codes used | share | perplexity | lowest entropy | median | highest | constant |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def _spread(spread: Spread, digits: int) -> str:
    return f"{spread.mean:.{digits}f} ± {spread.std:.{digits}f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
