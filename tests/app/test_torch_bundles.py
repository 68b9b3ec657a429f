"""Which bundles the torch backend takes, and what it says of those that it refuses."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

from app.catalog import load_catalog
from app.errors import BundleError, StartupError
from app.telemetry import Telemetry
from tests.app.torch_bundle import edit_card, opened, settings, write_torch_bundle


@pytest.fixture
def folder(tmp_path):
    """A small TITA bundle that tests may spoil; its ONNX graph averages the pair, its network does not."""
    return write_torch_bundle(tmp_path / "weights", "small")


def refusal(folder):
    with pytest.raises(BundleError) as caught:
        opened(folder)
    assert caught.value.name == folder.name
    return caught.value.reason


def test_a_bundle_without_safetensors(bundle_writers, tmp_path):
    assert "it has no .safetensors files" in refusal(bundle_writers["coded"](tmp_path))


def test_a_card_that_names_no_network(folder):
    edit_card(folder, extra={})
    assert "extra.profile" in refusal(folder)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"profile": "vgg"}, "no model is named 'vgg'"),
        ({"profile": "tita"}, "is not a tita"),
        ({"profile": "tita", "network": {"dims": 12}}, "dims"),
        ({"profile": "tita", "network": 12}, "damaged"),
        ({"profile": "titok-ste-lite"}, "its slot file is missing"),
        ({"profile": "titok-ste-lite", "network": {"width": 8}}, "no configuration to change: width"),
        ({"profile": "unifusion"}, "the record of its size is missing"),
        ({"profile": "unifusion", "backbone": {"depth": 4}}, "damaged: KeyError"),
    ],
)
def test_a_card_that_names_another_network(folder, extra, reason):
    edit_card(folder, extra=extra)
    assert reason in refusal(folder)


def test_damaged_weights_with_a_right_checksum(folder):
    (folder / "fusion.safetensors").write_bytes(b"nonsense")
    edit_card(folder, files=("fusion.safetensors",))
    assert "cannot be built" in refusal(folder)


@pytest.mark.parametrize(("name", "lost"), [("unifusion", "backbone"), ("titok-ste-lite", "tokenizer")])
def test_a_bundle_without_what_its_network_is_around(real_weights, tmp_path, name, lost):
    copy = shutil.copytree(real_weights / name, tmp_path / name)
    (copy / f"{lost}.safetensors").unlink()
    card = json.loads((copy / "card.json").read_text())
    del card["files"][f"{lost}.safetensors"]
    (copy / "card.json").write_text(json.dumps(card))
    assert f"the weights of its {lost} are missing" in refusal(copy)


def test_parts_of_other_networks_are_refused(real_weights, tmp_path):
    copies = {name: shutil.copytree(real_weights / name, tmp_path / name) for name in ("unifusion", "titok-ste-lite")}
    extra = json.loads((copies["unifusion"] / "card.json").read_text())["extra"]
    edit_card(copies["unifusion"], extra=extra | {"backbone": extra["backbone"] | {"sha256": 64 * "0"}})
    assert "trained on another backbone: sha256" in refusal(copies["unifusion"])
    slots = copies["titok-ste-lite"] / "slots.json"
    slots.write_text(slots.read_text().replace("t32-tiny6-128:0a0c7ab8614dbc77", "t32-tiny6-128:0000000000000000"))
    edit_card(copies["titok-ste-lite"], files=("slots.json",))
    assert "these edit slots were probed on the tokenizer" in refusal(copies["titok-ste-lite"])


def test_slots_in_another_order_are_refused(real_weights, tmp_path):
    copy = shutil.copytree(real_weights / "titok-ste-lite", tmp_path / "titok-ste-lite")
    edit_card(copy, edit_slots=json.loads((copy / "card.json").read_text())["edit_slots"][::-1])
    assert "its network edits ['sharpen', 'smooth'], the card lists ['smooth', 'sharpen']" in refusal(copy)


def test_other_bundles_go_on_and_tell_their_backend(folder, bundle_writers):
    bundle_writers["plain"](folder.parent)
    telemetry = Telemetry()
    catalog = load_catalog(settings(weights=folder.parent), telemetry)
    assert [(engine.card.name, engine.backend.kind) for engine in catalog] == [("small", "torch")]
    assert "no .safetensors" in catalog.refused["plain"]
    assert b'pairfuse_model_info{backend="torch",device="cpu",model="small"' in telemetry.render()


@pytest.mark.parametrize("missing", ["torch", "safetensors.torch"])
def test_a_missing_package_is_named(folder, monkeypatch, missing):
    imported = importlib.import_module

    def refuse(name, *rest):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
        return imported(name, *rest)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(StartupError, match=rf"{missing.partition('.')[0]} is not .*pip install 'pairfuse\[torch\]'"):
        load_catalog(settings(weights=folder.parent), Telemetry())


def test_released_bundles_name_their_network(real_weights):
    for folder in sorted(Path(real_weights).iterdir()):
        assert "profile" in json.loads((folder / "card.json").read_text())["extra"], folder
