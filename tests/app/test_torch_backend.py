"""The torch backend: the pictures of the onnx backend, from the same bundles."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from app.bundles import read_bundle
from app.onnx_backend import OnnxBackend
from app.runs import Run
from app.settings import Settings
from app.torch_backend import TorchBackend
from app.torch_network import load_network
from tests.app.torch_bundle import CPU, draw, edit_card, opened, settings, write_torch_bundle

KINDS = {
    **{name: {"coded": True, "slots": True} for name in ("titok-ste", "titok-ste-lite", "titok-ste-medical")},
    "tita": {},
    "unifusion": {"coded": True},
}
LEAST_PSNR = 48  # In dB: one grey level, root mean square. Measured: 58 and more.
SIZES = [(1, 61, 83), (2, 50, 37)]


def codes_of(backend, a, b, run=None):
    return {name: backend.encode(image, run or Run()) for name, image in (("code_a", a), ("code_b", b))}


def fuse(backend, a, b, codes=None, *, coded=False, slots=False):
    """Fuses as the engine does, at strength 1.5 of the first slot and 0.5 of the second."""
    inputs = {"a": a, "b": b, **(codes or (codes_of(backend, a, b) if coded else {}))}
    if slots:
        inputs["edit"] = np.tile(np.float32([1.5, 0.5]), (len(a), 1))
    return backend.fuse(inputs, Run())


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


@pytest.mark.parametrize("name", KINDS)
def test_both_backends_make_the_same_picture(both, name):
    onnx, ours = both(name)
    for size in SIZES:
        a, b = draw(*size)
        codes = codes_of(onnx, a, b) if KINDS[name].get("coded") else {}
        expected, fused = (fuse(backend, a, b, codes, **KINDS[name]) for backend in (onnx, ours))
        assert fused.dtype == np.float32
        np.testing.assert_allclose(fused, expected, atol=1e-4, rtol=0)
        for code, own in zip(codes.values(), codes_of(ours, a, b).values() if codes else (), strict=True):
            apart = np.abs(own - code).max(axis=2 if code.ndim == 3 else 1)
            # Where two codes are equally near to a token, rounding decides.
            assert (apart > 1e-4).mean() <= (1 / 32 if code.ndim == 3 else 0)


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


def test_no_tiles_without_a_card_or_a_network_for_them(both, tmp_path):
    for backend in (opened(write_torch_bundle(tmp_path, "small")), both("titok-ste-lite")[1]):
        assert not backend.has_tiles
        with pytest.raises(ValueError, match="no tiles"):
            backend.fuse_in_tiles(dict(zip("ab", draw(1, 64, 64), strict=True)), Run())


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
