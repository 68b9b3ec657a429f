"""``evaluate --truth``: fused images held against what they should be, beside the sources themselves."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from app.card import Evaluation
from tests.training.tiny_bundle import grey, make_bundle
from training.__main__ import main
from training.evaluation import command
from training.evaluation.baselines import BASELINES
from training.evaluation.metrics import DEFAULT, METRICS, RANKED, TRUTH_METRICS

NAMES = ("p0", "p1", "p2")
SOURCES = ["image a", "image b"]


def smooth(seed, shape=(48, 60)):
    small = Image.fromarray(np.random.default_rng(seed).integers(40, 200, (6, 8), np.uint8))
    return np.asarray(small.resize(shape[::-1], Image.Resampling.BICUBIC))


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def data(tmp_path):
    """Three pairs whose mean is the truth: a is 20 levels too bright, b 20 too dark, in colour and grey."""
    root = tmp_path / "focus" / "val"
    for seed, name in enumerate(NAMES):
        truth = smooth(seed)
        save(truth + 20, root / "a" / f"{name}.png")
        save(np.stack([truth - 20] * 3, axis=2), root / "b" / f"{name}.png")
        save(truth, root / "truth" / f"{name}.bmp")
    return root


def evaluate(data, *options):
    return command.main(["--data", str(data), "--a", "a", "--b", "b", "--metrics", "EN", "SD", *options])


def read(out):
    return json.loads((out / "metrics.json").read_text())


def psnr(x, y):
    return 10 * math.log10(255**2 / np.mean((x.astype(float) - y.astype(float)) ** 2))


def test_every_method_and_both_sources_are_held_against_the_truth(data, tmp_path, capsys):
    for seed, name in enumerate(NAMES):
        save(np.clip(smooth(seed).astype(int) + grey(seed) % 9 - 4, 0, 255).astype(np.uint8), tmp_path / f"{name}.png")
    assert evaluate(data, "--truth", "truth", "--baselines", "--fused", f"ours={tmp_path}", "--out", str(tmp_path)) == 0
    assert "| PSNR_truth ↑ | SSIM_truth ↑ | EN ↑ | SD ↑ |" in capsys.readouterr().out
    found = read(tmp_path)
    assert list(found["methods"]) == [*BASELINES, *SOURCES, "ours"]
    means = {name: method["mean"] for name, method in found["methods"].items()}
    assert means["image a"]["PSNR_truth"] == pytest.approx(20 * math.log10(255 / 20))
    assert means["image b"]["PSNR_truth"] == pytest.approx(20 * math.log10(255 / 20))
    ours, truth = (np.asarray(Image.open(path)) for path in (tmp_path / "p1.png", data / "truth" / "p1.bmp"))
    on_one = found["methods"]["ours"]["per_pair"]["p1"]
    assert on_one["PSNR_truth"] == pytest.approx(psnr(ours, truth))
    assert on_one["SSIM_truth"] == pytest.approx(METRICS["SSIM"](truth, truth, ours) / 2)
    low, high = found["methods"]["ours"]["interval"]["PSNR_truth"]
    assert low < means["ours"]["PSNR_truth"] < high
    assert found["differences"]["ours"]["image a"]["PSNR_truth"]["better"] is True


def test_the_truth_itself_is_the_best_that_can_be(data, tmp_path):
    truths = data / "truth"
    options = ("--fused", f"right={truths}", "--baselines", "--rank-by", "PSNR_truth", "SSIM_truth")
    assert evaluate(data, "--truth", "truth", *options, "--out", str(tmp_path)) == 0
    found = read(tmp_path)
    assert found["ranked_by"] == ["PSNR_truth", "SSIM_truth"]
    right = found["methods"]["right"]
    assert right["mean"]["PSNR_truth"] == 100.0
    assert right["mean"]["SSIM_truth"] == pytest.approx(1.0)
    ranks = {name: method["mean_rank"] for name, method in found["methods"].items()}
    assert ranks["right"] == ranks["average"] == min(ranks.values())  # the mean of these sources is the truth, too
    assert ranks["right"] < min(ranks[source] for source in SOURCES)


def test_the_default_rank_leaves_the_truth_out(data, tmp_path):
    assert evaluate(data, "--truth", "truth", "--baselines", "--out", str(tmp_path)) == 0
    found = read(tmp_path)
    assert found["ranked_by"] == ["EN", "SD"]
    assert list(found["metrics"]) == [*TRUTH_METRICS, "EN", "SD"]
    assert all(found["metrics"][name]["better"] == "higher" for name in TRUTH_METRICS)
    assert not TRUTH_METRICS.keys() & {*RANKED, *DEFAULT, *METRICS}


def test_without_truth_nothing_changes(data, tmp_path):
    assert evaluate(data, "--baselines", "--out", str(tmp_path)) == 0
    found = read(tmp_path)
    assert list(found["methods"]) == list(BASELINES)
    assert list(found["metrics"]) == ["EN", "SD"]


def test_truth_goes_with_bundles_controls_groups_sizes_and_processes(data, tmp_path):
    bundle = make_bundle(tmp_path / "tiny", edit=True)
    (tmp_path / "groups.csv").write_text("name,group\np0,near\np1,far\np2,far\n")
    options = ["--bundle", str(bundle), "--baselines", "--controls", "--groups", str(tmp_path / "groups.csv")]
    size = ["--size", "36", "--rank-by", "SSIM_truth", "--jobs", "2"]
    assert evaluate(data, "--truth", "truth", *options, *size, "--out", str(tmp_path / "out")) == 0
    found = read(tmp_path / "out")
    controls = [f"tiny, {kind}" for kind in ("strength 0", "tokens of another image", "tokens zeroed")]
    assert list(found["methods"]) == [*BASELINES, *SOURCES, "tiny", *controls]
    plain = found["methods"]["tiny, strength 0"]["mean"]  # the mean of both images; the bundle itself sharpens
    assert plain["PSNR_truth"] > found["methods"]["tiny"]["mean"]["PSNR_truth"] > 20.0
    assert found["groups"]["far"]["pairs"] == 2
    assert found["groups"]["far"]["mean_rank"]["image a"] > found["groups"]["far"]["mean_rank"]["average"]


def test_pictures_show_the_truth_and_each_source_once(data, tmp_path):
    assert evaluate(data, "--truth", "truth", "--baselines", "--sheet", "1", "--out", str(tmp_path)) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figcaption>truth</figcaption>") == 3
    assert page.count("<img ") == 3 * (2 + 1 + 4)
    assert "structural similarity of f to the truth" in page
    assert Image.open(tmp_path / "sheet.png").width == (3 + len(BASELINES) + 2) * 62


def test_a_card_keeps_the_sources_but_ranks_only_methods(data, tmp_path):
    bundle = make_bundle(tmp_path / "tiny", edit=True)
    assert evaluate(data, "--truth", "truth", "--bundle", str(bundle), "--write-card") == 0
    (entry,) = json.loads((bundle / "card.json").read_text())["evaluation"]
    Evaluation.model_validate(entry)  # the service must be able to read the card
    assert set(entry["mean_rank"]) == {*BASELINES, "tiny"}
    assert set(entry["metrics"]) == {*entry["mean_rank"], *SOURCES}
    assert entry["metrics"]["image a"]["PSNR_truth"] == pytest.approx(22.11, abs=0.01)
    assert "PSNR_truth" in entry["intervals"]["tiny"]


def test_truth_of_made_pairs_needs_nothing_but_their_folder(tmp_path):
    save(np.stack([grey(i, (64, 64)) for i in range(3)], axis=2), tmp_path / "images" / "one.png")
    made = tmp_path / "made"
    assert main(["synthesise", "exposure", "--images", str(tmp_path / "images"), "--out", str(made)]) == 0
    assert evaluate(made, "--truth", "truth", "--baselines", "--out", str(tmp_path / "out")) == 0
    a, truth = (np.asarray(Image.open(made / side / "one.png").convert("L")) for side in ("a", "truth"))
    assert read(tmp_path / "out")["methods"]["image a"]["mean"]["PSNR_truth"] == pytest.approx(psnr(a, truth))


def remove(folder):
    (folder / "p1.bmp").unlink()


def shrink(folder):
    save(smooth(1, (40, 60)), folder / "p1.bmp")


def damage(folder):
    (folder / "p1.bmp").write_bytes(b"no image")


def double(folder):
    save(smooth(1), folder / "p1.png")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove, r"truth holds no truth of 1 pairs, e.g. no p1.png: put it there, or evaluate without --truth"),
        (shrink, r"p1.bmp is 60×40 but .*p1.png is 60×48: the truth must be of the pair's size; make both anew"),
        (damage, r"cannot read .*p1.bmp: .*; replace it, or evaluate without --truth"),
        (double, r"p1.bmp and p1.png share the name 'p1': remove one of them"),
    ],
)
def test_a_bad_truth_is_named_before_anything_is_fused(data, tmp_path, capsys, monkeypatch, harm, message):
    harm(data / "truth")
    monkeypatch.setattr(command, "evaluate_methods", lambda *args, **kwargs: pytest.fail("it went on"))
    assert evaluate(data, "--truth", "truth", "--baselines", "--out", str(tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baselines", "--rank-by", "PSNR_truth"], "PSNR_truth needs the truth of every pair: give its sub-folder"),
        (["--baselines", "--metrics", "SSIM_truth"], "SSIM_truth needs the truth of every pair"),
        (["--baselines", "--truth", "nowhere"], "no folder"),
        (["--baselines", "--truth", "truth", "--size", "8"], "evaluate without --truth"),
    ],
)
def test_command_explains_what_is_wrong(data, capsys, options, message):
    assert evaluate(data, *options) == 1
    assert message in capsys.readouterr().err


def test_truths_of_other_pairs_are_passed_over(data, tmp_path):
    save(smooth(9), data / "truth" / "q.png")
    remove(data / "truth")
    assert evaluate(data, "--truth", "truth", "--baselines", "--limit", "1", "--out", str(tmp_path)) == 0
    assert read(tmp_path)["pairs"] == 1
