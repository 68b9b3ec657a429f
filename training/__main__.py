"""``python -m training COMMAND``: train, probe, export, evaluate, count."""

from __future__ import annotations

import argparse
import errno
import importlib
import sys

from training.data.images import DataError
from training.stopped import INTERRUPTED, Stopped

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)

COMMANDS = {
    "tokenizer": ("training.tokenizer", "train a local tokenizer"),
    "download": ("training.download", "fetch official TiTok weights, with resume and checksum"),
    "inspect": ("training.inspect_tokenizer", "what a tokenizer keeps of images, and how it uses its codes"),
    "titok-ste": ("training.titok_ste", "train TiTok+STE: stage I, then stage II"),
    "tita": ("training.tita", "train TITA on several tasks at once, weighted by FAMO"),
    "unifusion": ("training.unifusion", "train UniFusion around a frozen backbone: reconstruction, then fusion"),
    "backbone": ("training.backbone", "train a small vision transformer without labels, for UniFusion"),
    "backbone-report": ("training.backbone_report", "what a backbone's features tell, from sensor to sensor"),
    "probe": ("training.probe", "find the editable token slots of a tokenizer"),
    "ablate": ("training.ablation.command", "run the rows of the paper's ablation tables, with its values beside ours"),
    "export": ("training.export", "write a bundle: ONNX graphs, weights and card"),
    "evaluate": ("training.evaluation.command", "metrics of bundles and baselines on a folder of pairs"),
    "demo": ("training.demo", "the whole chain on drawn pairs, to see in minutes that it works"),
    "draw": ("training.drawn.command", "draw a data root of street pairs, to try the training with"),
    "synthesise": ("training.synthesis.command", "make multi-focus or multi-exposure pairs with their truth"),
    "check-data": ("training.data.check", "check the pairs of a recipe: names, sizes, counts, shared cases"),
    "profile": ("training.profile", "where the time of a training step goes"),
    "curves": ("training.curves", "draw the curves of runs"),
    "conflict": ("training.conflict_report", "angles between the tasks of TITA runs, and what their weighting changes"),
    "operations": ("training.operations", "how a trained TITA weighs its operations from task to task"),
    "macs": ("training.macs", "count multiply-adds per pixel and per image"),
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run one command; only that command's module is imported."""
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        importlib.import_module(COMMANDS[args.command][0]).run(args)
    except (DataError, *WRONG_PATH) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.exit(f"error: {error.strerror}: free some space and run the same command; the last checkpoint is whole")
    except (Stopped, KeyboardInterrupt) as stopped:
        print(str(stopped) or "stopped at once", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = argv[0] if argv and argv[0] in COMMANDS else None
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            importlib.import_module(module).add_arguments(sub)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
