"""TITA by its commands: a run, its exact resume with the state of FAMO, data parallel averages, and its bundle."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from app.card import ModelCard
from models.tita import TITA
from tests.training.tiny_runs import PowerCutError, assert_same, command, flat, load, power_cut
from tests.training.tiny_tita_runs import MADE, NETWORK, tita_words
from training import export_tita
from training.data.images import DataError
from training.tita import build_network, load_trained

SETTINGS = ({"kind": "famo", "same_masks": True}, {"kind": "famo"}, {"kind": "mean"})


@pytest.fixture(scope="module")
def run_folder(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tita")
    command(*tita_words(data_root, folder, folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run_folder, tmp_path_factory):
    """As the command writes it, at fewer sizes."""
    folder = tmp_path_factory.mktemp("bundle") / "tita"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_tita, "PARITY_SIZES", ((64, 64), (37, 53)))
        patch.setattr(export_tita, "TILED_SIZE", (200, 600))
        patch.setattr(export_tita, "TILE", 768)
        command("export", "--run", run_folder, "--card", "tita", "--out", folder)
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("weighting", SETTINGS, ids=["same masks", "famo", "mean"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(data_root, tmp_path, weighting):
    whole, cut = (tita_words(data_root, tmp_path, tmp_path / name, weighting=weighting) for name in ("whole", "cut"))
    command(*whole)
    with power_cut(2), pytest.raises(PowerCutError):
        command(*cut)
    command(*cut)
    ours, theirs = load(tmp_path / "cut"), load(tmp_path / "whole")
    assert_same(ours, theirs)
    ours, theirs = flat(ours["weighting"]), flat(theirs["weighting"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert bool(ours) == (weighting["kind"] == "famo")


def test_famo_learns_weights_and_the_mean_does_not(data_root, run_folder, tmp_path):
    logits = load(run_folder)["weighting"]["logits"]
    assert logits.shape == (2,)
    assert logits.abs().min() > 0
    command(*tita_words(data_root, tmp_path, tmp_path / "mean", weighting={"kind": "mean"}))
    assert load(tmp_path / "mean")["weighting"] == {"kind": "mean", "tasks": ["infrared-visible", "multi-focus"]}


def test_a_run_records_tasks_and_validations(run_folder):
    first, *_ = rows = lines(run_folder)
    assert first["weight/multi-focus"] == pytest.approx(0.5)
    assert first["loss"] == pytest.approx((first["loss/infrared-visible"] + first["loss/multi-focus"]) / 2)
    scores = [row for row in rows if "val/multi-focus/PSNR" in row]
    assert [row["step"] for row in scores] == [2, 4]
    assert "val/infrared-visible/PSNR" not in scores[0]
    assert all(np.isfinite(value) for row in scores for name, value in row.items() if name.startswith("val/"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_angles_are_recorded_when_asked_for(data_root, run_folder, tmp_path, precision):
    assert not any(name.startswith("angle/") for row in lines(run_folder) for name in row)
    base = tita_words(data_root, tmp_path, tmp_path / "angles")
    command(*base, "--set", "validation.angles_every=2", "--set", f"precision={precision}")
    angles = {
        row["step"]: row["angle/infrared-visible/multi-focus"]
        for row in lines(tmp_path / "angles")
        if any(name.startswith("angle/") for name in row)
    }
    assert angles.keys() == {0, 2}
    assert all(0 < angle < 180 for angle in angles.values())
    if precision == "32-true":
        assert_same(load(tmp_path / "angles"), load(run_folder))  # measuring changes nothing


def test_the_trained_network_is_the_average_of_the_run(run_folder):
    model, state = load_trained(run_folder)
    assert isinstance(model, TITA)
    assert not model.training
    assert model.config.dim == NETWORK["dim"]
    assert (model.config.fold, model.config.output) == (4, "blend")
    weights = model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in state["average"].items())
    assert any(not torch.equal(weights[name], value) for name, value in state["model"].items())


def test_a_bundle_is_what_a_service_takes(bundle, run_folder):
    card = ModelCard.model_validate_json((bundle / "card.json").read_text())
    assert {file.name for file in bundle.iterdir()} == {"card.json", *card.files}
    assert card.parameters == {"fusion": sum(p.numel() for p in load_trained(run_folder)[0].parameters())}
    assert card.slots == ()
    assert {use.name: (use.count, use.unit) for use in card.training.data} == {
        "ivf/train/visible + ivf/train/infrared": (4, "pairs"),
        "ivf/train/visible": (4, "images"),
    }
    (run,) = card.training.runs
    assert (run.steps, run.command) == (4, "python -m training tita")
    assert max(card.parity.values()) <= 1e-4
    assert {name.split()[0] for name in card.parity} == {"fusion", "tiled"}
    assert card.extra["float16_storage_change"] <= 0.5 / 255


def test_the_graph_of_a_bundle_is_the_trained_network(bundle, run_folder):
    model, _ = load_trained(run_folder)
    weights = load_file(bundle / "fusion.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    model.load_state_dict(weights)
    a, b = torch.rand(2, 3, 1, 50, 70)
    session = onnxruntime.InferenceSession(bundle / "fusion.onnx", providers=["CPUExecutionProvider"])
    fused = session.run(None, {"a": a.numpy(), "b": b.numpy()})[0]
    with torch.no_grad():
        assert np.abs(fused - model(a, b).numpy()).max() <= 1e-4


def test_wrong_options_of_export_are_refused(run_folder, chain, tmp_path):
    with pytest.raises(SystemExit, match="is a tita run, which has no tokens: leave out --tokenizer"):
        command("export", "--run", run_folder, "--card", "tita", "--tokenizer", chain / "tokenizer", "--out", tmp_path)
    with pytest.raises(SystemExit, match="needs its tokenizer: give --tokenizer"):
        command("export", "--run", chain / "fusion", "--out", tmp_path)
    with pytest.raises(DataError, match="is a titok-ste run: give the folder of a tita run"):
        load_trained(chain / "fusion")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": "titok-ste"}, "no TITA profile 'titok-ste'; known: tita, tita-code, tita-paper"),
        ({"network": {"depth": 3}}, "network: .*unexpected keyword argument 'depth'"),
        ({"network": {"fold": 0}}, "network: fold must be at least 1, not 0"),
        ({"weighting": {"kind": "famo", "min_losses": [0.1]}}, "min_losses has 1 values for 2 tasks"),
        ({"tasks": []}, "tasks: "),
        ({"optim": {"lr": 1e9, "clip": 1.0}}, "is not finite"),
    ],
)
def test_recipes_that_cannot_run_say_why(data_root, tmp_path, changes, message):
    with pytest.raises(SystemExit, match=message):
        command(*tita_words(data_root, tmp_path, tmp_path / "run", **changes))


def test_a_run_of_other_tasks_is_not_gone_on_with(data_root, run_folder):
    with pytest.raises(SystemExit, match=r"begun with another recipe \(weighting differ\)"):
        command(*tita_words(data_root, run_folder.parent, run_folder, weighting={"kind": "mean"}))


def test_every_ablation_has_a_profile():
    with torch.device("meta"):
        assert build_network("tita-no-mul", {"fold": 2}).config.operations == ("hpf", "add")


def test_check_data_knows_recipes_of_tasks(data_root, tmp_path, capsys):
    words = tita_words(data_root, tmp_path, tmp_path / "run")[2]
    with pytest.raises(SystemExit, match="train and val share 4 pairs"):
        command("check-data", "--recipe", words, "--data", data_root)
    others = [{"a": "ivf/val/visible", "b": "ivf/val/infrared"}]
    for folder, message in (("ivf/train/visible", "train and val share 4 single images"), ("ivf/val/visible", None)):
        made = {**MADE, "images": [{"path": folder}]}
        tasks = [{"name": "infrared-visible", "pairs": others}, {"name": "multi-focus", "made": made}]
        path = tita_words(data_root, tmp_path, tmp_path / "run", validation={"every": 2, "tasks": tasks})[2]
        if message:
            with pytest.raises(SystemExit, match=message):
                command("check-data", "--recipe", path, "--data", data_root)
        else:
            command("check-data", "--recipe", path, "--data", data_root)
    assert "val    ivf/val/visible: 2 single images" in capsys.readouterr().out


def test_a_run_can_start_from_another_and_keeps_its_record(data_root, run_folder, tmp_path):
    words = tita_words(data_root, tmp_path, tmp_path / "on", steps=1, optim={"lr": 1e-12, "clip": 0.0, "ema": 0.9})
    command(*words, "--start-from", run_folder)
    begun, before = load(tmp_path / "on"), load(run_folder)
    for name, weight in before["average"].items():
        torch.testing.assert_close(begun["average"][name], weight, atol=1e-6, rtol=0)
    assert [run["steps"] for run in begun["earlier"]] == [before["step"]]
    assert begun["step"] == 1


def test_a_run_does_not_start_from_another_network(data_root, run_folder, tmp_path):
    words = tita_words(data_root, tmp_path, tmp_path / "on", network={**NETWORK, "rebuild_depth": 2})
    with pytest.raises(SystemExit, match="holds another network than the recipe's tita"):
        command(*words, "--start-from", run_folder)
