"""Matching of patches, the report of a tiny run, and its pictures."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.tiny_backbone_runs import backbone_words
from tests.training.tiny_runs import command
from training.backbone_files import load_trained, save_backbone
from training.backbone_matching import Rates, centre_multiple, match, shifted_parts, usual_shift
from training.backbone_pictures import components, save_matches
from training.backbone_report import measure, pixels, taps_of
from training.backbone_student import build_control
from training.config import PairFolder
from training.data.images import DataError
from training.data.pairs import ImagePairs


@pytest.fixture(scope="module")
def run_folder(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    command(*backbone_words(data_root, folder, folder / "run", steps=2))
    return folder / "run"


def test_the_same_image_is_found_again_where_it_is():
    image = torch.rand(1, 1, 96, 128)
    for shift in ((0, 0), (1, 2)):
        a, b = shifted_parts(image, image, shift)
        assert a.shape == b.shape == (1, 1, 96 - 16 * shift[0], 128 - 16 * shift[1])
        matches = match(pixels(a)[0], pixels(b)[0], shift)
        assert torch.equal(matches.found, matches.wanted)
        assert len(matches.found) == (6 - 2 * shift[0]) * (8 - 2 * shift[1])
        assert Rates.of([matches]) == Rates(1.0, 1.0, 0.0, matches.chance)


def test_features_that_only_tell_the_place_find_nothing_in_shifted_parts():
    places = torch.eye(24).view(24, 4, 6)
    assert Rates.of([match(places, places, (0, 0))]).hit == 1
    shifted = Rates.of([match(places, places, (1, 2))])
    assert shifted.hit == shifted.near == 0
    assert shifted.distance == pytest.approx(5**0.5)
    assert shifted.chance == pytest.approx(1 / 24)


def test_a_neighbour_is_near():
    a = torch.eye(9).view(9, 3, 3)
    rates = Rates.of([match(a, a.roll((1, 1), dims=(1, 2)), (0, 0))])
    assert rates.hit == 0
    assert rates.near == pytest.approx(4 / 9)
    assert rates.distance == pytest.approx((4 * 2**0.5 + 4 * 5**0.5 + 8**0.5) / 9)


def test_sides_become_multiples_of_a_patch():
    image = torch.arange(70.0)[:, None].expand(70, 91)[None, None]
    assert centre_multiple(image).shape == (1, 1, 64, 80)
    assert centre_multiple(image)[0, 0, 0, 0] == 3
    assert centre_multiple(image, 50).shape == (1, 1, 48, 48)
    assert usual_shift(image) == (1, 1)
    with pytest.raises(DataError, match=r"32×48 pixels is too small .* at least 48"):
        shifted_parts(torch.rand(1, 1, 48, 32), torch.rand(1, 1, 48, 32), (1, 1))


def test_components_have_one_basis_for_both_images():
    a = torch.randn(16, 4, 5)
    first, second = components(a, a.flip(2))
    assert first.shape == (3, 4, 5)
    assert 0 <= first.min() < first.max() <= 1
    torch.testing.assert_close(second, first.flip(2))


def test_the_report_of_a_run(data_root, run_folder, tmp_path, capsys):
    command("backbone-report", "--run", run_folder, "--data", data_root, "--out", tmp_path, "--show", 1, "--random")
    report = json.loads((tmp_path / "report.json").read_text())
    names = [row["features"] for row in report["rows"]]
    assert names == [f"{kind}, block {n}" for kind in ("trained", "random") for n in (1, 2, 3, 4)] + ["pixels"]
    for row in report["rows"]:
        for kind in ("aligned", "shifted"):
            rates = row[kind]
            assert 0 <= rates["hit"] <= rates["near"] <= 1
            assert 0 <= rates["distance"] < 8
            assert rates["chance"] == pytest.approx(1 / 20 if kind == "aligned" else 1 / 12)
    trained = load_trained(run_folder)
    control = build_control(trained.config, (0.4,) * 3, (0.25,) * 3, 0)
    pairs = ImagePairs(data_root, [PairFolder(a="ivf/val/visible", b="ivf/val/infrared")])
    expected = measure(pairs, taps_of(control), ["1", "2", "3", "4"])
    assert [row["shifted"] for row in report["rows"][4:8]] == [asdict(row.shifted) for row in expected]
    assert report["pairs"] == {"ivf/val/visible + ivf/val/infrared": 2}
    text = (tmp_path / "report.md").read_text()
    assert capsys.readouterr().out == text
    assert text.count("\n| ") == 10
    for name in ("trained", "random"):
        picture = np.asarray(Image.open(tmp_path / f"scene_0-{name}-components.png"))
        assert picture.shape == (64 + 16 + 64, 80 + 16 + 80, 3)
        grey = picture[:64, :80]
        assert (grey[..., 0] == grey[..., 1]).all()
        Image.open(tmp_path / f"scene_0-{name}-matches.png").verify()
    assert not list(tmp_path.glob("scene_1*"))


def test_saved_files_are_reported_like_the_run(data_root, run_folder, tmp_path):
    save_backbone(run_folder, tmp_path / "saved")
    for source, out in ((run_folder, "a"), (tmp_path / "saved", "b")):
        command("backbone-report", "--run", source, "--data", data_root, "--out", tmp_path / out, "--show", 0)
    assert (tmp_path / "a" / "report.json").read_text() == (tmp_path / "b" / "report.json").read_text()


def test_wrong_options_are_refused(data_root, run_folder, tmp_path):
    words = ("backbone-report", "--data", data_root, "--out", tmp_path)
    with pytest.raises(SystemExit, match="--side must be 48 or more, not 32"):
        command(*words, "--run", run_folder, "--side", 32)
    with pytest.raises(SystemExit, match="--limit must be 1 or more"):
        command(*words, "--run", run_folder, "--limit", 0)
    with pytest.raises(SystemExit, match=r"holds neither last\.pt nor backbone\.safetensors"):
        command(*words, "--run", tmp_path)


def test_matches_are_drawn(tmp_path):
    image = torch.rand(1, 1, 64, 80)
    parts = shifted_parts(image, image, (1, 1))
    save_matches(*parts, match(pixels(parts[0])[0], pixels(parts[1])[0], (1, 1)), (1, 1), tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").size == (1100, 750)
