"""The metrics against reference values, where at hand, and formulas; means and ranks made of them."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.evaluation.metrics import DEFAULT, METRICS, RANKED, find_metrics, measure
from training.evaluation.metrics.common import gaussian, window_mean
from training.evaluation.rank import mean_rank
from training.evaluation.report import Report, card_entry, to_json, to_markdown
from training.evaluation.results import Results

SHARED = Path(os.environ.get("PAIRFUSE_SHARED", Path(__file__).parents[2].parent / "shared"))
REFERENCE = SHARED / "metrics"
THEIR_NAMES = {
    "MI": "MI_bits",
    "Qabf": "Q_abf",
    "Nabf": "N_abf",
    "FMI": "FMI_edge",
    "Qw": "Q_W",
    "Qy": "Q_Y",
    "Qcb": "Q_CB",
    "SSIM_zoo": "SSIM",
}
WATCH = ("clip", "outside", "flat_noise")
FEATURES = ("FMI", "FMI_pixel", "FMI_gradient", "FMI_dct")
TRIPLES = ("t1", "t2", "t3", "t4", "t5", "t6", "same")
# No values: five scales need a larger image than all triples but t5; nobody computed FMI of identical images.
NO_REFERENCE = {("MS_SSIM", triple) for triple in TRIPLES if triple != "t5"} | {(name, "same") for name in FEATURES}
CASES = [(n, t) for n in METRICS if n not in WATCH for t in TRIPLES if (n, t) not in NO_REFERENCE]
# How far a value may be off where the primary rule does not fit.
ABSOLUTE = {
    ("FMI_pixel", "t4"): 1e-3,  # implementations disagree on some windows that are constant in both images
    ("FMI_gradient", "t4"): 1e-3,
    **{("FMI", triple): 0.0 for triple in TRIPLES},  # the same edge detector, so no need for the wide tolerance
    **{("SSIM_zoo", triple): 2e-4 for triple in TRIPLES},  # theirs in single precision, with hardly a constant
}
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


def shape_for(name):
    """A small shape that suits a metric; its sides are multiples of 16."""
    return (176, 176) if name == "MS_SSIM" else (64, 80)


def with_flat_area(name):
    """Three images of noise that are flat in the upper rows."""
    a, b, f = (noise(seed, shape_for(name)) for seed in (1, 2, 3))
    a[:20], b[:20], f[:20] = 91, 92, 90
    return a, b, f


@needs_reference
@pytest.mark.parametrize(("name", "triple"), CASES)
def test_metric_hits_its_primary_reference(name, triple):
    theirs = THEIR_NAMES.get(name, name)
    primary = json.loads((REFERENCE / "primary.json").read_text())[theirs]
    source = "IVIF_ZOO" if name == "SSIM_zoo" else primary["source"]
    expected = json.loads((REFERENCE / "reference.json").read_text())[triple][theirs].get(source)
    value = METRICS[name](*read_triple(triple))
    if expected is None:
        assert not math.isfinite(value)
    else:
        absolute = ABSOLUTE.get((name, triple), primary["atol"])
        assert value == pytest.approx(expected, rel=primary["rtol"], abs=absolute)


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


@pytest.mark.parametrize("name", ["CC", "SCD", "VIF", "NMI", "Qw", "Qcb"])
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
        ("SSIM_zoo", 2),
        ("MS_SSIM", 2),
        ("VIF", 2),
        ("NMI", 2),
        *((name, 1) for name in FEATURES),
        ("Qw", 1),
        ("Qy", 1),
        ("Qcb", 1),
        ("MEF_SSIM", 1),
        ("CC", 1),
        ("MSE", 0),
        ("PSNR", math.inf),
        ("Nabf", 0),
        ("clip", 0),
        ("outside", 0),
    ],
)
def test_identical_images_reach_the_best_value(name, best):
    assert METRICS[name](*[noise(1, shape_for(name))] * 3) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("name", list(METRICS))
def test_swapping_the_sources_changes_nothing(name):
    a, b, f = with_flat_area(name)
    assert METRICS[name](a, b, f) == pytest.approx(METRICS[name](b, a, f), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("Qabf", "VIF", *FEATURES)])
def test_mirroring_left_to_right_changes_nothing(name):
    images = with_flat_area(name)
    mirrored = [image[:, ::-1] for image in images]
    assert METRICS[name](*images) == pytest.approx(METRICS[name](*mirrored), rel=1e-9)


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


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("SSIM", 11),
        ("SSIM_zoo", 11),
        ("VIF", 41),
        ("MS_SSIM", 161),
        ("Qw", 11),
        ("Qy", 7),
        ("MEF_SSIM", 11),
        *((name, 3) for name in FEATURES),
    ],
)
def test_too_small_images_are_refused_by_name(name, side):
    small = [noise(seed, (side - 1, side + 20)) for seed in (1, 2, 3)]
    with pytest.raises(ValueError, match=rf"{name[:3]}\w* needs sides of at least {side} pixels, not \({side - 1}, "):
        METRICS[name](*small)
    assert math.isfinite(METRICS[name](*(noise(seed, (side, side)) for seed in (1, 2, 3))))


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
