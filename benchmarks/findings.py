"""Turns raw numbers into findings: rates, ratios, and whether each target is met."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from benchmarks.graphs import CARD_SIZE
from benchmarks.measure import CACHED, COLD, ENCODE, FUSE, FUSE_DEFAULTS, Measured
from benchmarks.rounds import WHOLE, Sample, Spread, spread

LITE = "lite"  # Names of the models that are held to the limits for CPUs end in this.
MEGA, GIGA = 1e6, 1e9
REST = "rest"


@dataclass(frozen=True)
class Target:
    """What a value must be."""

    sign: Literal["<", "≤", "≥"]
    bound: float

    def met_by(self, value: float | None) -> bool:
        """Tells whether a value meets the target; an unknown one does not."""
        if value is None:
            return False
        return {"<": value < self.bound, "≤": value <= self.bound, "≥": value >= self.bound}[self.sign]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        key: Its name in the JSON file.
        label: What it is, in words.
        unit: Of value and bounds.
        value: The number; None if it is not known.
        low: Lower quartile over the rounds, if it was measured in rounds.
        high: Upper quartile.
        target: What it must be, if anything.
    """

    key: str
    label: str
    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None
    target: Target | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.target.met_by(self.value)


SAME_COUNT = Target("≤", 2.0)  # Per cent between the card's count and ours.
FUSE_LIMIT, ENCODE_LIMIT = Target("≤", 20.0), Target("≤", 1.5)  # kMAC a pixel, GMAC an image.
HALF_RATE = Target("≥", 0.5)
THREE_RUNS = Target("<", 3.0)
IDLE_LIMIT, PEAK_LIMIT = Target("<", 600.0), Target("<", 1500.0)  # MB


def findings(measured: Measured) -> dict[str, list[Finding]]:
    """Returns all findings of one bundle by section, in the order of printing."""
    lite = measured.name.endswith(LITE)
    sections = {
        "operations": _operations(measured, lite),
        "3×3 convolutions": _machine(measured),
        "fusion graph": _graph(measured, FUSE, measured.operations.fuse) + _defaults(measured),
    }
    if measured.operations.encode is not None:
        sections["encoder graph, one image"] = _graph(measured, ENCODE, measured.operations.encode)
    sections["POST /fuse, new images"] = _request(measured, COLD)
    if CACHED in measured.series:
        sections["POST /fuse, same images, other strength"] = _request(measured, CACHED)
    sections["resident memory of the service"] = _memory(measured, lite)
    return sections


def reference(measured: Measured) -> str:
    """Returns the name of the convolution with the best median rate: it stands for the machine."""
    return max(measured.convolutions, key=lambda name: spread(_rates(measured, name)).median)


def _whole(samples: list[Sample]) -> list[float]:
    return [sample[WHOLE] for sample in samples]


def _bare(measured: Measured) -> list[float]:
    """Returns the seconds of the bare fusion graph, with the options that are faster on this machine.

    Were it always the service's own, slow options would make the service look good.
    """
    return min((_whole(measured.series[name]) for name in (FUSE, FUSE_DEFAULTS)), key=lambda v: spread(v).median)


def _rates(measured: Measured, name: str) -> list[float]:
    """Returns GFLOP/s of a reference convolution in each round."""
    return [2 * measured.convolutions[name] / seconds / GIGA for seconds in _whole(measured.series[name])]


def _over_rounds(key: str, label: str, unit: str, values: list[float], target: Target | None = None) -> Finding:
    found: Spread = spread(values)
    return Finding(key, label, unit, found.median, found.low, found.high, target)


def _ratios(upper: list[float], lower: list[float]) -> list[float]:
    """Divides round by round, so that what slows a whole round cancels out."""
    return [above / below for above, below in zip(upper, lower, strict=True)]


