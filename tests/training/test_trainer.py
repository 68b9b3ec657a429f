"""How runs stop, go on and fail: by the commands, in processes of their own where signals and disks matter."""

import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests.training.tiny_runs import (
    ENDLESS_SET,
    FUSION_SET,
    PowerCutError,
    assert_same,
    command,
    flat,
    fusion_words,
    last_line,
    load,
    power_cut,
    started,
    tokenizer_words,
    wait_for_first_step,
)
from training.config import load_recipe
from training.data.images import DataError
from training.run import CHECKPOINT
from training.titok_ste import FusionTrainer, read_slots
from training.titok_ste_recipe import FusionRecipe
from training.tokenizer_files import load_tokenizer

FAR = 4
"""Steps after the stop that are compared."""


def fusion_trainer(data_root, chain, out, *settings):
    recipe = load_recipe("titok-ste-lite", FusionRecipe, [*settings])
    parts = load_tokenizer(chain / "tokenizer"), read_slots(chain / "slots.json")
    return FusionTrainer(recipe, *parts, data_root, out)


def advance(trainer, step):
    """Train up to a step, without validations: they draw no random numbers."""
    while trainer.step < step:
        trainer.train_step()
        trainer.step += 1
    return trainer.state(0.0)


@pytest.fixture(scope="module")
def stopped(data_root, chain, tmp_path_factory):
    """Folder, exit status and messages of a run that got Ctrl-C after its first step."""
    folder = tmp_path_factory.mktemp("stopped")
    with started(fusion_words(data_root, chain, folder, base=ENDLESS_SET)) as process:
        wait_for_first_step(folder, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    return folder, process.returncode, errors


@pytest.fixture
def run_folder(stopped, tmp_path):
    """A copy of the stopped run."""
    return Path(shutil.copytree(stopped[0], tmp_path / "run"))


def test_ctrl_c_saves_and_says_how_to_go_on(stopped):
    folder, status, errors = stopped
    assert status == 130
    assert "Traceback" not in errors
    said = f"stopped after step {load(folder)['step']} of 10002, saved in {folder}; run the same command to go on"
    assert last_line(errors) == said


def test_a_stopped_run_goes_on_like_one_that_was_never_stopped(data_root, chain, run_folder, tmp_path):
    first = load(run_folder)["step"]
    assert 1 <= first < 10002
    end = max(first, 2) + FAR  # stage two begins after step 2
    whole = advance(fusion_trainer(data_root, chain, tmp_path / "whole", *ENDLESS_SET), end)
    again = fusion_trainer(data_root, chain, run_folder, *ENDLESS_SET)
    again.resume()
    ours = advance(again, end)
    ours["history"] = whole["history"]  # the stopped run may have been validated
    assert_same(ours, whole)


def test_a_full_disk_leaves_the_checkpoint_of_before(data_root, chain, run_folder):
    """A limit on the size of files stands for the disk: the system refuses to write on, as when it is full."""
    before = (run_folder / CHECKPOINT).read_bytes()
    limit = len(before) // 2

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with started(fusion_words(data_root, chain, run_folder, base=ENDLESS_SET), preexec_fn=fill) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert re.fullmatch(
        rf"error: cannot write {run_folder}/(best|last)\.pt \(File too large\): {run_folder}/last\.pt of before is "
        "whole; free some space and run the same command",
        last_line(errors),
    )
    assert (run_folder / CHECKPOINT).read_bytes() == before
    assert list(run_folder.glob("*.partial")) == []
    again = fusion_trainer(data_root, chain, run_folder, *ENDLESS_SET)
    again.resume()
    assert again.step == load(run_folder)["step"]


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "overwritten": lambda path: path.write_bytes(b"\0" * 4096 + path.read_bytes()[4096:]),
    "text": lambda path: path.write_text("no checkpoint"),
    "a list": lambda path: torch.save([1, 2], path),
    "a pickled class": lambda path: torch.save({"kind": DataError("x")}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_one_clear_line(data_root, chain, run_folder, damage):
    damage(run_folder / CHECKPOINT)
    with pytest.raises(SystemExit, match=r"^error: .*last\.pt .*no checkpoint of this package[^\n]*$"):
        command(*fusion_words(data_root, chain, run_folder, base=ENDLESS_SET))


def test_a_checkpoint_of_another_version_names_what_it_lacks(data_root, chain, run_folder):
    state = load(run_folder)
    del state["precision"], state["history"]
    torch.save(state, run_folder / CHECKPOINT)
    with pytest.raises(SystemExit, match=r"another version, it lacks precision, history: give another --out$"):
        command(*fusion_words(data_root, chain, run_folder, base=ENDLESS_SET))


def test_a_run_of_another_kind_is_refused(data_root, chain):
    with pytest.raises(SystemExit, match=r"^error: .*holds a tokenizer run, not a titok-ste run: give another --out$"):
        command(*fusion_words(data_root, chain, chain / "tokenizer"))
    with pytest.raises(SystemExit, match=r"^error: .*holds a titok-ste run, not a tokenizer run: give another --out$"):
        command(*tokenizer_words(data_root, chain / "fusion"))


def test_a_run_does_not_go_on_under_another_recipe(data_root, chain):
    with pytest.raises(SystemExit, match=r"another recipe \(optim differ\)"):
        command(*tokenizer_words(data_root, chain / "tokenizer", "optim.clip=7"))
    with pytest.raises(SystemExit, match=r"another recipe \(seed, stage2 differ\)"):
        command(*fusion_words(data_root, chain, chain / "fusion", "seed=1", "stage2.vif=0.5"))


def test_a_recipe_from_before_a_key_existed_goes_on_with_its_default(data_root, chain, run_folder):
    state = load(run_folder)
    state["recipe"] = state["recipe"].replace('"tone":"centred","power":2.0,', "")
    assert "power" not in state["recipe"]
    torch.save(state, run_folder / CHECKPOINT)
    fusion_trainer(data_root, chain, run_folder, *ENDLESS_SET).resume()
    state["recipe"] = state["recipe"].replace('"full_at":0.75', '"full_from":0.75')
    torch.save(state, run_folder / CHECKPOINT)
    with pytest.raises(DataError, match=r"\(target differ\)"):
        fusion_trainer(data_root, chain, run_folder, *ENDLESS_SET).resume()


@pytest.fixture
def another_tokenizer(chain, tmp_path):
    """A tokenizer with one other weight, and slots that belong to it."""
    folder = tmp_path / "another"
    shutil.copytree(chain / "tokenizer", folder / "tokenizer")
    state = load(folder / "tokenizer")
    state["average"]["tokenizer.latent_tokens"] += 1.0
    torch.save(state, folder / "tokenizer" / CHECKPOINT)
    slots = (chain / "slots.json").read_text()
    ids = [load_tokenizer(where / "tokenizer").tokenizer_id for where in (chain, folder)]
    (folder / "slots.json").write_text(slots.replace(*ids))
    return folder


def test_a_run_does_not_go_on_with_another_tokenizer_or_other_slots(data_root, chain, run_folder, another_tokenizer):
    with pytest.raises(SystemExit, match=r"^error: these edit slots were probed on the tokenizer"):
        command(*fusion_words(data_root, another_tokenizer, run_folder, base=ENDLESS_SET))
    slots = (chain / "slots.json").read_text()
    (another_tokenizer / "slots.json").write_text(slots.replace('"sharpen"', '"crisp"'))
    shutil.rmtree(another_tokenizer / "tokenizer")
    shutil.copytree(chain / "tokenizer", another_tokenizer / "tokenizer")
    with pytest.raises(SystemExit, match=r"begun with other edit slots \(sharpen, smooth at tokens"):
        command(*fusion_words(data_root, another_tokenizer, run_folder, base=ENDLESS_SET))


def test_a_run_of_two_devices_does_not_go_on_with_one(data_root, chain, run_folder):
    state = load(run_folder)
    torch.save({**state, "rng": state["rng"] * 2}, run_folder / CHECKPOINT)
    with pytest.raises(SystemExit, match=r"^error: .*begun on 2 device\(s\): give --devices 2, or another --out$"):
        command(*fusion_words(data_root, chain, run_folder, base=ENDLESS_SET))


def test_float16_training_keeps_its_loss_scale_and_goes_on_exactly(data_root, chain, tmp_path):
    whole, cut = (fusion_words(data_root, chain, tmp_path / name, "precision=16-mixed") for name in ("whole", "cut"))
    command(*whole)
    with power_cut(4), pytest.raises(PowerCutError):
        command(*cut)
    command(*cut)
    state = load(tmp_path / "whole")
    assert state["precision"]["scale"] > 0
    assert state["precision"] != torch.amp.GradScaler("cpu").state_dict()
    assert_same(load(tmp_path / "cut"), state)


def moments_after(data_root, chain, out, *settings):
    """Moments of the first step that the optimiser took, by parameter: 0.1 times the clipped gradient."""
    trainer = fusion_trainer(data_root, chain, out, *FUSION_SET, "schedule.clip=0.01", *settings)
    moments = {}
    while not moments:  # float16 may overflow and skip the step: then the same batch again, at half the scale
        trainer.ready()
        trainer.train_step()
        moments = flat(trainer.optimizer.state_dict()["state"])
    return {name: value for name, value in moments.items() if name.endswith("exp_avg")}


def test_float16_gradients_are_clipped_after_unscaling(data_root, chain, tmp_path):
    whole, half = (moments_after(data_root, chain, tmp_path, f"precision={p}") for p in ("32-true", "16-mixed"))
    assert whole.keys() == half.keys()
    whole, half = (torch.cat([value.flatten() for value in moments.values()]) for moments in (whole, half))
    for moments in (whole, half):
        assert 10 * moments.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.cosine_similarity(whole, half, dim=0) > 0.999


def test_inputs_stay_float32_in_half_precision(data_root, chain, tmp_path, monkeypatch):
    trainer = fusion_trainer(data_root, chain, tmp_path, *FUSION_SET, "precision=bf16-mixed")
    seen = []
    features = trainer.module.features

    def watch(image, code, **options):
        seen.extend([image.dtype, code.dtype, options["box"].dtype])
        found = features(image, code, **options)
        seen.append(found.detail.dtype)
        return found

    monkeypatch.setattr(trainer.module, "features", watch)
    trainer.train_step()
    assert seen == [torch.float32, torch.float32, torch.float32, torch.bfloat16] * 2


def test_a_loss_that_is_not_finite_is_one_clear_line(data_root, chain, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: the (loss|gradient) is not finite at step \d: lower the learning"):
        command(*fusion_words(data_root, chain, tmp_path, "schedule.lr=1e30", "schedule.warmup_steps=0"))
    with pytest.raises(SystemExit, match=r"^error: the (loss|gradient) is not finite at step \d: lower the learning"):
        command(*tokenizer_words(data_root, tmp_path / "tokenizer", "optim.lr=1e30"))


def test_gradients_that_are_not_finite_end_the_run_before_they_reach_the_weights(data_root, chain, tmp_path):
    trainer = fusion_trainer(data_root, chain, tmp_path, *FUSION_SET)
    before = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    trainer.groups[0][0].register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(DataError, match="the gradient is not finite at step 0"):
        trainer.train_step()
    assert all(torch.equal(value, before[name]) for name, value in trainer.module.state_dict().items())
