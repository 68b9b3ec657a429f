"""UniFusion by its command: a run, its exact resume, its records, and recipes and backbones that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.unifusion import SmallViT, UniFusion, ViTConfig
from tests.training.tiny_backbone_runs import backbone_words
from tests.training.tiny_runs import PowerCutError, assert_same, command, flat, load, power_cut
from tests.training.tiny_unifusion_runs import BACKBONE, NETWORK, tiny_trainer, unifusion_words
from training import unifusion_network
from training.backbone_files import load_control
from training.config import load_recipe
from training.data.images import DataError
from training.unifusion import load_trained
from training.unifusion_network import make_backbone, network_config
from training.unifusion_recipe import BackboneConfig, UniFusionRecipe

BATCH_NORM = {**NETWORK, "norm": "batch"}
WAYS = {
    "two levels": {"network": BATCH_NORM, "levels": {"fuse_grad_to_adapter": 0.5, "skip_drop": 0.3, "inner_steps": 2}},
    "joint": {"levels": {"joint": True}},
    "in turn": {"levels": {"fuse_grad_to_adapter": 0.0}, "schedule": "round-robin"},
}


@pytest.fixture(scope="module")
def run_folder(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unifusion")
    command(*unifusion_words(data_root, folder, folder / "run"))
    return folder / "run"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(data_root, tmp_path, way):
    whole, cut = (unifusion_words(data_root, tmp_path, tmp_path / name, **WAYS[way]) for name in ("whole", "cut"))
    command(*whole)
    with power_cut(2), pytest.raises(PowerCutError):
        command(*cut)
    command(*cut)
    ours, theirs = load(tmp_path / "cut"), load(tmp_path / "whole")
    assert_same(ours, theirs)
    assert (ours["adapter_optimizer"] is None) == (way == "joint")
    ours, theirs = flat(ours["adapter_optimizer"]), flat(theirs["adapter_optimizer"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_records_tasks_and_what_the_taps_do(run_folder):
    first, *_ = rows = lines(run_folder)
    assert first["loss"] == pytest.approx((first["loss/infrared-visible"] + first["loss/multi-focus"]) / 2)
    assert first["rec"] == pytest.approx((first["rec/infrared-visible"] + first["rec/multi-focus"]) / 2)
    scores = [row for row in rows if "val/multi-focus/PSNR" in row]
    assert [row["step"] for row in scores] == [2, 4]
    for task in ("infrared-visible", "multi-focus"):
        own = {name.removeprefix(f"val/{task}/"): value for name, value in scores[-1].items() if task in name}
        assert own.keys() >= {"SSIM", "PSNR_rebuilt_a", "PSNR_rebuilt_b", "rec_without_taps", "fused_without_taps"}
        assert all(np.isfinite(value) for value in own.values())
        assert own["fused_without_taps"] > 0
        assert own["rec_without_taps"] != 0
        assert 0 < own["PSNR_rebuilt_a"] < 40


def test_taps_that_nothing_reads_change_nothing(data_root, tmp_path):
    trainer = tiny_trainer(data_root, tmp_path / "run", network={**NETWORK, "adapter": "none"})
    scores, _ = trainer.validate()
    assert scores["val/multi-focus/fused_without_taps"] > 0.01
    with torch.no_grad():
        for adapter in (trainer.average.network.adapter_a, trainer.average.network.adapter_b):
            adapter.project.weight.zero_()
    scores, pictures = trainer.validate()
    for task in ("infrared-visible", "multi-focus"):
        assert scores[f"val/{task}/fused_without_taps"] == scores[f"val/{task}/rec_without_taps"] == 0
    assert len(pictures) == 2


def test_without_reconstruction_only_the_fused_image_is_looked_at(data_root, tmp_path):
    trainer = tiny_trainer(data_root, tmp_path / "run", network={**NETWORK, "reconstruction_depth": 0})
    names = {name.rpartition("/")[2] for name in trainer.validate()[0]}
    assert "fused_without_taps" in names
    assert not any("reb" in name or "rec_" in name for name in names)


def test_the_trained_network_is_the_average_with_the_last_adapters(run_folder):
    model, state = load_trained(run_folder)
    assert isinstance(model, UniFusion)
    assert not model.training
    assert (model.config.width, model.config.output) == (8, "blend")
    now, average = state["model"], state["average"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, average[f"network.{name}"])
        if name.startswith("adapter"):
            assert torch.equal(value, now[f"network.{name}"])
    differs = [name for name in now if not torch.equal(now[name], average[name])]
    assert {name.split(".")[1] for name in differs} == {"fusion", "output"}
    assert state["backbone"] == model.identity()
    assert not any("blocks.3" in name for name in now)  # no weight of the backbone


def test_another_backbone_is_refused(data_root, run_folder, tmp_path):
    other = SmallViT.random(2, ViTConfig(64, depth=4, heads=1))
    with pytest.raises(DataError, match=r"run: the checkpoint was trained on another backbone: sha256"):
        load_trained(run_folder, backbone=other)
    with pytest.raises(SystemExit, match=r"begun with another recipe \(backbone differ\)"):
        command(*unifusion_words(data_root, run_folder.parent, run_folder, backbone={**BACKBONE, "seed": 2}))
    with pytest.raises(DataError, match="a backbone of 64 channels, stride 16 and 4 taps; small-vit-random has 128"):
        load_trained(run_folder, backbone=SmallViT.random(2, ViTConfig(128, depth=4, heads=2)))


def test_a_file_that_became_another_backbone_is_not_gone_on_with(data_root, tmp_path, monkeypatch):
    weights = tmp_path / "backbone.safetensors"
    weights.touch()
    words = unifusion_words(data_root, tmp_path, tmp_path / "run", backbone={"path": str(weights)})
    seed = 1
    monkeypatch.setattr(
        unifusion_network, "load_backbone", lambda path: SmallViT.random(seed, ViTConfig(64, depth=4, heads=1))
    )
    with power_cut(2), pytest.raises(PowerCutError):
        command(*words)
    seed = 2
    with pytest.raises(SystemExit, match="run: the checkpoint was trained on another backbone: sha256"):
        command(*words)
    seed = 1
    command(*words)
    assert load(tmp_path / "run")["step"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": "tita"}, "no UniFusion profile 'tita'; known: unifusion, unifusion-code, unifusion-paper"),
        ({"network": {"depth": 3}}, "network: .*unexpected keyword argument 'depth'"),
        ({"network": {**NETWORK, "fold": 3}}, "network: fold must be one of 1, 2, 4, not 3"),
        ({"network": {**NETWORK, "embed_dim": 160}}, "backbone: embed_dim must be 64 for each head"),
        ({"backbone": {"path": "nowhere"}}, "there is no nowhere: train one with .* or take random weights"),
        ({"backbone": {"kind": "dinov3", "path": "x.pth"}}, "there is no x.pth: DINOv3's weights are no part"),
        ({"backbone": {"kind": "clip"}}, "backbone.kind: "),
        ({"levels": {"inner_steps": 0}}, "levels.inner_steps: "),
        ({"levels": {"fuse_grad_to_adapter": 2}}, "levels.fuse_grad_to_adapter: "),
        ({"levels": {"joint": True, "fuse_grad_to_adapter": 0.0}}, "set fuse_grad_to_adapter to 1, not 0"),
        ({"levels": {"joint": True, "inner_steps": 2}}, "no inner steps in one level: leave out inner_steps=2"),
        ({"network": {**NETWORK, "width": "8"}}, "network: width must be a whole number, not '8'"),
        ({"backbone": {"path": ".", "random": True}}, r"no backbone\.json: it must lie beside"),
        ({"precision": "16-mixed"}, "two optimisers cannot share the loss scale of 16-mixed"),
        ({"only": ["medical"]}, "only: tasks has no 'medical'; known: infrared-visible, multi-focus"),
        ({"schedule": "random"}, "schedule: "),
        ({"tasks": []}, "tasks: "),
        ({"optim": {"lr": 1e9, "clip": 1.0}}, "is not finite"),
    ],
)
def test_recipes_that_cannot_run_say_why(data_root, tmp_path, changes, message):
    with pytest.raises(SystemExit, match=message):
        command(*unifusion_words(data_root, tmp_path, tmp_path / "run", **changes))


def test_a_run_of_another_version_is_refused(run_folder, tmp_path):
    state = load(run_folder)
    state["recipe"] = json.dumps({**json.loads(state["recipe"]), "levels": {"inner": 1}})
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(DataError, match=r"(?s)another version \(.*levels.inner.*\): use the version of its commit"):
        load_trained(tmp_path)


def test_gradient_angles_are_not_silently_left_out(data_root, tmp_path):
    words = unifusion_words(data_root, tmp_path, tmp_path / "run")
    with pytest.raises(SystemExit, match=r"validation\.angles_every: "):
        command(*words, "--set", "validation.angles_every=2")


def test_other_runs_are_refused(run_folder, chain, data_root):
    with pytest.raises(DataError, match="is a titok-ste run: give the folder of a unifusion run"):
        load_trained(chain / "fusion")
    with pytest.raises(SystemExit, match=r"begun with another recipe \(levels differ\)"):
        command(*unifusion_words(data_root, run_folder.parent, run_folder, levels={"joint": True}))


def test_a_run_can_start_from_another_and_keeps_its_record(data_root, run_folder, tmp_path):
    still = {"lr": 1e-12, "clip": 0.0, "ema": 0.9}
    command(*unifusion_words(data_root, tmp_path, tmp_path / "on", steps=1, optim=still), "--start-from", run_folder)
    begun, before = load(tmp_path / "on"), load(run_folder)
    assert any(name.startswith("heads.") for name in before["average"])
    for name, weight in before["average"].items():
        torch.testing.assert_close(begun["average"][name], weight, atol=1e-6, rtol=0)
    assert [run["steps"] for run in begun["earlier"]] == [before["step"]]
    assert begun["step"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {**NETWORK, "cross_blocks": 2}}, "holds another network than the recipe's unifusion"),
        ({"backbone": {**BACKBONE, "seed": 2}}, "the checkpoint was trained on another backbone"),
    ],
)
def test_a_run_does_not_start_from_another_network(data_root, run_folder, tmp_path, changes, message):
    words = unifusion_words(data_root, tmp_path, tmp_path / "on", **changes)
    with pytest.raises(SystemExit, match=message):
        command(*words, "--start-from", run_folder)


# shipped recipes


def test_the_papers_recipe_is_the_papers():
    recipe = load_recipe("unifusion-paper", UniFusionRecipe)
    config = network_config(recipe.profile, recipe.network)
    assert (config.embed_dim, config.width, config.fold, config.reconstruction_depth) == (384, 64, 1, 4)
    assert (recipe.steps, recipe.sampling.side, recipe.levels.inner_steps) == (10_000, 128, 1)
    assert recipe.levels.fuse_grad_to_adapter == recipe.levels.skip_drop == 0
    assert recipe.adapter_lr_ratio > 1
    weights = {
        task.name: (task.objective.intensity, task.objective.texture, task.objective.ssim, task.rec_weight)
        for task in recipe.tasks
    }
    assert weights == {
        "infrared-visible": (20, 20, 10, 5),
        "multi-exposure": (20, 20, 10, 5),
        "multi-focus": (20, 20, 10, 10),
        "medical": (20, 100, 50, 20),
    }
    targets = {task.name: (task.objective.target, task.objective.shares) for task in recipe.tasks}
    assert targets == {
        "infrared-visible": ("max", "gradient"),
        "multi-exposure": ("mean", "equal"),
        "multi-focus": ("mean", "gradient"),
        "medical": ("max", "equal"),
    }
    with pytest.raises(DataError, match=r"give your file with --set backbone\.path=PATH"):
        make_backbone(recipe.backbone, config)


@pytest.mark.parametrize("name", ["unifusion", "unifusion-short", "unifusion-ablation"])
def test_our_recipes_train_the_released_network(name):
    recipe = load_recipe(name, UniFusionRecipe, ["backbone.path=null"])
    config = network_config(recipe.profile, recipe.network)
    assert (config.embed_dim, config.fold, config.norm, config.output) == (192, 4, "group", "blend")
    assert recipe.sampling.side <= 256  # sides of medical images
    assert make_backbone(recipe.backbone, config).name == "small-vit-random"


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A backbone that is saved after one step."""
    folder = tmp_path_factory.mktemp("backbone")
    command(*backbone_words(data_root, folder, folder / "run", steps=1))
    return folder / "run"


