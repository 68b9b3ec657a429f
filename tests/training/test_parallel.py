"""Data parallel training on two CPU processes."""

import json
import re
import signal

import pytest
import torch

from tests.training import parallel_runs
from tests.training.tiny_runs import ENDLESS_SET, assert_same, flat, fusion_words, load, started, wait_for_first_step
from training.data.images import DataError
from training.devices import make_fabric

RUNS = ("tokenizer", "fusion", "backbone")


@pytest.fixture(scope="module")
def runs(data_root, chain, tmp_path_factory):
    out = tmp_path_factory.mktemp("parallel")
    with started([data_root, chain, out], script=parallel_runs.__file__) as process:
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out


def test_gradients_are_the_mean_over_both_processes(data_root, runs, tmp_path, tiny_tokenizer):
    trainer = parallel_runs.tokenizer_trainer(data_root, tmp_path, devices=1)
    own, moments = trainer.optimizer.optimizer.state_dict(), []
    for process in (0, 1):
        torch.manual_seed(trainer.recipe.seed + 1_000_003 * process)
        trainer.optimizer.load_state_dict(own)
        weights = {name: value.clone() for name, value in trainer.module.state_dict().items()}
        trainer.train_step()
        moments.append(flat(trainer.optimizer.state_dict()["state"]))
        trainer.module.load_state_dict(weights)
    found = flat(load(runs / "first step")["optimizer"]["state"])
    firsts = [name for name in found if name.endswith("exp_avg")]
    assert len(firsts) > 10
    for name in firsts:
        torch.testing.assert_close(found[name], (moments[0][name] + moments[1][name]) / 2, atol=1e-7, rtol=1e-3)
    assert any(not torch.allclose(moments[0][name], moments[1][name], rtol=0.1) for name in firsts)


def test_processes_draw_different_numbers_and_end_with_the_same_weights(runs):
    sums = [json.loads((runs / f"sums{process}.json").read_text()) for process in (0, 1)]
    assert sums[0] == sums[1]
    assert sums[0].keys() == {f"{name}{cut}" for name in RUNS for cut in ("", " cut")}
    for name in sums[0]:
        first, second = load(runs / name)["rng"]
        assert not torch.equal(first["torch"], second["torch"])


def test_a_code_counts_as_used_that_any_process_used(runs):
    assert load(runs / "first step")["used"][:3].tolist() == [True, True, False]


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(runs, name):
    assert_same(load(runs / name), load(runs / f"{name} cut"))


def test_only_the_first_process_writes(runs):
    lines = [json.loads(line) for line in (runs / "fusion" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert len(list((runs / "fusion" / "tensorboard").iterdir())) == 1


def test_it_does_not_go_on_with_another_number_of_devices(data_root, chain, runs):
    trainer = parallel_runs.fusion_trainer(data_root, chain, runs / "fusion", devices=1)
    with pytest.raises(DataError, match=r"begun on 2 device.*--devices 2"):
        trainer.resume()


def test_no_devices_are_refused():
    with pytest.raises(DataError, match="--devices must be 1 or more"):
        make_fabric("32-true", 0)


def test_a_stop_asked_of_one_process_ends_both_with_one_line(data_root, chain, tmp_path):
    words = [*fusion_words(data_root, chain, tmp_path, base=ENDLESS_SET), "--devices", 2]
    with started(words) as process:
        wait_for_first_step(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)  # ends when the second process has closed its end, too
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    said = re.findall(r"stopped after step (\d+) of 10002, saved in .*run the same command to go on", errors)
    assert said == [str(load(tmp_path)["step"])]
    assert len(load(tmp_path)["rng"]) == 2
