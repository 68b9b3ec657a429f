from __future__ import annotations

import hashlib
import json
import logging
import sys

import numpy as np
import onnxruntime
import pytest

from app.bundles import read_bundle
from app.catalog import load_catalog
from app.errors import BundleError, StartupError, UnknownModelError
from app.onnx_backend import CPU, CUDA, OnnxBackend, choose_providers, import_runtime
from app.options import PLAIN_FIELDS
from app.runs import Run
from app.settings import Settings
from app.telemetry import Telemetry


@pytest.fixture
def folder(tmp_path, bundle_writers):
    """A bundle with encoder and slots that tests may spoil."""
    return bundle_writers["coded"](tmp_path / "weights")


def edit_card(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def card_of(folder):
    return json.loads((folder / "card.json").read_text())


def load(weights, **changes):
    return load_catalog(Settings(weights=weights, device="cpu", threads=1, **changes), Telemetry())


def refusal(folder):
    """Returns why a bundle is refused, wherever on its way that happens."""
    with pytest.raises(BundleError) as caught:
        OnnxBackend(read_bundle(folder), Settings(device="cpu", threads=1))
    assert caught.value.name == folder.name
    return caught.value.reason


def test_a_sound_bundle_is_read(folder):
    bundle = read_bundle(folder)
    assert bundle.card.slots == ("sharpen", "smooth")
    assert (bundle.fusion, bundle.encoder) == (folder / "fusion.onnx", folder / "encoder.onnx")


def test_missing_card(folder):
    (folder / "card.json").unlink()
    assert "no card.json" in refusal(folder)


def test_broken_json(folder):
    (folder / "card.json").write_text("{")
    assert "card.json is invalid" in refusal(folder)


def test_unknown_card_field(folder):
    edit_card(folder, colour="blue")
    assert "invalid at colour" in refusal(folder)


def test_card_of_another_name(folder):
    edit_card(folder, name="other")
    assert "'other'" in refusal(folder)


def test_missing_file(folder):
    (folder / "encoder.onnx").unlink()
    assert "'encoder.onnx' cannot be read" in refusal(folder)


def test_wrong_size(folder):
    with (folder / "fusion.onnx").open("ab") as file:
        file.write(b"\0")
    assert "bytes, the card says" in refusal(folder)


def test_wrong_checksum(folder):
    path = folder / "fusion.onnx"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    assert "sha256" in refusal(folder)


def test_slots_without_an_edit_input(folder):
    edit_card(folder, edit_slots=[])
    assert "0 edit slots it must take ['a', 'b', 'code_a', 'code_b']" in refusal(folder)


def test_codes_without_an_encoder(folder):
    edit_card(folder, encoder=None)
    assert "no encoder" in refusal(folder)


def test_two_outputs(folder):
    card = card_of(folder)
    card["fusion"]["outputs"] *= 2
    edit_card(folder, fusion=card["fusion"])
    assert "one output" in refusal(folder)


@pytest.mark.parametrize("name", [name for name in PLAIN_FIELDS if "_" not in name])
def test_a_slot_named_like_a_form_field(folder, name):
    card = card_of(folder)
    card["edit_slots"][0]["name"] = name
    edit_card(folder, edit_slots=card["edit_slots"])
    assert "names of form fields" in refusal(folder)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda spec: spec.update(name="result"), "the card lists ['result']"),
        (lambda spec: spec.update(shape=["N", 3, "H", "W"]), "the card says ['N', 3, 'H', 'W']"),
        (lambda spec: spec.update(shape=["N", 1, "H"]), "the card says ['N', 1, 'H']"),
        (lambda spec: spec.update(shape=["N", 1, 64, "W"]), "the card says ['N', 1, 64, 'W']"),
    ],
)
def test_a_graph_unlike_its_card(folder, spoil, reason):
    card = card_of(folder)
    spoil(card["fusion"]["outputs"][0])
    edit_card(folder, fusion=card["fusion"])
    assert reason in refusal(folder)


def test_a_slot_count_unlike_the_graph(folder):
    edit_card(folder, edit_slots=card_of(folder)["edit_slots"][:1])
    assert "; 1 edit slots need ['N', 1]" in refusal(folder)


def test_a_graph_that_does_not_open(tmp_path, folder, bundle_writers):
    plain = bundle_writers["plain"](tmp_path / "weights")
    content = b"not a graph"
    (plain / "fusion.onnx").write_bytes(content)
    edit_card(plain, files={"fusion.onnx": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}})
    assert "cannot be opened" in refusal(plain)


def test_a_bad_bundle_is_refused_by_name_and_the_others_are_served(tmp_path, folder, bundle_writers, caplog):
    bundle_writers["plain"](tmp_path / "weights")
    (folder / "encoder.onnx").unlink()
    with caplog.at_level(logging.ERROR):
        catalog = load(tmp_path / "weights")
    assert [engine.card.name for engine in catalog] == ["plain"]
    assert "encoder.onnx" in catalog.refused["coded"]
    assert caplog.records[0].model == "coded"


def test_a_graph_that_fails_to_run_is_refused(tmp_path, bundle_writers):
    bundle_writers["plain"](tmp_path)
    moody = bundle_writers["moody"](tmp_path)
    slots = card_of(moody)["edit_slots"]
    slots[1]["default"] = 1.0
    edit_card(moody, edit_slots=slots)
    assert "warm-up run failed" in load(tmp_path).refused["moody"]


