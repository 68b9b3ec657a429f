"""The command ``inspect``: what a tokenizer keeps of images, how it uses its codes, and whether its codes are right."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.config import ImageFolder
from training.data.images import DataError, read_luminance
from training.data.squares import SquareImages
from training.inspection.measures import measure_codes, measure_fidelity
from training.inspection.pictures import save_reconstructions, save_usage
from training.inspection.report import Inspection, to_markdown, write_report
from training.tokenizer_files import Reconstructor, load_reconstructor, load_tokenizer

BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training inspect``."""
    parser.add_argument(
        "--tokenizer", type=Path, required=True, metavar="PATH", help="tokenizer run, or official weights"
    )
    folders = parser.add_argument_group("report on folders of images")
    folders.add_argument("--data", type=Path, metavar="ROOT", help="data root that the folders lie in")
    folders.add_argument("--folder", action="append", default=[], help="folder of the data root, repeatable")
    folders.add_argument("--out", type=Path, metavar="DIR", help="where report and pictures go")
    folders.add_argument("--limit", type=int, metavar="N", help="only N images of each folder, evenly spread")
    folders.add_argument("--show", type=int, default=10, metavar="N", help="images of each folder in the picture")
    codes = parser.add_argument_group("codes of one image")
    codes.add_argument("--image", type=Path, metavar="FILE", help="print the codes of this image")
    codes.add_argument("--expect-codes", type=int, nargs="+", metavar="CODE", help="the codes must begin with these")


def run(args: argparse.Namespace) -> None:
    """Report on folders, or print and check the codes of an image.

    Raises:
        DataError: The options do not go together, the tokenizer or an image cannot be read, or codes differ.
    """
    if args.image is not None:
        if args.folder or args.data or args.out:
            raise DataError("--image stands alone: give --data, --folder and --out in another call")
        check_codes(args.tokenizer, args.image, args.expect_codes or [])
        return
    if args.expect_codes:
        raise DataError("--expect-codes needs --image FILE")
    if args.data is None or not args.folder or args.out is None:
        raise DataError("give --data, --folder and --out for a report, or --image for the codes of one image")
    if args.show < 1 or (args.limit is not None and args.limit < 1):
        raise DataError("--show and --limit must be 1 or more")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inspect(
        load_reconstructor(args.tokenizer, device), args.data, args.folder, args.out, limit=args.limit, show=args.show
    )


def inspect(
    model: Reconstructor, data: Path, folders: list[str], out: Path, *, limit: int | None, show: int
) -> Inspection:
    """Measure a tokenizer on folders of images, write report and pictures, and print the report.

    Args:
        model: Tokenizer and decoder.
        data: Data root.
        folders: Folders in it, of single images.
        out: Folder for the results, made if needed.
        limit: Images of each folder, evenly spread; None takes all.
        show: Images of each folder in the picture.

    Raises:
        DataError: A folder is missing or empty, or an image cannot be read.
    """
    names = list(dict.fromkeys(folders))
    config = model.tokenizer.config
    images, rebuilt, indices = {}, {}, {}
    for name in names:
        squares = SquareImages(data, [ImageFolder(path=name)], config.image_size)
        images[name] = squares.batch(evenly(len(squares), limit))
        indices[name], rebuilt[name] = rebuild(model, images[name])
    inspection = Inspection(
        tokenizer=model.tokenizer,
        fidelity={name: measure_fidelity(images[name], rebuilt[name]) for name in names},
        codes={name: measure_codes(indices[name], config.codebook_size) for name in names},
        all_codes=measure_codes(torch.cat(list(indices.values())), config.codebook_size),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_report(inspection, out)
    shown = {name: evenly(len(images[name]), show) for name in names}
    save_reconstructions(
        {n: (images[n][rows], rebuilt[n][rows]) for n, rows in shown.items()}, out / "reconstructions.png"
    )
    save_usage(inspection.codes, out / "usage.png")
    print(to_markdown(inspection), end="")
    return inspection


def evenly(count: int, limit: int | None) -> Tensor:
    """Rows 0..count-1, or ``limit`` of them evenly spread from first to last."""
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.linspace(0, count - 1, limit).round().long()


def rebuild(model: Reconstructor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (M, K) and reconstructions of (M, 1, S, S), both on the CPU."""
    device = model.tokenizer.latent_tokens.device
    codes, rebuilt = [], []
    for chunk in images.split(BATCH):
        found = model.indices(chunk.to(device))
        codes.append(found.cpu())
        rebuilt.append(model.from_indices(found).float().cpu())
    return torch.cat(codes), torch.cat(rebuilt)


def check_codes(path: Path, image: Path, expected: list[int]) -> None:
    """Print the codes of an image and compare them with known ones.

    A published tokenizer is known by the codes of a published image: weights that load may still be of another model,
    and an input of another range still gives codes.

    Raises:
        DataError: The codes do not begin with the expected ones; the message says how many differ.
    """
    tokenizer = load_tokenizer(path)
    with torch.no_grad():
        codes = tokenizer.indices(read_image(image, colour=tokenizer.config.pixel_width > 0))[0].tolist()
    print(f"{tokenizer.tokenizer_id} {image.name}: {' '.join(map(str, codes))}")
    if len(expected) > len(codes):
        raise DataError(f"--expect-codes gives {len(expected)} codes, the tokenizer has {len(codes)} tokens")
    wrong = [k for k, code in enumerate(expected) if codes[k] != code]
    if wrong:
        first = wrong[0]
        raise DataError(
            f"{len(wrong)} of {len(expected)} codes differ, the first at position {first}: {codes[first]}, expected "
            f"{expected[first]}. One in 32 may be rounding; more are wrong weights, or another image"
        )
    if expected:
        print(f"the first {len(expected)} codes are as expected")


def read_image(path: Path, *, colour: bool) -> Tensor:
    """An image as RGB, (1, 3, H, W), or as luminance, (1, 1, H, W), in [0, 1].

    The published tokenizers were trained on colour, the local ones on luminance.

    Raises:
        DataError: It cannot be read.
    """
    luminance = read_luminance(path)  # also finds out whether the file is an image
    if not colour:
        return torch.tensor(luminance)[None, None].float() / 255.0
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255.0
