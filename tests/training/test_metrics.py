"""The metrics against reference values, where at hand, and formulas; means and ranks made of them."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.evaluation.methods import Results
from training.evaluation.metrics import DEFAULT, METRICS, RANKED, find_metrics, measure
from training.evaluation.metrics.common import gaussian, window_mean
from training.evaluation.metrics.similarity import VIF_MIN_SIDE, ssim, vif
from training.evaluation.rank import mean_rank
from training.evaluation.report import Report, card_entry, to_json, to_markdown

SHARED = Path(os.environ.get("PAIRFUSE_SHARED", Path(__file__).parents[2].parent / "shared"))
REFERENCE = SHARED / "metrics"
THEIR_NAMES = {"MI": "MI_bits", "Qabf": "Q_abf", "Nabf": "N_abf"}
WATCH = ("clip", "outside", "flat_noise")
TRIPLES = ("t1", "t2", "t3", "t4", "t5", "t6", "same")
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "reference.json").is_file(),
    reason=f"no reference images at {REFERENCE}: set PAIRFUSE_SHARED to the folder that holds metrics/",
)


def read_triple(name):
    files = ["t1_a"] * 3 if name == "same" else [f"{name}_{letter}" for letter in "abf"]
    return [np.asarray(Image.open(REFERENCE / f"{file}.png")) for file in files]


def noise(seed, shape=(64, 80)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float64)


def ramp(shape=(64, 80)):
    """Columns 0, 3, 6, …: a constant horizontal slope of 3 grey levels."""
    return np.tile(3.0 * np.arange(shape[1]), (shape[0], 1))


@needs_reference
@pytest.mark.parametrize("triple", TRIPLES)
@pytest.mark.parametrize("name", [name for name in METRICS if name not in WATCH])
def test_metric_hits_its_primary_reference(name, triple):
    theirs = THEIR_NAMES.get(name, name)
    primary = json.loads((REFERENCE / "primary.json").read_text())[theirs]
    expected = json.loads((REFERENCE / "reference.json").read_text())[triple][theirs].get(primary["source"])
    value = METRICS[name](*read_triple(triple))
    if expected is None:
        assert not math.isfinite(value)
    else:
        assert value == pytest.approx(expected, rel=primary["rtol"], abs=primary["atol"])


@needs_reference
def test_direction_agrees_with_the_reference():
    primary = json.loads((REFERENCE / "primary.json").read_text())
    for name, metric in METRICS.items():
        if name not in WATCH:
            assert metric.higher_is_better == (primary[THEIR_NAMES.get(name, name)]["better"] == "higher")


@pytest.mark.parametrize(
    ("name", "value"),
    [("EN", 0), ("SD", 0), ("SF", 0), ("AG", 0), ("EI", 0), ("MI", 0), ("clip", 0), ("flat_noise", 0)],
)
def test_constant_images_hold_nothing(name, value):
    assert METRICS[name](*[np.full((48, 48), 100.0)] * 3) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", ["CC", "SCD", "VIF"])
def test_what_is_undefined_on_constant_images_is_nan(name):
    assert math.isnan(METRICS[name](*[np.full((48, 48), 100.0)] * 3))


def test_activity_of_a_ramp():
    f = ramp()
    values = measure(f, f, f, ["SF", "AG", "EI", "EN", "SD"])
    assert values["SF"] == pytest.approx(3.0)
    assert values["AG"] == pytest.approx(3.0 / math.sqrt(2.0))
    assert values["EI"] == pytest.approx(24.0 * (80 - 1) / 80)  # 8 · 3 inside, half of it in the two border columns
    assert values["EN"] == pytest.approx(math.log2(80))
    assert values["SD"] == pytest.approx(3.0 * math.sqrt((80**2 - 1) / 12))


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("SSIM", 2),
        ("VIF", 2),
        ("CC", 1),
        ("MSE", 0),
        ("PSNR", math.inf),
        ("Nabf", 0),
        ("clip", 0),
        ("outside", 0),
    ],
)
def test_identical_images_reach_the_best_value(name, best):
    assert METRICS[name](*[noise(1)] * 3) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("name", list(METRICS))
def test_swapping_the_sources_changes_nothing(name):
    a, b, f = noise(1), noise(2), noise(3)
    f[:20], a[:20], b[:20] = 90, 91, 92  # some flat area
    assert METRICS[name](a, b, f) == pytest.approx(METRICS[name](b, a, f), rel=1e-12)


def test_mutual_information_of_a_copy_is_its_entropy():
    a, constant = noise(1), np.full((64, 80), 7.0)
    assert METRICS["MI"](a, constant, a) == pytest.approx(METRICS["EN"](a, a, a))


def test_difference_correlation_of_the_sum_is_two():
    a, b = np.floor(noise(1) / 2), np.floor(noise(2) / 2)
    assert METRICS["SCD"](a, b, a + b) == pytest.approx(2.0)


def test_clip_counts_only_pixels_that_no_source_explains():
    a, b, f = (np.full((10, 10), level) for level in (100.0, 120.0, 110.0))
    f[0, :4] = 255
    a[0, :1] = 255  # explained: one source is white there
    f[1, :2] = 0
    a[1, 0] = 255  # white in a source does not explain black
    assert METRICS["clip"](a, b, f) == pytest.approx(5.0)


def test_outside_measures_the_distance_from_the_local_range():
    a, b = np.full((20, 20), 100.0), np.full((20, 20), 120.0)
    assert METRICS["outside"](a, b, np.full((20, 20), 110.0)) == 0.0
    assert METRICS["outside"](a, b, np.full((20, 20), 95.0)) == pytest.approx(5.0)
    assert METRICS["outside"](a, b, np.full((20, 20), 130.0)) == pytest.approx(10.0)


def test_flat_noise_looks_only_where_both_sources_are_flat():
    a = np.full((60, 60), 100.0)
    b = a.copy()
    b[:, 30:] = noise(4, (60, 30))
    f = a.copy()
    f[:, 40:] = noise(5, (60, 20))  # activity where b is busy is no noise
    assert METRICS["flat_noise"](a, b, f) == pytest.approx(0.0)
    f[::4, :10] += 8.0
    assert METRICS["flat_noise"](a, b, f) > 0.5
    assert math.isnan(METRICS["flat_noise"](noise(1), noise(2), noise(3)))  # nothing is flat


def test_uint8_and_float_give_the_same():
    a, b, f = noise(1), noise(2), noise(3)
    assert measure(a, b, f) == measure(*(x.astype(np.uint8) for x in (a, b, f)))


def test_window_mean_keeps_full_windows_only():
    image, weights = noise(6, (20, 30)), gaussian(5, 1.0)
    result = window_mean(image, weights)
    assert result.shape == (16, 26)
    assert result[3, 4] == pytest.approx((image[3:8, 4:9] * np.outer(weights, weights)).sum())


def test_too_small_images_are_refused_by_name():
    with pytest.raises(ValueError, match="SSIM needs sides of at least 11"):
        ssim(noise(1, (10, 40)), noise(2, (10, 40)))
    with pytest.raises(ValueError, match=f"VIF needs sides of at least {VIF_MIN_SIDE}"):
        vif(noise(1, (VIF_MIN_SIDE - 1, 60)), noise(2, (VIF_MIN_SIDE - 1, 60)))
    side = (VIF_MIN_SIDE, VIF_MIN_SIDE)
    assert math.isfinite(vif(noise(1, side), noise(2, side)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((64, 79)), "one shape"),
        (np.zeros((64, 80, 3)), r"must be \(H, W\)"),
        (np.full((64, 80), 0.5), "whole grey levels"),
        (np.full((64, 80), 256.0), "0..255"),
        (np.full((64, 80), -1.0), "0..255"),
        (np.full((64, 80), math.nan), "not finite"),
        (np.zeros((64, 80), np.complex128), "real numbers"),
    ],
)
def test_bad_images_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        METRICS["SD"](noise(1), noise(2), bad)


def test_unknown_metric_is_named():
    with pytest.raises(ValueError, match="no metric FOO"):
        find_metrics(["EN", "FOO"])


def test_registry_is_consistent():
    assert set(RANKED) <= set(DEFAULT) <= set(METRICS)
    assert all(name == metric.name and metric.text for name, metric in METRICS.items())


def test_undefined_values_stay_out_of_means_and_become_null():
    results = Results(
        ("SCD", "EN"),
        ("p", "q"),
        {"m": {"SCD": [math.nan, 1.5], "EN": [6.0, 7.0]}, "n": {"SCD": [math.nan] * 2, "EN": [6.0, 6.0]}},
    )
    assert results.means()["m"] == {"SCD": 1.5, "EN": 6.5}
    report = Report("set", "native", results, ("SCD", "EN"))
    content = to_json(report)
    json.dumps(content, allow_nan=False)
    assert content["methods"]["m"]["per_pair"]["p"] == {"SCD": None, "EN": 6.0}
    assert content["methods"]["m"]["std"]["EN"] == 0.5
    assert content["methods"]["m"]["mean_rank"] == 1.0
    entry = card_entry(report, ["n"])
    assert entry["metrics"] == {"n": {"EN": 6.0}}
    assert "| n | 2.000 | – | 6.000 |" in to_markdown(report)


def test_mean_rank_follows_directions_and_shares_ties():
    means = {"x": {"EN": 7.0, "MSE": 5.0}, "y": {"EN": 7.0, "MSE": 1.0}, "z": {"EN": 6.0, "MSE": math.nan}}
    assert mean_rank(means, ["EN", "MSE"]) == {"x": 1.75, "y": 1.25, "z": 3.0}
    with pytest.raises(ValueError, match="SD"):
        mean_rank(means, ["EN", "SD"])
