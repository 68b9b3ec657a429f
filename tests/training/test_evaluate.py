"""Evaluation from folders to reports and cards, with tiny graphs in place of trained ones."""

import hashlib
import json
import math

import numpy as np
import pytest
from PIL import Image

from app.card import Evaluation
from training.data.images import DataError
from training.evaluation import command
from training.evaluation.baselines import BASELINES, average
from training.evaluation.methods import FusedFolder, evaluate_methods, to_grey
from training.evaluation.metrics import DEFAULT
from training.evaluation.pairs import Pair, load_pairs
from training.evaluation.report import contact_sheet
from training.evaluation.runner import Bundle, write_evaluation
from training.evaluation.strength import Slot, study_markdown, study_strength


def grey(seed, shape=(48, 60)):
    return np.random.default_rng(seed).integers(20, 236, shape).astype(np.uint8)


def pairs_of(count):
    return [Pair(f"p{i}", grey(2 * i), grey(2 * i + 1)) for i in range(count)]


@pytest.fixture
def data(tmp_path):
    """Two pairs: colour PNG on one side, grey PNG and BMP on the other."""
    root = tmp_path / "set" / "val"
    for i, suffix in enumerate(("png", "bmp")):
        for side, image in (
            ("visible", np.stack([grey(i + k) for k in range(3)], 2)),
            ("infrared", grey(9 + i)),
        ):
            (root / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / side / f"p{i}.{suffix if side == 'infrared' else 'png'}")
    return root


