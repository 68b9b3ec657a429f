"""A tokenizer small enough for tests, command lines of short runs with it, and ways to cut them.

As a script, ``python tests/training/tiny_runs.py COMMAND …``, it is ``python -m training`` that knows this tokenizer.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import torch

from models.tokenizer import TokenizerConfig
from models.tokenizer.config import TOKENIZERS
from training import __main__ as command_line
from training.run import CHECKPOINT
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
TINY = TokenizerConfig("test-tiny", 32, 1, 2, codebook_size=64, legacy=False, image_size=32, decoder_layers=1)

TOKENIZER_SET = [
    "tokenizer=test-tiny", "steps=6", "batch=2", "precision=32-true", "cache_side=48", "validate_every=3",
    "reseed_every=100", "optim.warmup_steps=1", "optim.lr=0.01",
    "train=[{path: ivf/train/visible, partner: ivf/train/infrared}]", "val=[{path: ivf/val/visible}]",
]  # fmt: skip
FUSION_SET = [
    "schedule.steps_per_epoch=2", "schedule.stage1_epochs=1", "schedule.stage2_epochs=2", "validate_epochs=1",
    "sampling.batch=2", "sampling.sides=[48]", "train=[{a: ivf/train/visible, b: ivf/train/infrared}]",
]  # fmt: skip
ENDLESS_SET = [*FUSION_SET, "schedule.stage2_epochs=5000", "validate_epochs=8", "validate_pairs=1"]
"""A run that ends only when it is stopped; a validation every 16 steps."""


def register():
    TOKENIZERS[TINY.name] = TINY


def command(*words):
    """Run a command in this process; ends like the command, by ``SystemExit`` with a message, if it fails."""
    status = command_line.main([str(word) for word in words])
    assert status == 0, status


def _settings(values):
    return [word for value in values for word in ("--set", value)]


def tokenizer_words(data, out, *settings, base=TOKENIZER_SET):
    return ["tokenizer", "--data", data, "--out", out, *_settings([*base, *settings])]


def fusion_words(data, folder, out, *settings, base=FUSION_SET):
    """``folder`` holds ``tokenizer`` and ``slots.json``."""
    parts = ["--tokenizer", folder / "tokenizer", "--slots", folder / "slots.json"]
    return ["titok-ste", "--data", data, *parts, "--out", out, *_settings([*base, *settings])]


def make_chain(data, folder):
    """Tokenizer, slots and fusion network, each trained or probed by its command."""
    command(*tokenizer_words(data, folder / "tokenizer"))
    words = ("--tokenizer", folder / "tokenizer", "--data", data, "--seed", 1, "--out", folder / "slots.json")
    command("probe", *words)
    command(*fusion_words(data, folder, folder / "fusion"))
    return folder


class PowerCutError(Exception):
    """Stands for a power cut."""


@contextmanager
def power_cut(step):
    """Every run ends right after it wrote its checkpoint of a step."""
    write = Trainer.checkpoint

    def write_and_cut(self, seconds, **options):
        write(self, seconds, **options)
        if self.step == step:
            raise PowerCutError

    with patch.object(Trainer, "checkpoint", write_and_cut):
        yield


def flat(value, name=""):
    """All tensors in nested dictionaries and lists, by their path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path: x for key, part in items for path, x in flat(part, f"{name}/{key}").items()}


def load(folder, name=CHECKPOINT):
    return torch.load(folder / name, weights_only=True)


def assert_same(state, other):
    """Two checkpoints hold the same weights, averages, moments, loss scale, random state and validations."""
    for part in ("model", "average", "optimizer", "rng"):
        ours, theirs = flat(state[part]), flat(other[part])
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for part in ("step", "precision", "history"):
        assert state[part] == other[part], part


@contextmanager
def started(words, script=__file__, **options):
    """A script in a process group of its own, with as many threads as this process; no process of it outlives this."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, words)],
        env=environment,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_first_step(folder, process, seconds=300.0):
    """Wait until a run has written its first line; fails at once if it ends before that."""
    log, deadline = folder / "metrics.jsonl", time.monotonic() + seconds
    while not (log.is_file() and log.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def last_line(text):
    return text.strip().splitlines()[-1]


if __name__ == "__main__":
    register()
    sys.exit(command_line.main())
