"""Where the time of a training step goes, and how far it is from what the machine's convolutions reach."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.config import load_recipe
from training.data.images import DataError
from training.titok_ste import FusionTrainer, read_slots
from training.titok_ste_recipe import FusionRecipe
from training.tokenizer_files import load_tokenizer

PARTS = ("data", "encode", "forward", "backward", "step")
WARM_UP = 2


def convolution_rate(trainer: FusionTrainer, *, channels: int = 64, side: int = 96, rounds: int = 5) -> float:
    """FLOP/s of a plain 3×3 convolution, forward and backward, on the trainer's device and in its precision.

    Args:
        trainer: Says device and precision.
        channels: Input and output channels.
        side: Of the four images of the batch.
        rounds: The median of so many counts.
    """
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(trainer.fabric.device)
    x = torch.randn(4, channels, side, side, device=trainer.fabric.device, requires_grad=True)
    if trainer.recipe.channels_last:
        layer, x = layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.detach().requires_grad_(True)

    def run() -> None:
        with trainer.fabric.autocast():
            y = layer(x)
        y.sum().backward()

    run()
    seconds = statistics.median(_timed(run, trainer.fabric.device) for _ in range(rounds))
    return 3 * 2 * 4 * side**2 * 9 * channels**2 / seconds


def _timed(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def profile(trainer: FusionTrainer, steps: int) -> dict[str, Any]:
    """Time steps of stage II.

    Args:
        trainer: Fresh or resumed.
        steps: How many to measure, after two to warm up.

    Returns:
        Median seconds of each part and of the step, FLOP of a step (matrix products and convolutions, forward and
        backward), the rate of both the step and a plain convolution, and their ratio.
    """
    trainer.step = max(trainer.step, trainer.stage2_start)
    for _ in range(WARM_UP):
        trainer.train_step()
    with FlopCounterMode(display=False) as counter:
        trainer.train_step()
    trainer.clock.running = True
    whole = [_timed(trainer.train_step, trainer.fabric.device) for _ in range(steps)]
    trainer.clock.running = False
    parts = {name: per_step(trainer.clock.parts.get(name, []), steps) for name in PARTS}
    parts["data"] = max(0.0, parts["data"] - parts["encode"])  # encoding happens while a batch is drawn
    step, rate = statistics.median(whole), convolution_rate(trainer)
    flops = float(counter.get_total_flops())
    return {
        "device": trainer.fabric.device.type,
        "precision": trainer.recipe.precision,
        "threads": torch.get_num_threads(),
        "steps": steps,
        "seconds": {**parts, "whole": step},
        "flop_per_step": flops,
        "step_flop_per_s": flops / step,
        "convolution_flop_per_s": rate,
        "share_of_convolution_rate": flops / step / rate,
    }


def per_step(samples: list[float], steps: int) -> float:
    """Median seconds a step of a part that runs equally often in each, in the order of the steps."""
    calls = len(samples) // steps
    return statistics.median(sum(samples[i * calls : (i + 1) * calls]) for i in range(steps)) if calls else 0.0


def table(found: dict[str, Any]) -> str:
    """The profile as text."""
    seconds = found["seconds"]
    rows = [f"{'part':10} {'ms':>9} {'share':>6}"]
    rows += [
        f"{name:10} {1e3 * seconds[name]:9.1f} {seconds[name] / seconds['whole']:6.1%}" for name in (*PARTS, "whole")
    ]
    rows.append(
        f"{found['flop_per_step'] / 1e9:.1f} GFLOP a step at {found['step_flop_per_s'] / 1e9:.1f} GFLOP/s = "
        f"{found['share_of_convolution_rate']:.2f} of a plain 3×3 convolution's "
        f"{found['convolution_flop_per_s'] / 1e9:.1f} GFLOP/s ({found['device']}, {found['precision']}, "
        f"{found['threads']} threads)"
    )
    return "\n".join(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m training profile``."""
    parser.add_argument("--recipe", default="titok-ste-lite", help="recipe name or .yaml path")
    parser.add_argument("--data", type=Path, required=True, help="data root that the recipe's folders lie in")
    parser.add_argument("--tokenizer", type=Path, required=True, help="run folder of the tokenizer, or a bundle")
    parser.add_argument("--slots", type=Path, required=True, help="slot file written by `python -m training probe`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe value")
    parser.add_argument("--steps", type=int, default=20, help="steps to measure")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")


def run(args: argparse.Namespace) -> None:
    """Measure and print; nothing is trained that outlives the command.

    Raises:
        DataError: ``--steps`` is below 1.
    """
    if args.steps < 1:
        raise DataError(f"--steps must be 1 or more, not {args.steps}")
    recipe = load_recipe(args.recipe, FusionRecipe, args.set)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, slots = load_tokenizer(args.tokenizer), read_slots(args.slots)
        found = profile(FusionTrainer(recipe, tokenizer, slots, args.data, Path(folder)), args.steps)
    print(table(found))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=2) + "\n")
