"""The tables 4 to 6 of TITA's paper, with 7 and 8: rows, printed values, and how each row is trained.

"Balancing Task-invariant Interaction and Task-specific Adaptation for Unified Image Fusion", ICCV 2025. Tables 7 and 8
are the rows of table 4 on pairs of other tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from training.ablation.tables import Table, Values


class Plan(NamedTuple):
    """How a row is trained.

    Attributes:
        profile: Network, a name in ``models.registry``.
        weighting: How the losses of the tasks become one, ``weighting.kind`` of the recipe.
    """

    profile: str
    weighting: str


def _plans(weighting: str, *rows: str) -> dict[str, Plan]:
    """Rows that are called like their networks."""
    return {row: Plan(f"tita-{row}", weighting) for row in rows}


PLANS: dict[int, Mapping[str, Plan]] = {
    4: {
        "baseline-ts": Plan("tita-sf", "mean"),
        "ti": Plan("tita-ti", "mean"),
        "ta": Plan("tita-ta", "mean"),
        "mo": Plan("tita-sf", "famo"),
        "ti+ta": Plan("tita-full", "mean"),
        "ti+mo": Plan("tita-ti", "famo"),
        "ta+mo": Plan("tita-ta", "famo"),
        "full": Plan("tita-full", "famo"),
    },
    5: _plans("mean", "sf", "irsf", "iesf", "te", "pa", "ipa"),
    6: _plans("famo", "full", "no-hpf", "no-add", "no-mul", "no-dw"),
}
"""By table and row. A row of a table that has no plan cannot be run, see ``MISSING``."""

MISSING = {
    "baseline": "its loss, one for all tasks, weighs the sources by features of a VGG-19 trained on ImageNet, whose "
    "weights are not part of this project",
}
"""Why a row has no plan."""

_METRICS = ("MI", "FMI", "Qabf", "VIF")
_ELSEWHERE = "on other images, by code that is not published"
_SHARED = (
    "The paper's metric code is not published: compare the order of rows and their distances, not the values.",
    "The paper's numbers of parameters hold 8,430 that its code never uses, and biases that cancel out. Ours lack them "
    "and count what the recipe changes in the network.",
    "Each row is one run: the intervals are over pairs, and another seed may turn small differences round.",
)

_COMPONENTS: Mapping[str, Mapping[str, Values]] = {
    "LLVIP": {
        "baseline": (2.9632, 0.8841, 0.4581, 0.7027),
        "baseline-ts": (3.6116, 0.8887, 0.6464, 0.8448),
        "ti": (3.6853, 0.8893, 0.6509, 0.8546),
        "ta": (3.8822, 0.8922, 0.6639, 0.9038),
        "mo": (3.6802, 0.8909, 0.6619, 0.8531),
        "ti+ta": (3.8832, 0.8928, 0.6663, 0.9061),
        "ti+mo": (3.7546, 0.8920, 0.6671, 0.8650),
        "ta+mo": (4.1220, 0.8948, 0.6763, 0.9191),
        "full": (4.1759, 0.8959, 0.6795, 0.9264),
    },
    "MEFB": {
        "baseline": (6.6732, 0.8953, 0.6748, 1.4342),
        "baseline-ts": (5.2338, 0.8976, 0.7154, 1.3061),
        "ti": (5.2125, 0.8974, 0.7148, 1.3187),
        "ta": (5.2231, 0.8984, 0.7227, 1.3154),
        "mo": (5.9231, 0.8998, 0.7039, 1.4994),
        "ti+ta": (5.9976, 0.8992, 0.7057, 1.5153),
        "ti+mo": (5.1837, 0.8989, 0.7215, 1.3146),
        "ta+mo": (6.1557, 0.9002, 0.7235, 1.5274),
        "full": (6.2073, 0.9000, 0.7227, 1.5338),
    },
    "MFF 63": {
        "baseline": (6.2336, 0.8777, 0.5768, 1.6171),
        "baseline-ts": (6.2303, 0.8822, 0.6455, 1.5997),
        "ti": (6.2566, 0.8821, 0.6554, 1.5931),
        "ta": (6.2687, 0.8824, 0.6834, 1.5963),
        "mo": (6.2822, 0.8833, 0.6519, 1.6223),
        "ti+ta": (6.3071, 0.8836, 0.6523, 1.6210),
        "ti+mo": (6.3229, 0.8826, 0.6916, 1.6050),
        "ta+mo": (6.4689, 0.8841, 0.6915, 1.6294),
        "full": (6.5463, 0.8847, 0.6973, 1.6371),
    },
}

_SIZES = {
    "baseline": "0.97M", "baseline-ts": "0.97M", "ti": "1.30M", "ta": "1.06M", "mo": "0.97M",
    "ti+ta": "1.39M", "ti+mo": "1.30M", "ta+mo": "1.06M", "full": "1.39M",
}  # fmt: skip

_ALL = (
    Table(
        4,
        "interaction (TI), adaptive fusion (TA) and FAMO (MO)",
        _METRICS,
        {
            "baseline": "SwinFusion's network, one loss for all tasks",
            "baseline-ts": "SwinFusion's network, mean of the tasks' own losses",
            "ti": "with interaction in every block",
            "ta": "with adaptive fusion",
            "mo": "with FAMO",
            "ti+ta": "with both parts of the network",
            "ti+mo": "with interaction and FAMO",
            "ta+mo": "with adaptive fusion and FAMO",
            "full": "with all three",
        },
        _COMPONENTS,
        (
            *_SHARED,
            "Ours are infrared-visible pairs: compare with LLVIP. MEFB (multi-exposure) and MFF 63 (multi-focus) are "
            "the paper's tables 7 and 8.",
            "In the paper's tables 7 and 8 the rows ti+ta and ti+mo look exchanged: there ti+ta behaves like the rows "
            "with FAMO, and ti+mo like those without. It cannot be proved; take these two rows with care.",
        ),
        model="tita",
        elsewhere=_ELSEWHERE,
        decimals=4,
        parameters=_SIZES,
    ),
    Table(
        5,
        "how the streams meet",
        _METRICS,
        {
            "sf": "attention first within a stream, then between the streams",
            "irsf": "within a stream only",
            "iesf": "between the streams only",
            "te": "sf with token exchange",
            "pa": "sf with pixel attention",
            "ipa": "sf with interaction-enhanced pixel attention",
        },
        {
            "LLVIP": {
                "sf": (3.6116, 0.8887, 0.6464, 0.8448),
                "irsf": (3.5334, 0.8880, 0.6400, 0.8330),
                "iesf": (3.6331, 0.8889, 0.6494, 0.8454),
                "te": (3.6497, 0.8885, 0.6458, 0.8470),
                "pa": (3.6694, 0.8892, 0.6485, 0.8521),
                "ipa": (3.6778, 0.8895, 0.6515, 0.8558),
            }
        },
        (
            *_SHARED,
            "All rows without adaptive fusion and without FAMO.",
            "The authors' code has neither te nor pa; ours follow the paper's equations and its numbers of parameters.",
        ),
        model="tita",
        elsewhere=_ELSEWHERE,
        decimals=4,
        parameters={"sf": "0.97M", "irsf": "0.97M", "iesf": "0.97M", "te": "1.02M", "pa": "1.14M", "ipa": "1.14M"},
    ),
    Table(
        6,
        "parts of the adaptive fusion",
        _METRICS,
        {
            "full": "all parts",
            "no-hpf": "without the high-pass filter",
            "no-add": "without the sum",
            "no-mul": "without the product",
            "no-dw": "equal weights in place of predicted ones",
        },
        {
            "LLVIP": {
                "full": (4.1759, 0.8959, 0.6795, 0.9264),
                "no-hpf": (3.9688, 0.8933, 0.6700, 0.9114),
                "no-add": (3.8039, 0.8952, 0.6699, 0.8917),
                "no-mul": (3.8994, 0.8933, 0.6641, 0.8971),
                "no-dw": (3.7844, 0.8951, 0.6658, 0.8711),
            }
        },
        (
            *_SHARED,
            "The paper's text calls the product the most important part. In its table that holds for Qabf; by MI "
            "and VIF it costs more to lose the sum, or the predicted weights.",
        ),
        model="tita",
        elsewhere=_ELSEWHERE,
        decimals=4,
        parameters={"full": "1.39M", "no-hpf": "1.38M", "no-add": "1.32M", "no-mul": "1.32M", "no-dw": "1.38M"},
    ),
)
TABLES: dict[int, Table] = {table.number: table for table in _ALL}