def _operations(measured: Measured, lite: bool) -> list[Finding]:
    height, width = measured.size
    operations, at_card, card = measured.operations, measured.at_card_size, measured.card
    card_fuse = card.get("fuse_per_pixel")
    fuse_per_pixel = operations.fuse / (height * width) / 1e3
    found = [
        Finding("fuse_kmac_per_pixel", "fuse", "kMAC/pixel", fuse_per_pixel, target=FUSE_LIMIT if lite else None),
        Finding("fuse_gmac", "fuse, one pair", "GMAC", operations.fuse / GIGA),
        Finding("card_fuse_kmac_per_pixel", "fuse by the card", "kMAC/pixel", card_fuse / 1e3 if card_fuse else None),
        _deviation("fuse", at_card.fuse / math.prod(CARD_SIZE), card_fuse),
    ]
    if operations.encode is None or at_card.encode is None:
        return found
    card_encode = card.get("encode_per_image")
    encode = operations.encode / GIGA
    return [
        *found,
        Finding("encode_gmac", "encode, one image", "GMAC", encode, target=ENCODE_LIMIT if lite else None),
        Finding("card_encode_gmac", "encode by the card", "GMAC", card_encode / GIGA if card_encode else None),
        _deviation("encode", at_card.encode, card_encode),
    ]


def _deviation(what: str, counted: float, stated: float | None) -> Finding:
    percent = abs(counted / stated - 1) * 100 if stated else None
    return Finding(f"{what}_card_deviation", f"{what}, count against card", "%", percent, target=SAME_COUNT)


def _machine(measured: Measured) -> list[Finding]:
    best = reference(measured)
    return [
        _over_rounds(name, name + (" (the machine's rate)" if name == best else ""), "GFLOP/s", _rates(measured, name))
        for name in measured.convolutions
    ]


def _graph(measured: Measured, name: str, macs: int) -> list[Finding]:
    seconds = _whole(measured.series[name])
    found = [_over_rounds(f"{name}_ms", "time", "ms", [value * 1e3 for value in seconds])]
    if not macs:
        return found
    rates = [2 * macs / value / GIGA for value in seconds]
    shares = _ratios(rates, _rates(measured, reference(measured)))
    return [
        *found,
        _over_rounds(f"{name}_gflops", "achieved", "GFLOP/s", rates),
        _over_rounds(f"{name}_of_machine_rate", "achieved / machine's rate", "×", shares, HALF_RATE),
        _over_rounds(f"{name}_over_floor", "time / time at the machine's rate", "×", [1 / v for v in shares]),
    ]


def _defaults(measured: Measured) -> list[Finding]:
    seconds = _whole(measured.series[FUSE_DEFAULTS])
    ratios = _ratios(_whole(measured.series[FUSE]), seconds)
    return [
        _over_rounds("fuse_with_defaults_ms", "time with onnxruntime's defaults", "ms", [v * 1e3 for v in seconds]),
        _over_rounds("fuse_over_defaults", "service's options / defaults", "×", ratios),
    ]


def _request(measured: Measured, name: str) -> list[Finding]:
    samples = measured.series[name]
    stages = [stage for stage in samples[0] if stage != WHOLE]
    found = [_over_rounds(f"{name}_ms", "whole request", "ms", [v * 1e3 for v in _whole(samples)])]
    for stage in stages:
        values = [sample[stage] * 1e3 for sample in samples]
        found.append(_over_rounds(f"{name}_{stage}_ms", f"· {stage}", "ms", values))
    rest = [(sample[WHOLE] - sum(sample[stage] for stage in stages)) * 1e3 for sample in samples]
    found.append(_over_rounds(f"{name}_{REST}_ms", "· rest: HTTP, form, client", "ms", rest))
    ratios = _ratios(_whole(samples), _bare(measured))
    found.append(_over_rounds(f"{name}_over_fuse", "whole request / fusion graph", "×", ratios, THREE_RUNS))
    return found


def _memory(measured: Measured, lite: bool) -> list[Finding]:
    memory = measured.memory
    idle, peak = (IDLE_LIMIT, PEAK_LIMIT) if lite else (None, None)
    rows = (
        ("memory_idle_mb", "idle after start and warm-up", memory.idle, idle),
        ("memory_used_mb", "idle after 20 pairs of 640×480", memory.used, idle),
        ("memory_peak_mb", "peak while fusing 1920×1080", memory.peak, peak),
        ("memory_after_mb", "after 3 pairs of 1920×1080", memory.after, None),
    )
    return [Finding(key, label, "MB", value / MEGA, target=target) for key, label, value, target in rows]
