"""The baselines on images whose fused result is known, and on validation images where these are at hand."""

import importlib.util
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from training.evaluation.baselines import (
    BASELINES,
    TASKS,
    average,
    baselines_for,
    centred_sum,
    dual_tree,
    laplacian,
    maximum,
    mertens,
)
from training.evaluation.methods import evaluate_methods
from training.evaluation.pairs import load_pairs

SHARED = Path(os.environ.get("PAIRFUSE_SHARED", Path(__file__).parents[2].parent / "shared"))
VALIDATION = SHARED / "data" / "ivf" / "val"
SIZES = [(64, 64), (63, 64), (64, 61), (45, 77), (33, 32)]


def unit(seed, shape=(45, 77)):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_pixel_rules():
    a, b = unit(1), unit(2)
    np.testing.assert_allclose(average(a, b), (a + b) / 2, atol=1e-6)
    np.testing.assert_array_equal(maximum(a, b), np.maximum(a, b))
    fused = centred_sum(a, b)
    assert fused.min() >= 0.0
    assert fused.max() <= 1.0
    inside = (fused > 0) & (fused < 1)
    np.testing.assert_allclose(fused[inside], (a + b - (a.mean() + b.mean()) / 2)[inside], atol=1e-6)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("method", [laplacian, dual_tree, mertens])
def test_transforms_rebuild_an_image_fused_with_itself(method, shape):
    a = unit(1, shape)
    fused = method(a, a)
    assert fused.shape == shape
    np.testing.assert_allclose(fused, a, atol=1e-6)


@pytest.mark.parametrize("method", [laplacian, dual_tree])
def test_transforms_keep_the_detail_of_the_sharper_image(method):
    a = unit(1, (64, 96))
    b = np.full_like(a, a.mean())
    np.testing.assert_allclose(method(a, b), a, atol=0.06)  # half of the low-pass contrast is lost


@pytest.mark.parametrize("name", list(baselines_for("exposure")))
def test_order_of_the_images_does_not_matter(name):
    a, b = unit(1), unit(2)
    method = baselines_for("exposure")[name]
    np.testing.assert_allclose(method(a, b), method(b, a), atol=1e-6)


def test_exposure_pairs_have_one_baseline_more():
    assert "mertens" not in BASELINES
    assert baselines_for("general") == BASELINES
    assert list(baselines_for("exposure")) == [*BASELINES, "mertens"]
    baselines_for("general").clear()
    assert BASELINES


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="no baselines for 'holiday'; known: " + ", ".join(TASKS)):
        baselines_for("holiday")


@pytest.mark.parametrize(("package", "task", "name"), [("cv2", "exposure", "mertens"), ("dtcwt", "general", "dtcwt")])
def test_a_missing_package_drops_only_its_baseline(monkeypatch, package, task, name):
    there = baselines_for(task)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    again = runpy.run_module("training.evaluation.baselines")
    assert list(again["baselines_for"](task)) == [other for other in there if other != name]


def test_mertens_takes_each_half_from_the_image_that_shows_it():
    scene = 0.2 + 0.6 * unit(1, (64, 128))
    left = np.arange(128) < 64
    over, under = np.where(left, scene, 1.0).astype(np.float32), np.where(left, 0.0, scene).astype(np.float32)
    fused = mertens(over, under)
    assert fused.shape == scene.shape
    inside = np.abs(np.arange(128) - 64) > 16
    errors = [np.abs((image - scene)[:, inside]).mean() for image in (fused, average(over, under))]
    assert errors[0] < 0.3 * errors[1]


@pytest.mark.skipif(
    not VALIDATION.is_dir(),
    reason=f"no validation images at {VALIDATION}: set PAIRFUSE_SHARED to the folder that holds data/",
)
def test_validation_pairs_give_the_published_contrast():
    pairs = load_pairs(VALIDATION, "visible", "infrared")
    methods = {name: BASELINES[name] for name in ("average", "maximum", "laplacian", "centred sum")}
    means = evaluate_methods(pairs, methods, ["EN", "SD", "SCD", "MI", "CC", "SF"]).means()
    expected = {
        "average": [6.73, 33.6, 1.37, 2.98, 0.656, 9.5],
        "maximum": [6.93, 39.4, 1.23, 7.23, 0.571, 12.5],
        "laplacian": [7.32, 44.8, 1.55, 2.48, 0.628, 17.6],
        "centred sum": [7.43, 62.9, 1.96, 3.00, 0.650, 17.7],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(list(means[name].values()), values, rtol=0.006)
