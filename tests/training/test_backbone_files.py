"""Saving a trained backbone and loading it again; damaged or mixed files are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.tiny_backbone_runs import backbone_words
from tests.training.tiny_runs import command, load
from training.backbone_files import IDENTITY, WEIGHTS, load_backbone, load_trained, save_backbone
from training.data.images import DataError


@pytest.fixture(scope="module")
def run_folder(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    command(*backbone_words(data_root, folder, folder / "run", steps=2))
    return folder / "run"


@pytest.fixture
def saved(run_folder, tmp_path):
    save_backbone(run_folder, tmp_path / "saved")
    return tmp_path / "saved"


@torch.no_grad()
def test_what_is_loaded_is_the_teacher_of_the_run(run_folder, saved):
    image = torch.rand(1, 3, 32, 48)
    vit, trained = load_backbone(saved), load_trained(run_folder)
    assert vit.identity() == trained.identity()
    assert all(map(torch.equal, vit(image), trained(image)))
    teacher = load(run_folder)["average"]
    for name, value in vit.state_dict().items():
        assert torch.equal(value, teacher[f"vit.{name}"].half().float())
    assert not vit.training
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in vit.parameters())
    assert vit.mask_token is None
    assert vit.mean == (0.4, 0.4, 0.4)


def test_the_record_says_what_it_is(saved):
    record = json.loads((saved / IDENTITY).read_text())
    vit = load_backbone(saved / WEIGHTS)
    assert {key: record[key] for key in vit.identity().record()} == vit.identity().record()
    assert record["config"]["depth"] == 4
    assert record["config"]["registers"] == 1
    assert record["parameters"] == sum(p.numel() for p in vit.parameters())
    assert record["run"]["command"] == "python -m training backbone"
    assert record["run"]["steps"] == 2
    assert record["data"]["ivf/train/visible + ivf/train/infrared"] == 4


def test_a_finished_run_has_its_backbone(run_folder):
    assert load_backbone(run_folder).identity() == load_trained(run_folder).identity()


def test_changed_weights_are_refused(saved):
    weights = load_file(saved / WEIGHTS)
    weights["norm.weight"][3] += 0.5
    save_file(weights, str(saved / WEIGHTS))
    with pytest.raises(DataError, match=r"is not what backbone\.json beside it describes: .*sha256"):
        load_backbone(saved)


def test_weights_of_another_size_are_refused(saved):
    weights = load_file(saved / WEIGHTS)
    del weights["blocks.3.norm1.weight"]
    save_file(weights, str(saved / WEIGHTS))
    with pytest.raises(DataError, match=r"does not fit backbone\.json"):
        load_backbone(saved)


@pytest.mark.parametrize("kept", [0, 7, 1000])
def test_a_cut_file_is_refused(saved, kept):
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:kept])
    with pytest.raises(DataError, match="cut short, damaged"):
        load_backbone(saved)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": "small-vit"}'])
def test_a_damaged_record_is_refused(saved, text):
    (saved / IDENTITY).write_text(text)
    with pytest.raises(DataError, match=r"backbone\.json"):
        load_backbone(saved)


def test_missing_files_are_named(saved, tmp_path):
    (saved / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="python -m training backbone"):
        load_backbone(saved)
    with pytest.raises(FileNotFoundError, match="must lie beside"):
        load_backbone(tmp_path)


def test_other_runs_are_refused(run_folder, tmp_path):
    torch.save({**load(run_folder), "kind": "tita"}, tmp_path / "last.pt")
    with pytest.raises(DataError, match="is a tita run: give the folder of a backbone run"):
        save_backbone(tmp_path, tmp_path)