@pytest.mark.parametrize("name", ["", "backbone.safetensors"])
def test_the_control_is_the_trained_backbone_but_for_its_weights(trained, name):
    config = network_config("unifusion", NETWORK)
    found, control, again, other = (
        make_backbone(BackboneConfig(path=trained / name, random=random, seed=seed), config)
        for random, seed in ((False, 5), (True, 5), (True, 5), (True, 6))
    )
    assert control.config == found.config != ViTConfig(64, depth=4, heads=1)  # it has a single register
    assert (control.taps, control.mean, control.std) == (found.taps, found.mean, found.std)
    assert control.mean == (0.4, 0.4, 0.4)
    assert control.name == "small-vit-random"
    assert control.identity() == again.identity()
    assert len({vit.identity().sha256 for vit in (found, control, other)}) == 3
    # as a training begins, and untouched by it
    assert control.patches.weight.sum(dim=(1, 2, 3)).abs().max() < 1e-4
    assert torch.equal(control.blocks[0].scale1, torch.ones(64))
    assert not control.training
    assert not any(p.requires_grad for p in control.parameters())
    # no weights are read
    (trained / "copy").mkdir(exist_ok=True)
    (trained / "copy" / "backbone.json").write_text((trained / "backbone.json").read_text())
    assert load_control(trained / "copy", 5).identity() == control.identity()


def test_a_control_of_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "backbone.json").write_text('{"name": "small-vit"}')
    with pytest.raises(DataError, match=r"backbone\.json describes no backbone: 'config'"):
        load_control(tmp_path, 0)


def test_the_papers_control_needs_no_weights(monkeypatch):
    recipe = load_recipe("unifusion-paper", UniFusionRecipe, ["backbone.random=true"])
    monkeypatch.setattr(unifusion_network, "DinoV3Backbone", lambda: SmallViT(ViTConfig(384, heads=6)))
    config = network_config(recipe.profile, recipe.network)
    first, again = (make_backbone(recipe.backbone, config) for _ in range(2))
    assert first.identity() == again.identity()


def test_a_random_backbone_is_that_of_its_seed():
    config = network_config("unifusion", NETWORK)
    first, again, other = (make_backbone(BackboneConfig(seed=s, depth=4), config).identity() for s in (5, 5, 6))
    assert first == again != other
    assert make_backbone(BackboneConfig(path=Path("nowhere")), network_config("unifusion-no-dinov3", {})) is None
