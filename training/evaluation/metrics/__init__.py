"""The registry of fusion metrics: ``METRICS[name](a, b, f)`` on grey images of whole levels 0..255.

``TRUTH_METRICS[name](truth, f)`` tell how close f is to what it should be, which only synthesised pairs know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from numpy.typing import ArrayLike

from training.evaluation.metrics import (
    contrast,
    edges,
    exposure,
    feature_information,
    information,
    multiscale,
    natural,
    similarity,
    statistics,
    truth,
    weighted,
)
from training.evaluation.metrics.common import Image, Triple, check_triple, check_truth


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As it stands in tables.
        higher_is_better: Direction.
        text: One line for reports, with the unit.
        function: Takes a checked triple.
    """

    name: str
    higher_is_better: bool
    text: str
    function: Callable[[Triple], float]

    def __call__(self, a: ArrayLike, b: ArrayLike, f: ArrayLike) -> float:
        """Value for sources a, b and the fused image f, each (H, W) with whole grey levels 0..255.

        Returns:
            The value; NaN where it is not defined for these images.

        Raises:
            ValueError: The images are no grey images of one shape, or are too small for the metric.
        """
        return self.function(check_triple(a, b, f))


@dataclass(frozen=True)
class TruthMetric:
    """One metric of the fused image and the truth.

    Attributes:
        name: As it stands in tables.
        higher_is_better: Direction.
        text: One line for reports, with the unit.
        function: Takes the truth and the fused image, both checked.
    """

    name: str
    higher_is_better: bool
    text: str
    function: Callable[[Image, Image], float]

    def __call__(self, truth: ArrayLike, f: ArrayLike) -> float:
        """Value for the truth and the fused image f, each (H, W) with whole grey levels 0..255.

        Raises:
            ValueError: The images are no grey images of one shape, or are too small for the metric.
        """
        return self.function(*check_truth(truth, f))


_ALL = (
    Metric("EN", True, "entropy of f, bits", information.entropy),
    Metric("SD", True, "standard deviation of f, grey levels", statistics.standard_deviation),
    Metric("SCD", True, "sum of the correlations of differences", statistics.difference_correlation),
    Metric("SSIM", True, "structural similarity, sum over both sources", similarity.total_ssim),
    Metric("MI", True, "mutual information, sum over both sources, bits", information.total_information),
    Metric("VIF", True, "visual information fidelity, sum over both sources", similarity.total_vif),
    Metric("Qabf", True, "edges of the sources kept in f", edges.edge_preservation),
    Metric("CC", True, "correlation, mean over both sources", statistics.correlation),
    Metric("SF", True, "spatial frequency of f, grey levels", statistics.spatial_frequency),
    Metric("AG", True, "average gradient of f, grey levels", statistics.average_gradient),
    Metric("EI", True, "edge intensity of f, grey levels", statistics.edge_intensity),
    Metric("MSE", False, "mean squared error, mean over both sources", statistics.mean_squared_error),
    Metric("PSNR", True, "peak signal-to-noise ratio of MSE, dB", statistics.peak_signal_to_noise),
    Metric("Nabf", False, "edges of f that no source has", edges.edge_artefacts),
    Metric("SSIM_zoo", True, "SSIM as the IVIF-ZOO benchmark scales it, sum over both", similarity.total_zoo_ssim),
    Metric("MS_SSIM", True, "SSIM over five scales, sum over both; sides from 161", multiscale.total_ms_ssim),
    Metric("NMI", True, "mutual information relative to the entropies, 2 at best", information.normalised_information),
    Metric("FMI", True, "edges that f shares with the sources, 1 at best; slow", feature_information.edge_information),
    Metric("FMI_pixel", True, "FMI of grey levels; slow", feature_information.pixel_information),
    Metric("FMI_gradient", True, "FMI of horizontal gradients; slow", feature_information.gradient_information),
    Metric("FMI_dct", True, "FMI of cosine coefficients; slow", feature_information.cosine_information),
    Metric("Qw", True, "SSIM with both sources, weighted by their local contrast (Piella), 1 at best", weighted.piella),
    Metric("Qy", True, "SSIM with the source that matters at each place (Yang), 1 at best", weighted.yang),
    Metric("Qcb", True, "visible local contrast of the sources kept in f (Chen-Blum), 1 at best", contrast.chen_blum),
    Metric("MEF_SSIM", True, "structure of an ideal exposure fusion found in f, 1 at best", exposure.mef_ssim),
    Metric("clip", False, "pixels at 0 or 255 in f but in no source, percent", natural.clipped),
    Metric("outside", False, "mean distance of f from the sources' range, levels", natural.outside),
    Metric("flat_noise", False, "average gradient of f in flat areas, levels", natural.flat_gradient),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""For any pair."""

_TRUTH = (
    TruthMetric("PSNR_truth", True, "peak signal-to-noise ratio of f to the truth, dB, 100 at most", truth.psnr),
    TruthMetric("SSIM_truth", True, "structural similarity of f to the truth, 1 at best", similarity.ssim),
)
TRUTH_METRICS: dict[str, TruthMetric] = {metric.name: metric for metric in _TRUTH}
"""For pairs whose truth is known."""

AnyMetric = Metric | TruthMetric
ALL_METRICS: dict[str, AnyMetric] = {**METRICS, **TRUTH_METRICS}
RANKED = ("EN", "SD", "SCD", "SSIM", "MI", "VIF", "Qabf", "CC")
DEFAULT = (*RANKED, "SF", "AG", "EI", "clip", "outside", "flat_noise")


def find_metrics(names: Iterable[str]) -> list[AnyMetric]:
    """Look metrics up by name.

    Raises:
        ValueError: There is no metric of that name.
    """
    chosen = list(names)
    unknown = [name for name in chosen if name not in ALL_METRICS]
    if unknown:
        raise ValueError(f"no metric {', '.join(unknown)}; known: {', '.join(ALL_METRICS)}")
    return [ALL_METRICS[name] for name in chosen]


def measure(a: ArrayLike, b: ArrayLike, f: ArrayLike, names: Iterable[str] = DEFAULT) -> dict[str, float]:
    """Values of several metrics for one triple; arguments and errors as for ``Metric.__call__``.

    Raises:
        ValueError: Also where a metric is unknown or needs the truth.
    """
    triple = check_triple(a, b, f)
    metrics = find_metrics(names)
    if needy := [metric.name for metric in metrics if isinstance(metric, TruthMetric)]:
        raise ValueError(f"{needy[0]} needs the truth, not a triple")
    return {metric.name: METRICS[metric.name].function(triple) for metric in metrics}
