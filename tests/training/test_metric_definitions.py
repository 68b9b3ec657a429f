"""Metrics against values worked out by hand, or once more from their definition for a single window."""

import math

import numpy as np
import pytest

from training.evaluation.metrics import METRICS
from training.evaluation.metrics.features import edge_map
from training.evaluation.metrics.multiscale import halve


def noise(seed, shape=(64, 80), high=256):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.float64)


def halves():
    """Sources that each hold noise in one half and 128 in the other, and the image that has both halves."""
    a, b = np.full((64, 80), 128.0), np.full((64, 80), 128.0)
    a[:, :40], b[:, 40:] = noise(1, (64, 40)), noise(2, (64, 40))
    return a, b, np.where(np.arange(80) < 40, a, b)


def test_normalised_information_of_a_copy_and_a_constant_is_one():
    a = noise(1)
    assert METRICS["NMI"](a, np.full_like(a, 7.0), a) == pytest.approx(1.0)


def test_zoo_similarity_counts_faint_noise_that_the_standard_forgives():
    flat, faint = np.full((40, 40), 100.0), 100.0 + noise(1, (40, 40), high=2)
    assert METRICS["SSIM"](flat, flat, faint) > 1.98
    assert METRICS["SSIM_zoo"](flat, flat, faint) < 0.1


def test_multiscale_similarity_takes_the_luminance_of_the_last_scale_only():
    dark, light = np.full((170, 161), 100.0), np.full((170, 161), 150.0)
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert METRICS["MS_SSIM"](dark, dark, light) == pytest.approx(2 * luminance**0.1333)


def test_multiscale_similarity_is_nothing_where_f_is_inverted():
    a = noise(1, (161, 161))
    assert METRICS["MS_SSIM"](a, a, 255 - a) == 0.0


def test_halving_repeats_an_odd_last_row_and_column():
    image = np.array([[1.0, 3.0, 5.0], [1.0, 3.0, 7.0], [2.0, 4.0, 8.0]])
    np.testing.assert_allclose(halve(image), [[2.0, 6.0], [3.0, 8.0]])


@pytest.mark.parametrize("name", ["Qw", "Qy"])
def test_local_weights_ask_of_f_only_what_a_source_holds(name):
    a, b, f = halves()
    assert METRICS[name](a, b, f) > 0.98  # windows across the seam hold both
    assert METRICS[name](a, b, np.rint((a + b) / 2)) < 0.9


def test_piella_ignores_the_source_without_contrast():
    a, flat = noise(1), np.full((64, 80), 128.0)
    assert METRICS["Qw"](a, flat, a) == pytest.approx(1.0)
    assert METRICS["Qw"](a, flat, flat) < 0.05


def test_yang_takes_the_better_source_where_the_sources_differ():
    a, b = noise(1), noise(2)
    assert METRICS["Qy"](a, b, a) == pytest.approx(1.0)
    assert METRICS["Qw"](a, b, a) < 0.6


def test_yang_treats_flat_windows_exactly():
    black, grey = np.zeros((16, 16)), np.full((16, 16), 90.0)
    assert METRICS["Qy"](grey, grey, grey) == pytest.approx(1.0)
    assert METRICS["Qy"](black, black, grey) == pytest.approx(0.0, abs=1e-9)


def test_chen_blum_sees_no_brightness_or_contrast_of_f():
    a, b, f = noise(1), noise(2), noise(3, high=101)
    assert METRICS["Qcb"](a, b, 2 * f + 20) == pytest.approx(METRICS["Qcb"](a, b, f), rel=1e-12)
    assert METRICS["Qcb"](a, b, np.rint(f**2 / 100)) != pytest.approx(METRICS["Qcb"](a, b, f), rel=1e-3)


def mef_ssim_of_one_patch(a, b, f):
    """The definition for images of 11×11 pixels."""
    patches = [x - x.mean() for x in (a, b)]
    norms = [np.linalg.norm(x) for x in patches]
    contrasts = [norm + 0.001 for norm in norms]
    agreement = np.linalg.norm(sum(patches)) / sum(norms)
    weights = [(c / 11) ** min(math.tan(math.pi / 2 * agreement), 10) for c in contrasts]
    structure = sum(w / sum(weights) * x / c for w, x, c in zip(weights, patches, contrasts, strict=True))
    wanted = max(contrasts) * structure / np.linalg.norm(structure)
    window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(window, window) / window.sum() ** 2
    w, g = (x - (window * x).sum() for x in (wanted, f))
    constant = (0.03 * 255) ** 2
    return (2 * (window * w * g).sum() + constant) / ((window * (w * w + g * g)).sum() + constant)


