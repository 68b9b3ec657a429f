"""Evaluation from folders to reports and cards, with tiny graphs in place of trained ones."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from app.card import Evaluation
from tests.training.tiny_bundle import grey, make_bundle
from training.data.images import DataError, read_luminance
from training.evaluation import command
from training.evaluation.baselines import BASELINES, average
from training.evaluation.methods import FusedFolder, evaluate_methods, to_grey
from training.evaluation.metrics import DEFAULT, METRICS, RANKED
from training.evaluation.pairs import Pair, load_pairs
from training.evaluation.runner import Bundle, write_evaluation
from training.evaluation.selection import choose_metrics
from training.evaluation.sheet import contact_sheet
from training.evaluation.strength import Slot, study_markdown, study_strength


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


def test_pairs_are_read_as_rounded_luminance(data):
    pairs = load_pairs(data, "visible", "infrared")
    assert [pair.name for pair in pairs] == ["p0", "p1"]
    rgb = np.asarray(Image.open(data / "visible" / "p0.png")).astype(float)
    assert np.abs(pairs[0].a - rgb @ [0.299, 0.587, 0.114]).max() <= 0.502
    np.testing.assert_array_equal(pairs[1].b, grey(10))
    assert load_pairs(data, "visible", "infrared", size=32, limit=1)[0].b.shape == (32, 32)


def test_unequal_sizes_missing_partners_and_damaged_images_are_named(data):
    Image.fromarray(grey(1, (48, 61))).save(data / "infrared" / "p0.png")
    with pytest.raises(DataError, match=r"pair 'p0'.*60×48.*61×48"):
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


def test_fused_images_of_16_bits_are_read_at_full_scale(tmp_path):
    pair, fused = pairs_of(1)[0], grey(7)
    Image.fromarray(fused.astype(np.uint16) * 257).save(tmp_path / "p0.png")
    np.testing.assert_array_equal(FusedFolder(tmp_path).fused(pair), fused)
    (tmp_path / "p0.png").unlink()
    Image.fromarray(fused.astype(np.float32) / 255).save(tmp_path / "p0.tif")
    np.testing.assert_array_equal(FusedFolder(tmp_path).fused(pair), fused)


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
    assert "## Differences: tiny minus" in (out / "metrics.md").read_text()
    assert list(content["differences"]) == ["tiny"]
    assert (out / "report.html").read_text().count("<img ") == 2 * 6
    assert Image.open(out / "sheet.png").height == 48 + 16
    assert Image.open(out / "fused" / "centred-sum" / "p1.png").size == (60, 48)
    assert [s["slot"] for s in json.loads((out / "strength.json").read_text())["tiny"]] == [
        "all",
        "sharpen",
        "smooth",
    ]
    (entry,) = json.loads((bundle / "card.json").read_text())["evaluation"]
    assert list(entry) == ["dataset", "pairs", "size", "ranked_by", "mean_rank", "metrics", "intervals", "strength"]
    assert [study["slot"] for study in entry["strength"]] == ["all", "sharpen", "smooth"]
    assert set(entry["metrics"]) == set(entry["mean_rank"]) == {*BASELINES, "tiny"}
    assert 1.0 <= entry["mean_rank"]["tiny"] <= 6.0
    assert list(entry["intervals"]) == ["tiny"]
    low, high = entry["intervals"]["tiny"]["EN"]
    assert low <= entry["metrics"]["tiny"]["EN"] <= high
    Evaluation.model_validate(entry)  # the service must be able to read the card
    assert command.main([*options, "--write-card"]) == 0
    (again,) = json.loads((bundle / "card.json").read_text())["evaluation"]
    assert again["strength"] == entry["strength"]


def test_command_reads_16_bits_as_training_does(tmp_path, data):
    raw = 20_000 + 9 * grey(3).astype(np.uint16)
    raw[0, 0] = 65_535  # a hot pixel
    for bits in (16, 8):
        image = raw if bits == 16 else read_luminance(data / "infrared" / "p0.png")
        Image.fromarray(image).save(data / "infrared" / "p0.png")
        options = ["--data", str(data), "--baselines", "--metrics", "EN", "SD", "MI", "--limit", "1"]
        assert command.main([*options, "--out", str(tmp_path / str(bits))]) == 0
    deep, stretched = ((tmp_path / bits / "metrics.json").read_text() for bits in ("16", "8"))
    assert deep == stretched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to evaluate"),
        (["--baselines", "holiday"], "no baselines for 'holiday'; known: general, exposure"),
        (["--baselines", "--size", "large"], "--size must be"),
        (["--baselines", "--sheet", "2"], "need --out"),
        (["--baselines", "--write-card"], "needs --bundle"),
        (["--baselines", "--controls"], "needs --bundle"),
        (["--fused", "theirs"], "NAME=FOLDER"),
        (["--baselines", "--metrics", "FOO"], "no metric FOO"),
        (["--baselines", "--rank-by", "FOO"], "no metric FOO"),
        (["--baselines", "--a", "thermal"], "thermal"),
        (["--baselines", "--size", "20"], "leave VIF out with --metrics"),
        (["--baselines", "--reference", "ours"], "'ours' is none of the methods"),
        (["--baselines", "--groups", "no.csv"], "cannot read no.csv"),
        (["--baselines", "--jobs", "0"], "--jobs must be 1 or more"),
        (["--baselines", "--limit", "-1"], "--limit must be 1 or more"),
    ],
)
def test_command_explains_what_is_wrong(data, capsys, options, message):
    assert command.main(["--data", str(data), *options]) == 1
    assert message in capsys.readouterr().err


def test_results_that_cannot_be_written_cost_no_evaluation(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main(["--data", str(data), "--baselines", "--out", str(tmp_path / "file" / "out")]) == 1
    said = capsys.readouterr()
    assert "cannot write the results" in said.err
    assert not said.out


def test_ranks_use_only_metrics_that_were_measured(data, capsys):
    assert command.main(["--data", str(data), "--baselines", "--metrics", "SD", "clip", "--limit", "1"]) == 0
    assert "mean rank over SD." in capsys.readouterr().out


def test_exposure_pairs_have_a_baseline_more(data, tmp_path):
    pytest.importorskip("cv2")
    options = ["--data", str(data), "--baselines", "exposure", "--metrics", "MEF_SSIM", "--out", str(tmp_path)]
    assert command.main(options) == 0
    methods = json.loads((tmp_path / "metrics.json").read_text())["methods"]
    assert list(methods) == [*BASELINES, "mertens"]


def test_ranks_can_use_any_metrics_which_are_then_measured_once(data, tmp_path):
    options = ["--data", str(data), "--baselines", "--metrics", "SD", "SD", "--rank-by", "clip", "SD"]
    assert command.main([*options, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["ranked_by"] == ["clip", "SD"]
    assert list(content["metrics"]) == ["SD", "clip"]
    assert list(content["differences"]) == ["average"]
    assert choose_metrics(["all"], None) == (tuple(METRICS), RANKED)


def test_bundles_of_one_name_are_told_apart_by_folder(tmp_path, data, capsys):
    paths = [tmp_path / run / "bundle" for run in ("one", "two")]
    folders = [make_bundle(path, edit=path is paths[1], name="net") for path in paths]
    options = ["--data", str(data), "--metrics", "EN", "SD", "--write-card", "--out", str(tmp_path / "out")]
    assert command.main([*options, "--bundle", str(folders[0]), "--bundle", str(folders[1])]) == 0
    differences = json.loads((tmp_path / "out" / "metrics.json").read_text())["differences"]
    assert list(differences) == ["one/bundle", "two/bundle"]
    there, back = differences["one/bundle"]["two/bundle"]["SD"], differences["two/bundle"]["one/bundle"]["SD"]
    assert there["mean"] == pytest.approx(-back["mean"])
    assert (there["better"], back["better"]) == (False, True)  # the second sharpens
    for folder in folders:
        (entry,) = json.loads((folder / "card.json").read_text())["evaluation"]
        assert set(entry["metrics"]) == {*BASELINES, "net"}
        assert set(entry["intervals"]) == {"net"}
    assert command.main([*options, "--bundle", str(folders[0]), "--bundle", str(folders[0])]) == 1
    assert "one folder twice" in capsys.readouterr().err


def test_several_processes_measure_the_same(tmp_path):
    pairs, methods = pairs_of(5), {"mean": average, "larger": np.maximum}
    alone = evaluate_methods(pairs, methods, ["EN", "SSIM"])
    assert evaluate_methods(pairs, methods, ["EN", "SSIM"], jobs=2) == alone
    small = [Pair("tiny", grey(1, (20, 20)), grey(2, (20, 20)))]
    with pytest.raises(DataError, match=r"mean on 'tiny'.*leave VIF out"):
        evaluate_methods(small, methods, ["VIF"], jobs=2)


def test_saved_images_of_two_methods_never_share_a_folder(tmp_path, data, capsys):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for i in range(2):
        Image.fromarray(grey(50 + i)).save(theirs / f"p{i}.png")
    options = ["--data", str(data), "--fused", f"a b={theirs}", "--fused", f"a, b={theirs}"]
    assert command.main([*options, "--save-fused", "--out", str(tmp_path)]) == 1
    assert "differ in more than signs" in capsys.readouterr().err
