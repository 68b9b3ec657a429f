"""The torch backend: the pictures of the onnx backend, from the same bundles."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from app.bundles import read_bundle
from app.catalog import load_catalog
from app.engine import Engine
from app.errors import AbandonedError, BundleError, StartupError
from app.onnx_backend import OnnxBackend
from app.replays import Replays
from app.runs import Run
from app.settings import Settings
from app.telemetry import Telemetry
from app.torch_backend import TorchBackend, choose_device, choose_precision
from app.torch_network import load_network
from tests.app.torch_bundle import edit_card, write_torch_bundle

KINDS = {
    **{name: {"coded": True, "slots": True} for name in ("titok-ste", "titok-ste-lite", "titok-ste-medical")},
    "tita": {},
    "unifusion": {"coded": True},
}
LEAST_PSNR = 48  # In dB: a mean error of a grey level. Measured: 58 and more.
SIZES = [(1, 61, 83), (2, 50, 37)]
CPU = {"device": "cpu", "threads": 1}


def settings(**changes):
    return Settings(**CPU | {"backend": "torch"} | changes)


def opened(folder, **changes):
    return TorchBackend(read_bundle(folder), settings(**changes))


def draw(batch, height, width, seed=0):
    """A smooth, slightly noisy pair."""
    random = np.random.default_rng(seed)
    down, across = np.linspace(0, 6, height)[:, None], np.linspace(0, 6, width)
    waves = [0.5 + 0.4 * np.sin(down * random.uniform(1, 3)) * np.cos(across + phase) for phase in range(2 * batch)]
    images = np.clip(np.stack(waves)[:, None] + random.normal(0, 0.03, (2 * batch, 1, height, width)), 0, 1)
    return images[:batch].astype(np.float32), images[batch:].astype(np.float32)


def fuse(backend, a, b, *, coded=False, slots=False, run=None):
    """Codes and fusion as the engine asks for them, at strength 1.5 of the first slot and 0.5 of the second."""
    run = run or Run()
    inputs = {"a": a, "b": b}
    if coded:
        inputs |= {"code_a": backend.encode(a, run), "code_b": backend.encode(b, run)}
    if slots:
        inputs["edit"] = np.tile(np.float32([1.5, 0.5]), (len(a), 1))
    return backend.fuse(inputs, run)


@pytest.fixture(scope="module")
def both(real_weights):
    """Both backends of a released model, opened once."""
    kept = {}

    def of(name):
        if name not in kept:
            bundle = read_bundle(real_weights / name)
            kept[name] = OnnxBackend(bundle, Settings(**CPU)), TorchBackend(bundle, settings())
        return kept[name]

    return of


@pytest.fixture
def folder(tmp_path):
    """A small TITA bundle that tests may spoil; its ONNX graph averages the pair, its network does not."""
    return write_torch_bundle(tmp_path / "weights", "small")


def refusal(folder):
    with pytest.raises(BundleError) as caught:
        opened(folder)
    assert caught.value.name == folder.name
    return caught.value.reason


@pytest.mark.parametrize("name", KINDS)
def test_both_backends_make_the_same_picture(both, name):
    onnx, ours = both(name)
    for size in SIZES:
        a, b = draw(*size)
        expected, fused = (fuse(backend, a, b, **KINDS[name]) for backend in (onnx, ours))
        assert fused.dtype == np.float32
        np.testing.assert_allclose(fused, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["titok-ste-lite", "tita", "unifusion"])
def test_bfloat16_is_close_and_not_the_same(both, real_weights, name):
    a, b = draw(1, 96, 112)
    exact = fuse(both(name)[1], a, b, **KINDS[name])
    rounded = fuse(opened(real_weights / name, precision="bfloat16"), a, b, **KINDS[name])
    assert 10 * np.log10(1 / np.square(rounded - exact).mean()) > LEAST_PSNR
    assert np.abs(rounded - exact).max() > 1e-5


def test_codes_are_exact_whatever_the_precision(both, real_weights):
    image = draw(1, 64, 80)[0]
    exact = both("titok-ste-lite")[1].encode(image, Run())
    half = opened(real_weights / "titok-ste-lite", precision="bfloat16").encode(image, Run())
    np.testing.assert_array_equal(exact, half)


def test_strength_counts_and_a_card_without_slots_has_the_default(both, real_weights, tmp_path):
    _, ours = both("titok-ste-lite")
    a, b = draw(1, 64, 64)
    codes = {"code_a": ours.encode(a, Run()), "code_b": ours.encode(b, Run())}
    strengths = [np.float32([[value, value]]) for value in (0, 1, 2)]
    none, default, double = (ours.fuse({"a": a, "b": b, **codes, "edit": edit}, Run()) for edit in strengths)
    assert np.abs(none - default).max() > 1e-3
    assert np.abs(default - double).max() > 1e-3
    copy = shutil.copytree(real_weights / "titok-ste-lite", tmp_path / "titok-ste-lite")
    card = json.loads((copy / "card.json").read_text())
    inputs = [spec for spec in card["fusion"]["inputs"] if spec["name"] != "edit"]
    edit_card(copy, edit_slots=[], fusion=card["fusion"] | {"inputs": inputs})
    fixed = opened(copy).fuse({"a": a, "b": b, **codes}, Run())
    np.testing.assert_array_equal(fixed, default)


def test_tiles_equal_the_whole(tmp_path):
    folder = write_torch_bundle(tmp_path, "tiled", tile=64)
    backend = opened(folder)
    assert backend.has_tiles
    a, b = draw(2, 120, 150)
    whole = backend.fuse_whole({"a": a, "b": b}, Run())
    np.testing.assert_allclose(backend.fuse_in_tiles({"a": a, "b": b}, Run()), whole, atol=1e-5, rtol=0)
    # Larger than the card allows as a whole: tiles, in which rounding differs.
    fused = backend.fuse({"a": a, "b": b}, Run())
    np.testing.assert_array_equal(fused, backend.fuse_in_tiles({"a": a, "b": b}, Run()))
    assert not np.array_equal(fused, whole)


def test_no_tiles_without_a_card_or_a_network_for_them(folder, both):
    for backend in (opened(folder), both("titok-ste-lite")[1]):
        assert not backend.has_tiles
        with pytest.raises(ValueError, match="no tiles"):
            backend.fuse_in_tiles(dict(zip("ab", draw(1, 64, 64), strict=True)), Run())


def test_read_only_arrays_are_taken_without_a_warning(folder, recwarn):
    a, b = draw(1, 64, 64)
    a.flags.writeable = b.flags.writeable = False
    fuse(opened(folder), a, b)
    assert [str(warning.message) for warning in recwarn] == []


def test_an_ended_run_begins_no_stage(folder):
    run = Run()
    run.end()
    backend = opened(folder)
    images = dict(zip("ab", draw(1, 64, 64), strict=True))
    for call in (lambda: backend.fuse(images, run), lambda: backend.encode(images["a"], run)):
        with pytest.raises(AbandonedError):
            call()


def test_a_run_that_ends_on_its_way_begins_no_further_layer(folder):
    backend, run, begun = opened(folder), Run(), []

    def note(*_):
        begun.append(1)
        if len(begun) == 5:
            run.end()

    a, b = draw(1, 64, 64)
    hook = register_module_forward_pre_hook(note)  # Called before what the backend itself has every layer do.
    try:
        with pytest.raises(AbandonedError):
            fuse(backend, a, b, run=run)
    finally:
        hook.remove()
    assert len(begun) == 5
    assert np.isfinite(fuse(backend, a, b)).all()


def test_between_tiles_a_run_lets_others_go_first_and_may_end(tmp_path):
    backend = opened(write_torch_bundle(tmp_path, "tiled", tile=64))
    pauses = []

    def pause():
        pauses.append(1)
        if len(pauses) == 3:
            run.end()

    run = Run(pause=pause)
    with pytest.raises(AbandonedError):
        backend.fuse(dict(zip("ab", draw(1, 120, 150), strict=True)), run)
    assert len(pauses) == 3


def test_it_opens_again_and_refuses_a_changed_bundle(folder):
    backend = opened(folder)
    a, b = draw(1, 48, 64)
    before = fuse(backend, a, b)
    backend.reopen()
    np.testing.assert_array_equal(fuse(backend, a, b), before)
    write_torch_bundle(folder.parent, folder.name, seed=1)
    with pytest.raises(BundleError, match="has changed since the start"):
        backend.reopen()


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


class NoCuda:
    class cuda:  # noqa: N801
        is_available = staticmethod(lambda: False)


class WithCuda:
    class cuda:  # noqa: N801
        is_available = staticmethod(lambda: True)


def test_the_device_is_as_asked_or_the_best():
    assert [choose_device(WithCuda, asked) for asked in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    assert [choose_device(NoCuda, asked) for asked in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(StartupError, match="offers no CUDA"):
        choose_device(NoCuda, "cuda")


def test_the_precision_is_as_asked_or_fits_the_device():
    assert [choose_precision("auto", device) for device in ("cuda", "cpu")] == ["bfloat16", "float32"]
    assert choose_precision("float32", "cuda") == "float32"
    assert choose_precision("bfloat16", "cpu") == "bfloat16"
    with pytest.raises(ValueError, match=r"precision\n.*needs PAIRFUSE_BACKEND=torch"):
        Settings(precision="bfloat16")


class HostTraffic(TorchDispatchMode):
    """Notes operations for which a GPU would wait for the host, or whose result has a size that only the host knows."""

    FORBIDDEN = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "item")

    def __init__(self):
        super().__init__()
        self.met = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in func.name() for name in self.FORBIDDEN):
            self.met.append(func.name())
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", KINDS)
def test_no_stage_needs_the_host_on_its_way(real_weights, name):
    """What a CUDA graph may not contain; here on the CPU, where these operations can be seen as well."""
    network = load_network(read_bundle(real_weights / name), lambda what: what)
    a, b = (torch.from_numpy(image) for image in draw(1, 64, 96))
    with HostTraffic() as traffic, torch.inference_mode():
        code = network.encode({"image": a})
        codes = {"code_a": code, "code_b": code} if code.numel() else {}
        edit = {"edit": torch.ones(1, len(network.module.slots))} if network.module.slots else {}
        network.fuse({"a": a, "b": b, **codes, **edit})
        if network.sums is not None:
            sums = network.sums({"a": a, "b": b, "counted": a})
            network.given({"a": a, "b": b, "mean": sums / a.numel()})
    assert traffic.met == []


def test_the_host_traffic_is_seen():
    with HostTraffic() as traffic:
        float(torch.ones(3).new_tensor([1.0, 2.0]).sum())
    assert len(traffic.met) == 2


class NoMemory:
    """Makes the CPU look like a GPU to a backend: recordings answer, memory may not suffice for two pairs."""

    def __init__(self, backend):
        self.given_back = 0
        self.full = False
        backend._replays = Replays(self.record)
        backend._torch = self

    def __getattr__(self, name):
        return self if name == "cuda" else getattr(torch, name)

    def empty_cache(self):
        self.given_back += 1

    def record(self, stage, inputs):
        def replay(fresh):
            if self.full and len(fresh["a"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return stage(fresh)

        return replay


def test_memory_is_given_back_before_the_engine_tries_less(folder):
    backend = opened(folder)
    device = NoMemory(backend)
    engine = Engine(read_bundle(folder).card, backend, 0, lambda _: None)
    jobs = [engine.job(a[0, 0], b[0, 0], ()) for a, b in (draw(1, 64, 64, seed) for seed in range(2))]
    expected = [each.luma for each in engine.run(jobs)]
    engine.run(jobs)  # Recorded.
    device.full = True
    fused = [each.luma for each in engine.run(jobs)]
    assert device.given_back == 1
    np.testing.assert_allclose(fused, expected, atol=1e-5)


def test_the_number_of_threads_counts_for_the_process(folder):
    before = torch.get_num_threads()
    try:
        opened(folder, threads=1)
        assert torch.get_num_threads() == 1
        opened(folder, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_released_bundles_name_their_network(real_weights):
    for folder in sorted(Path(real_weights).iterdir()):
        assert "profile" in json.loads((folder / "card.json").read_text())["extra"], folder