@pytest.mark.parametrize("similar", [0.0, 0.5, 0.9])
def test_exposure_similarity_of_one_patch(similar):
    common = noise(0, (11, 11))
    a, b, f = (np.rint(similar * common + (1 - similar) * noise(seed, (11, 11))) for seed in (1, 2, 3))
    b = np.rint(b / 3)
    assert METRICS["MEF_SSIM"](a, b, f) == pytest.approx(mef_ssim_of_one_patch(a, b, f), rel=1e-9)


def test_exposure_similarity_wants_the_source_of_larger_contrast():
    a, b = noise(1), 120.0 + noise(2, high=4)
    assert METRICS["MEF_SSIM"](a, b, a) > 0.99
    assert METRICS["MEF_SSIM"](a, b, b) < 0.1


def window_information(x, y):
    """FMI of one 3×3 window, summed cell by cell."""

    def distribution(window):
        bins = window.T.ravel()
        bins = (bins - bins.min()) / np.ptp(bins)
        return bins / bins.sum()

    def entropy(p):
        p = p[p != 0]
        return -(p * np.log2(np.abs(p))).sum()

    p, q = distribution(x), distribution(y)
    correlation = np.corrcoef(p, q)[0, 1]
    cumulated = [[0.0] * 10 for _ in range(10)]
    for i in range(1, 10):
        for j in range(1, 10):
            left, right = p[:i].sum(), q[:j].sum()
            cumulated[i][j] = min(left, right) if correlation >= 0 else max(left + right - 1, 0)
    corners = np.array(cumulated)
    bound = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    position = np.arange(1, 10)
    mean_p, mean_q = p @ position, q @ position
    spread = math.sqrt((p @ (position - mean_p) ** 2) * (q @ (position - mean_q) ** 2))
    share = correlation / ((position @ bound @ position - mean_p * mean_q) / spread)
    joint = share * bound + (1 - share) * np.outer(p, q)
    return 2 * (entropy(p) + entropy(q) - entropy(joint)) / (entropy(p) + entropy(q))


@pytest.mark.parametrize("seed", range(4))
def test_feature_information_of_one_window(seed):
    x, y = noise(seed, (3, 3)), noise(seed + 10, (3, 3))
    assert METRICS["FMI_pixel"](x, x, y) == pytest.approx(window_information(x, y), rel=1e-9)
    negative = np.clip(255 - x + y // 8, 0, 255)  # bins that fall where the other's rise
    assert METRICS["FMI_pixel"](x, x, negative) == pytest.approx(window_information(x, negative), rel=1e-9)


def test_feature_information_of_flat_windows():
    flat, busy = np.full((3, 3), 9.0), noise(1, (3, 3))
    assert METRICS["FMI_pixel"](flat, busy, flat) == 0.5  # one copied, one that shares nothing
    assert METRICS["FMI_pixel"](flat, flat, flat + 1) == pytest.approx(0.0, abs=1e-12)


def test_feature_information_is_blind_to_what_the_feature_is_blind_to():
    a, b = noise(1, high=128), noise(2, high=128)
    assert METRICS["FMI_gradient"](a, a, a + 100) == 1.0
    assert METRICS["FMI"](a, a, 2 * a) == 1.0
    assert METRICS["FMI_dct"](a, b, a) > METRICS["FMI_dct"](a, b, noise(3)) > 0.0


def test_edges_are_thin_and_keep_off_the_border():
    image = np.zeros((12, 16))
    image[:, 8:] = 200.0
    edges = edge_map(image)
    assert set(np.unique(edges)) == {0.0, 1.0}
    # the step lies between two columns, one of which is kept
    np.testing.assert_array_equal(edges[1:-1].sum(axis=1), 1.0)
    assert not edges[[0, -1]].any()
    np.testing.assert_array_equal(edge_map(image.T), edges.T)