MEAN = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,1,H,W] a, float[N,1,H,W] b) => (float[N,1,H,W] fused) <float half = {0.5}> {
  sum = Add(a, b)
  fused = Mul(sum, half)
}"""
# The mean plus g_sharpen · 0.2 times a high-pass; the code of a is read, but adds nothing.
EDITED = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,1,H,W] a, float[N,1,H,W] b, float[N,1,1,1] code_a, float[N,2] edit) => (float[N,1,H,W] fused)
<float half = {0.5}, float[2,1] gain = {0.2, 0.0}, int64[2] axes = {2, 3},
 float[1,1,3,3] kernel = {0.0, -0.125, 0.0, -0.125, 0.5, -0.125, 0.0, -0.125, 0.0}> {
  sum = Add(a, b)
  mean = Mul(sum, half)
  high = Conv<pads = [1, 1, 1, 1]>(mean, kernel)
  g = MatMul(edit, gain)
  g4 = Unsqueeze(g, axes)
  detail = Mul(high, g4)
  zero = Sub(code_a, code_a)
  detail0 = Add(detail, zero)
  fused = Add(mean, detail0)
}"""
ENCODER = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,1,H,W] image) => (float[N,1,1,1] code) { code = GlobalAveragePool(image) }"""


def make_bundle(folder, *, edit):
    """A bundle whose graph returns the mean of both images, or with ``edit`` a sharpened one."""
    parser = pytest.importorskip("onnx.parser")
    pytest.importorskip("onnxruntime")
    folder.mkdir(parents=True)
    graphs = {"fusion.onnx": EDITED, "encoder.onnx": ENCODER} if edit else {"fusion.onnx": MEAN}
    files = {}
    for name, text in graphs.items():
        content = parser.parse_model(text).SerializeToString()
        (folder / name).write_bytes(content)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    names = ["a", "b", "code_a", "edit"] if edit else ["a", "b"]
    slots = [{"name": "sharpen", "default": 1.0, "max": 2.0}, {"name": "smooth", "default": 1.0, "max": 1.5}]
    card = {
        "name": folder.name,
        "title": "Mittel über zwei Bilder",
        "files": files,
        "fusion": {"file": "fusion.onnx", "inputs": [{"name": name} for name in names]},
        "encoder": {"file": "encoder.onnx"} if edit else None,
        "edit_slots": slots if edit else [],
        "size": {"min_side": 32, "max_pixels": 4096},
        "evaluation": [],
        "limits": [],
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def test_pairs_are_read_as_rounded_luminance(data):
    pairs = load_pairs(data, "visible", "infrared")
    assert [pair.name for pair in pairs] == ["p0", "p1"]
    rgb = np.asarray(Image.open(data / "visible" / "p0.png")).astype(float)
    assert np.abs(pairs[0].a - rgb @ [0.299, 0.587, 0.114]).max() <= 0.502
    np.testing.assert_array_equal(pairs[1].b, grey(10))
    assert load_pairs(data, "visible", "infrared", size=32, limit=1)[0].b.shape == (32, 32)


def test_unequal_sizes_missing_partners_and_deep_images_are_named(data):
    Image.fromarray(grey(1, (48, 61))).save(data / "infrared" / "p0.png")
    with pytest.raises(DataError, match=r"pair 'p0'.*60×48.*61×48"):
        load_pairs(data, "visible", "infrared")
    Image.fromarray(np.zeros((48, 60), np.uint16)).save(data / "infrared" / "p0.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        load_pairs(data, "visible", "infrared")
    (data / "infrared" / "p0.png").unlink()
    with pytest.raises(DataError, match="p0"):
        load_pairs(data, "visible", "infrared")
    with pytest.raises(DataError, match="thermal"):
        load_pairs(data, "visible", "thermal")
    (data / "infrared" / "p0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot read"):
        load_pairs(data, "visible", "infrared")


def test_fused_images_are_rounded_half_to_even_and_clipped():
    levels = np.array([[-5.0, 0.5, 1.5, 99.49, 300.0]])
    np.testing.assert_array_equal(to_grey((levels / 255).astype(np.float32), (1, 5)), [[0, 0, 2, 99, 255]])
    with pytest.raises(ValueError, match="not finite"):
        to_grey(np.array([[math.nan]]), (1, 1))


def test_methods_are_measured_as_saved(tmp_path):
    pairs, kept = pairs_of(2), {}
    results = evaluate_methods(
        pairs, {"mean": average}, ["EN", "CC"], on_fused=lambda name, pair, f: kept.update({pair.name: f})
    )
    for pair in pairs:
        Image.fromarray(kept[pair.name]).save(tmp_path / f"{pair.name}.png")
    again = evaluate_methods(pairs, {"mean": FusedFolder(tmp_path)}, ["EN", "CC"])
    assert again.values == results.values
    assert results.means()["mean"]["EN"] == pytest.approx(np.mean(results.values["mean"]["EN"]))


def test_bad_methods_are_named(tmp_path):
    with pytest.raises(DataError, match=r"crop on 'p0'.*must be \(48, 60\)"):
        evaluate_methods(pairs_of(1), {"crop": lambda a, b: a[1:]})
    Image.fromarray(grey(1)).save(tmp_path / "other.png")
    with pytest.raises(DataError, match="no fused image named 'p0'"):
        evaluate_methods(pairs_of(1), {"theirs": FusedFolder(tmp_path)})
    with pytest.raises(ValueError, match="at least one pair"):
        evaluate_methods([], {"mean": average})


def test_contact_sheet_shows_every_image_unchanged_when_it_fits():
    image = grey(1)
    sheet = np.asarray(contact_sheet([{"a": image, "b": image}, {"a": image}]))
    assert sheet.shape == (2 * (48 + 16), 2 * 62)
    np.testing.assert_array_equal(sheet[16:64, 63:123], image)
    assert contact_sheet([{"a": image}], height=24).size == (32, 40)


@pytest.mark.parametrize("edit", [False, True])
def test_bundle_fuses_at_its_default_strength(tmp_path, edit):
    bundle = Bundle(make_bundle(tmp_path / "tiny", edit=edit))
    a, b = (grey(i).astype(np.float32) / 255 for i in (1, 2))
    fused = bundle(a, b)
    assert fused.shape == a.shape
    if edit:
        assert bundle.default_edit == (1.0, 1.0)
        np.testing.assert_allclose(bundle.fuse(a, b, (0.0, 1.0)), (a + b) / 2, atol=1e-6)
        assert np.abs(fused - (a + b) / 2).max() > 0.01
    else:
        np.testing.assert_allclose(fused, (a + b) / 2, atol=1e-6)
    with pytest.raises(DataError, match="edit slots"):
        bundle.fuse(a, b, (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="at least 32"):
        bundle(a[:31], b[:31])


def test_broken_bundles_are_refused(tmp_path):
    folder = make_bundle(tmp_path / "tiny", edit=False)
    (folder / "fusion.onnx").write_bytes(b"other")
    with pytest.raises(DataError, match="sha256"):
        Bundle(folder)
    (folder / "card.json").write_text('{"name": "tiny"}')
    with pytest.raises(DataError, match="no complete card"):
        Bundle(folder)
    (folder / "card.json").unlink()
    with pytest.raises(DataError, match="cannot read"):
        Bundle(folder)


def test_card_entries_replace_their_own_kind_and_leave_the_rest_as_it_was(tmp_path):
    folder = make_bundle(tmp_path / "tiny", edit=False)
    before = (folder / "card.json").read_text(encoding="utf-8")
    entry = {"dataset": "s", "pairs": 1, "size": "native", "ranked_by": [], "mean_rank": {}, "metrics": {}}
    for change in ({}, {"size": "256x256"}, {"pairs": 7}):
        write_evaluation(folder, entry | change)
    after = (folder / "card.json").read_text(encoding="utf-8")
    card = json.loads(after)
    assert [(e["size"], e["pairs"]) for e in card["evaluation"]] == [("native", 7), ("256x256", 1)]
    assert "über" in after
    card["evaluation"] = []
    assert json.dumps(card, indent=2, ensure_ascii=False) + "\n" == before
    assert not list(folder.glob("*.tmp"))


def test_strength_study_sees_what_a_slot_does():
    def fuse(a, b, edit):
        mean = (a + b) / 2
        return mean.mean() + (mean - mean.mean()) * (0.5 + 0.2 * edit[0] - 0.1 * edit[1])

    flat = [Pair("p", (100 + grey(1) % 4).astype(np.uint8), (90 + grey(2) % 4).astype(np.uint8))]
    pairs = [Pair("q", grey(3), grey(4)), *flat]
    both, sharpen, smooth = study_strength(pairs, fuse, [Slot("sharpen", 1.0, 2.0), Slot("smooth", 1.0, 1.5)])
    assert (both.slot, sharpen.slot, smooth.slot) == ("all", "sharpen", "smooth")
    assert both.strengths == smooth.strengths == (0.0, 0.5, 1.0, 1.5)
    assert sharpen.change[0] == 0.0
    assert sharpen.change[4] > sharpen.change[2] > 2.0
    assert sharpen.edge_intensity == sorted(sharpen.edge_intensity)
    assert smooth.edge_intensity == sorted(smooth.edge_intensity, reverse=True)
    assert sharpen.edge_intensity_rises >= 0.5
    assert smooth.edge_intensity_rises == 0.0
    text = study_markdown("net", [both, sharpen, smooth])
    assert "| sharpen | 0 | 0.5 | 1 | 1.5 | 2 |" in text


def test_strength_study_without_flat_areas_says_so():
    (study,) = study_strength([Pair("q", grey(3), grey(4))], lambda a, b, e: a, [Slot("sharpen", 1.0, 2.0)])
    assert study.flat_gradient == [None] * 5
    assert study.flat_gradient_falls is None
    assert study.edge_intensity_rises == 0.0


def test_command_writes_reports_and_cards(tmp_path, data, capsys):
    bundle, out = make_bundle(tmp_path / "tiny", edit=True), tmp_path / "out"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for i in range(2):
        Image.fromarray(grey(50 + i)).save(theirs / f"p{i}.png")
    options = ["--bundle", str(bundle), "--data", str(data), "--fused", f"noise={theirs}", "--baselines"]
    extra = ["--out", str(out), "--sheet", "1", "--save-fused", "--strength-study", "--write-card"]
    assert command.main([*options, *extra]) == 0
    assert "| tiny |" in capsys.readouterr().out
    content = json.loads((out / "metrics.json").read_text())
    assert list(content["methods"]) == [*BASELINES, "tiny", "noise"]
    assert list(content["metrics"]) == list(DEFAULT)
    assert (content["dataset"], content["size"], content["pairs"]) == ("set/val", "native", 2)
    assert "| method |" in (out / "metrics.md").read_text()
    assert Image.open(out / "sheet.png").height == 48 + 16
    assert Image.open(out / "fused" / "centred-sum" / "p1.png").size == (60, 48)
    assert [s["slot"] for s in json.loads((out / "strength.json").read_text())["tiny"]] == [
        "all",
        "sharpen",
        "smooth",
    ]
    (entry,) = json.loads((bundle / "card.json").read_text())["evaluation"]
    assert list(entry) == ["dataset", "pairs", "size", "ranked_by", "mean_rank", "metrics", "strength"]
    assert [study["slot"] for study in entry["strength"]] == ["all", "sharpen", "smooth"]
    assert set(entry["metrics"]) == set(entry["mean_rank"]) == {*BASELINES, "tiny"}
    assert 1.0 <= entry["mean_rank"]["tiny"] <= 6.0
    Evaluation.model_validate(entry)  # the service must be able to read the card
    assert command.main([*options, "--write-card"]) == 0
    (again,) = json.loads((bundle / "card.json").read_text())["evaluation"]
    assert again["strength"] == entry["strength"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to evaluate"),
        (["--baselines", "--size", "large"], "--size must be"),
        (["--baselines", "--sheet", "2"], "need --out"),
        (["--baselines", "--write-card"], "needs --bundle"),
        (["--fused", "theirs"], "NAME=FOLDER"),
        (["--baselines", "--metrics", "FOO"], "no metric FOO"),
        (["--baselines", "--a", "thermal"], "thermal"),
        (["--baselines", "--size", "20"], "VIF needs sides"),
    ],
)
def test_command_explains_what_is_wrong(data, capsys, options, message):
    assert command.main(["--data", str(data), *options]) == 1
    assert message in capsys.readouterr().err


def test_ranks_use_only_metrics_that_were_measured(data, capsys):
    assert command.main(["--data", str(data), "--baselines", "--metrics", "SD", "clip", "--limit", "1"]) == 0
    assert "mean rank over SD." in capsys.readouterr().out