def test_no_usable_bundle(tmp_path, folder):
    (folder / "card.json").unlink()
    with pytest.raises(StartupError, match=r"No usable model.*PAIRFUSE_WEIGHTS.*\n  coded: it has no card.json"):
        load(tmp_path / "weights")


def test_no_weights_folder(tmp_path):
    with pytest.raises(StartupError, match="PAIRFUSE_WEIGHTS"):
        load(tmp_path / "nowhere")


def test_default_model(weights):
    assert load(weights).default == "coded"
    assert load(weights, model="plain").default == "plain"
    with pytest.raises(StartupError, match="PAIRFUSE_MODEL=nothing is not loaded; there are: coded, moody, plain"):
        load(weights, model="nothing")


def test_unknown_model_lists_the_known(weights):
    with pytest.raises(UnknownModelError, match="coded, moody, plain"):
        load(weights).get("nothing")


class Runtime:
    """Stands in for the onnxruntime module."""

    def __init__(self, *providers):
        self._providers = providers
        self.preloaded = False

    def get_available_providers(self):
        return list(self._providers)

    def preload_dlls(self):
        self.preloaded = True


def test_provider_policy():
    both, cpu_only = Runtime(CUDA, CPU), Runtime(CPU)
    assert choose_providers(both, "cpu") == [CPU]
    assert choose_providers(cpu_only, "auto") == [CPU]
    assert not both.preloaded
    assert choose_providers(both, "auto")[0][0] == CUDA
    assert both.preloaded
    with pytest.raises(StartupError, match=r"pairfuse\[gpu\]"):
        choose_providers(cpu_only, "cuda")


class FickleRuntime:
    """The real onnxruntime, which offers CUDA as well; its sessions get it, or fall back in silence."""

    def __init__(self, *, works):
        self.works = works
        self.RunOptions, self.SessionOptions = onnxruntime.RunOptions, onnxruntime.SessionOptions

    def get_available_providers(self):
        return [CUDA, CPU]

    def preload_dlls(self):
        pass

    def InferenceSession(self, path, options, providers):  # noqa: N802
        assert providers[0][0] == CUDA
        session = onnxruntime.InferenceSession(path, options, providers=[CPU])
        if self.works:
            session.get_providers = lambda: [CUDA, CPU]
        return session


@pytest.fixture
def fickle(monkeypatch):
    runtime = FickleRuntime(works=False)
    monkeypatch.setattr("app.onnx_backend.import_runtime", lambda: runtime)
    return runtime


def test_a_fall_back_to_the_cpu_is_refused_where_cuda_is_demanded(weights, fickle):
    with pytest.raises(StartupError, match=r"fell back to the CPU for 'plain'.*nvidia-smi"):
        OnnxBackend(read_bundle(weights / "plain"), Settings(device="cuda"))


def test_a_fall_back_to_the_cpu_is_reported_elsewhere(weights, fickle, caplog):
    telemetry = Telemetry()
    catalog = load_catalog(Settings(weights=weights, device="auto", threads=1), telemetry)
    backend = catalog.get("plain").backend
    assert (backend.device, backend.fell_back) == ("cpu", True)
    assert "fell back to the CPU" in caplog.text
    assert 'pairfuse_fell_back{model="plain"} 1.0' in telemetry.render().decode()


@pytest.mark.parametrize(("works", "device"), [(True, "auto"), (True, "cuda"), (False, "cpu")])
def test_no_fall_back_is_reported_where_there_is_none(weights, fickle, monkeypatch, works, device):
    fickle.works = works
    if device == "cpu":
        monkeypatch.undo()
    backend = OnnxBackend(read_bundle(weights / "plain"), Settings(device=device))
    assert (backend.device, backend.fell_back) == ("cuda" if works else "cpu", False)


def test_graphs_that_ran_on_cuda_are_not_opened_again_on_the_cpu(weights, fickle):
    fickle.works = True
    backend = OnnxBackend(read_bundle(weights / "plain"), Settings(device="auto"))
    fickle.works = False
    for _ in range(2):
        with pytest.raises(StartupError, match="plain ran on cuda, and now onnxruntime offers only cpu"):
            backend.reopen()
    assert backend.device == "cuda"
    fickle.works = True
    backend.reopen()


def test_graphs_are_opened_again_only_if_they_are_the_same(folder):
    backend = OnnxBackend(read_bundle(folder), Settings(device="cpu", threads=1))
    backend.reopen()
    image = np.full((1, 1, 40, 40), 0.25, np.float32)
    codes = backend.encode(np.concatenate([image, image]), Run())
    inputs = {"a": image, "b": image, "code_a": codes[:1], "code_b": codes[1:], "edit": np.ones((1, 2), np.float32)}
    np.testing.assert_allclose(backend.fuse(inputs, Run()), image, atol=1e-6)
    other = (folder / "fusion.onnx").read_bytes() + b" "
    (folder / "fusion.onnx").write_bytes(other)
    record = {"sha256": hashlib.sha256(other).hexdigest(), "bytes": len(other)}
    edit_card(folder, files=card_of(folder)["files"] | {"fusion.onnx": record})
    with pytest.raises(BundleError, match="it has changed since the start"):
        backend.reopen()


def test_missing_onnxruntime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StartupError, match=r"pip install 'pairfuse\[cpu\]'"):
        import_runtime()


def test_the_released_model_loads_and_runs(real_weights):
    catalog = load(real_weights)
    assert catalog.refused == {}
    assert catalog.default == "titok-ste-lite"
