"""Several runs one after the other on two processes; ``test_parallel.py`` starts it and looks at the run folders.

``python tests/training/parallel_runs.py DATA CHAIN OUT``: Lightning starts the same line again for the second process.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch

from tests.training import tiny_backbone_runs, tiny_runs
from training.backbone import BackboneTrainer
from training.config import load_recipe
from training.titok_ste import FusionTrainer, read_slots
from training.titok_ste_recipe import FusionRecipe
from training.tokenizer import TokenizerRecipe, TokenizerTrainer
from training.tokenizer_files import load_tokenizer

DEVICES = 2


def tokenizer_trainer(data, out, devices=DEVICES):
    settings = [*tiny_runs.TOKENIZER_SET, "reseed_every=2", "optim.clip=1e9"]
    return TokenizerTrainer(load_recipe("t32-tiny6-128", TokenizerRecipe, settings), data, out, devices=devices)


def fusion_trainer(data, chain, out, devices=DEVICES):
    recipe = load_recipe("titok-ste-lite", FusionRecipe, tiny_runs.FUSION_SET)
    parts = load_tokenizer(chain / "tokenizer"), read_slots(chain / "slots.json")
    return FusionTrainer(recipe, *parts, data, out, devices=devices)


def backbone_trainer(data, out, devices=DEVICES):
    sides = {**tiny_backbone_runs.VIEWS, "sides": [32, 48, 64]}  # the centres of both processes must have one shape
    return BackboneTrainer(tiny_backbone_runs.model_recipe(views=sides), data, out, devices=devices)


def finish(trainer, sums):
    """Run to the end and note a checksum of this process's weights."""
    trainer.resume()
    trainer.fit()
    weights = tiny_runs.flat({"model": trainer.module.state_dict(), "average": trainer.average.state_dict()})
    sums[trainer.folder.name] = sum(float(value.double().abs().sum()) for value in weights.values())


def main(data, chain, out):
    tiny_runs.register()
    first = tokenizer_trainer(data, out / "first step")
    first.train_step()
    first.used[first.fabric.global_rank] = True
    (out / "first step").mkdir(exist_ok=True)
    first.checkpoint(0.0)
    sums = {}
    makers = {"tokenizer": lambda folder: tokenizer_trainer(data, folder)}
    makers["fusion"] = lambda folder: fusion_trainer(data, chain, folder)
    makers["backbone"] = lambda folder: backbone_trainer(data, folder)
    for name, make in makers.items():
        finish(make(out / name), sums)
        step = make(out / name).validate_every
        with tiny_runs.power_cut(step), suppress(tiny_runs.PowerCutError):
            finish(make(out / f"{name} cut"), sums)
        finish(make(out / f"{name} cut"), sums)
    (out / f"sums{first.fabric.global_rank}.json").write_text(json.dumps(sums))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
