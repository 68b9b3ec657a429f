"""Controls take away exactly what their name says."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.training.tiny_bundle import grey, make_bundle
from training.data.images import DataError
from training.evaluation import command
from training.evaluation.controls import controls_of
from training.evaluation.methods import fuse_pair, to_grey, to_unit
from training.evaluation.pairs import Pair
from training.evaluation.runner import Bundle

PAIRS = [Pair(f"p{i}", grey(2 * i), (grey(2 * i + 1) // 3 + 40 * i).astype(np.uint8)) for i in range(3)]


def expected(pair, code):
    """What the token graph of the tests returns."""
    return to_grey(0.25 * (to_unit(pair.a) + to_unit(pair.b)) + np.float32(0.5 * code), pair.a.shape)


def test_tokens_are_zeroed_or_come_from_another_pair(tmp_path):
    bundle = Bundle(make_bundle(tmp_path / "net", tokens=True))
    controls = controls_of("net", bundle, PAIRS)
    assert list(controls) == ["net, tokens of another image", "net, tokens zeroed"]
    means = [to_unit(pair.b).mean() for pair in PAIRS]
    for i, pair in enumerate(PAIRS):
        near = {"rtol": 0, "atol": 1}  # levels: float32 sums may round the other way
        np.testing.assert_allclose(fuse_pair(bundle, pair), expected(pair, means[i]), **near)
        np.testing.assert_allclose(fuse_pair(controls["net, tokens zeroed"], pair), expected(pair, 0.0), **near)
        other = fuse_pair(controls["net, tokens of another image"], pair)
        np.testing.assert_allclose(other, expected(pair, means[(i + 1) % 3]), **near)
        assert np.abs(other.astype(int) - fuse_pair(bundle, pair)).min() > 4


def test_strength_zero_switches_all_slots_off(tmp_path):
    bundle = Bundle(make_bundle(tmp_path / "net", edit=True))
    plain = fuse_pair(controls_of("net", bundle, PAIRS)["net, strength 0"], PAIRS[0])
    mean = (PAIRS[0].a.astype(int) + PAIRS[0].b) / 2
    assert np.abs(plain - mean).max() <= 0.5
    assert np.abs(plain - fuse_pair(bundle, PAIRS[0]).astype(int)).max() > 4


def test_a_bundle_with_neither_tokens_nor_slots_has_no_controls(tmp_path):
    bundle = Bundle(make_bundle(tmp_path / "net"))
    assert controls_of("net", bundle, PAIRS) == {}
    with pytest.raises(DataError, match="no encoder"):
        bundle.encode(to_unit(PAIRS[0].a))


def test_one_pair_has_no_other_image(tmp_path):
    with pytest.raises(DataError, match="at least two pairs"):
        controls_of("net", Bundle(make_bundle(tmp_path / "net", tokens=True)), PAIRS[:1])


def test_command_compares_a_bundle_with_its_controls(tmp_path, capsys):
    for pair in PAIRS:
        for side in "ab":
            (tmp_path / "set" / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(getattr(pair, side)).save(tmp_path / "set" / side / f"{pair.name}.png")
    bundle = make_bundle(tmp_path / "net", tokens=True)
    options = ["--data", str(tmp_path / "set"), "--a", "a", "--b", "b", "--metrics", "SD", "MSE", "--baselines"]
    assert command.main([*options, "--bundle", str(bundle), "--out", str(tmp_path / "plain")]) == 0
    assert command.main([*options, "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--controls"]) == 0
    assert "Against the control net, tokens zeroed" in capsys.readouterr().out
    plain, content = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "out"))
    assert content["controls"] == {"net, tokens of another image": "net", "net, tokens zeroed": "net"}
    assert content["differences"]["net"]["net, tokens zeroed"]["MSE"]["better"] is True
    for name, found in plain["methods"].items():
        assert content["methods"][name]["mean_rank"] == found["mean_rank"]
    taken = ["--fused", f"net, tokens zeroed={tmp_path / 'set' / 'a'}"]
    assert command.main([*options, "--controls", "--bundle", str(bundle), *taken]) == 1
    assert "is the name of a control" in capsys.readouterr().err
    assert command.main([*options, "--controls", "--bundle", str(make_bundle(tmp_path / "bare"))]) == 1
    assert "tokens or edit slots" in capsys.readouterr().err
