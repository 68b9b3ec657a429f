"""The training loop alone, with a trainer that costs nothing: validations, the best checkpoint, stops."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from tests.training.tiny_runs import assert_same, load
from training import trainer as loop
from training.config import Recipe
from training.data.images import DataError
from training.run import BEST, CHECKPOINT, Run
from training.stopped import Stopped
from training.trainer import Trainer

EVERY = 2


class Counter(Trainer):
    """Its one weight counts the steps; ``scores`` are what its validations return, in their order.

    At the steps of ``signals`` the process gets Ctrl-C so many times.
    """

    kind = "counter"
    best_by = ("val/x", "val/y", "val/z")
    validate_every = EVERY

    def __init__(self, folder, scores, signals=None):
        super().__init__(Recipe(seed=1, precision="32-true"), folder)
        self.scores, self.signals = scores, signals or {}
        self.module = nn.Linear(1, 1, bias=False)
        self.average = nn.Linear(1, 1, bias=False)
        optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1)
        self.model, self.optimizer = self.fabric.setup(self.module, optimizer)
        with torch.no_grad():
            self.module.weight.zero_()
        self.ready()

    @property
    def steps(self):
        return EVERY * len(self.scores)

    def data_counts(self):
        return {"nothing": 0}

    def train_step(self):
        with torch.no_grad():
            self.module.weight += 1.0
        for _ in range(self.signals.get(self.step, 0)):
            os.kill(os.getpid(), signal.SIGINT)
        return {"loss": self.module.weight.detach()[0, 0]}

    def validate(self):
        scores = self.scores[self.step // EVERY - 1]
        return dict(zip(self.best_by, scores, strict=False)), {"picture": torch.zeros(4, 4)}


def validated(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "val/x" in line]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(1, 1, 1), (2, 2, 2), (3, 3, 3)], 3),
        ([(3, 3, 3), (2, 2, 2), (1, 1, 1)], 1),
        ([(1, 1, 1), (3, 3, 0), (2, 2, 0)], 2),
        ([(1, 9, 1), (2, 8, 2), (0, 7, 0)], 2),
        ([(1, 1, 1), (1, 1, 1)], 2),
        ([(1, 1, 1), (float("nan"), 2, 0)], 1),
        ([(1, 1, 1), (float("nan"), float("nan"), float("nan"))], 1),
    ],
    ids=["rising", "falling", "two of three", "rank, not sum", "equal: the later", "NaN ranks last", "all NaN"],
)
def test_best_is_the_validation_with_the_best_mean_rank(tmp_path, scores, best):
    Counter(tmp_path, scores).fit()
    assert load(tmp_path, BEST)["step"] == EVERY * best
    assert load(tmp_path, BEST)["model"]["weight"].item() == EVERY * best
    assert load(tmp_path)["step"] == EVERY * len(scores)


def test_scores_without_the_chosen_metrics_are_no_candidates(tmp_path):
    Counter(tmp_path, [(5, 5), (1, 1, 1), (0, 0, 0)]).fit()
    assert load(tmp_path, BEST)["step"] == 2 * EVERY
    assert load(tmp_path)["history"] == [[1, 1, 1], [0, 0, 0]]


def test_saves_between_validations_leave_the_best_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)  # a checkpoint after every step
    saved = []
    write = Trainer.checkpoint

    def watch(self, seconds, **options):
        write(self, seconds, **options)
        saved.append((load(tmp_path)["step"], load(tmp_path, BEST)["step"] if (tmp_path / BEST).is_file() else None))

    monkeypatch.setattr(Trainer, "checkpoint", watch)
    Counter(tmp_path, [(1, 1, 1), (2, 2, 2), (0, 0, 0)]).fit()
    assert saved == [(1, None), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4)]


@pytest.mark.parametrize("step", range(5))
def test_a_run_stopped_at_any_step_ends_like_one_that_was_not(tmp_path, step):
    scores = [(1, 1, 1), (2, 2, 2), (0, 3, 0)]
    Counter(tmp_path / "whole", scores).fit()
    with pytest.raises(Stopped, match=f"stopped after step {step + 1} of 6, saved in .*run the same command to go on"):
        Counter(tmp_path / "cut", scores, {step: 1}).fit()
    assert load(tmp_path / "cut")["step"] == step + 1
    again = Counter(tmp_path / "cut", scores)
    again.resume()
    again.fit()
    for name in (CHECKPOINT, BEST):
        assert_same(load(tmp_path / "cut", name), load(tmp_path / "whole", name))
    assert validated(tmp_path / "cut") == validated(tmp_path / "whole") == [2, 4, 6]


def test_a_stop_at_the_last_step_is_the_end(tmp_path):
    Counter(tmp_path, [(1, 1, 1)], {EVERY - 1: 1}).fit()
    assert load(tmp_path)["step"] == EVERY
    assert validated(tmp_path) == [EVERY]


def test_a_second_ctrl_c_ends_at_once_and_a_later_run_has_the_usual_handler(tmp_path):
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Counter(tmp_path, [(1, 1, 1)], {0: 2}).fit()
    assert not (tmp_path / CHECKPOINT).exists()
    assert signal.getsignal(signal.SIGINT) is usual


def test_seconds_add_up_over_the_parts_of_a_run(tmp_path):
    recipe = Recipe(seed=1, precision="32-true")
    with Run(tmp_path, recipe, steps=1, seconds=1000.0) as run:
        assert 1000.0 <= run.seconds < 1060.0


def test_a_finished_run_is_left_as_it_is(tmp_path):
    Counter(tmp_path, [(1, 1, 1)]).fit()
    before = (tmp_path / CHECKPOINT).read_bytes()
    again = Counter(tmp_path, [(1, 1, 1)])
    again.resume()
    again.fit()
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_failed_save_of_the_best_keeps_the_last(tmp_path):
    """The best one is saved first; when that fails, the run goes on from the checkpoint before and does it again."""
    (tmp_path / BEST).mkdir()
    with pytest.raises(DataError, match=r"cannot write .*best\.pt .*nothing was saved"):
        Counter(tmp_path, [(1, 1, 1)]).fit()
    assert not (tmp_path / CHECKPOINT).exists()
    assert list(tmp_path.glob("*.partial")) == []
