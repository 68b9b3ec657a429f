"""Controls of a bundle: the same network with its edits or its tokens taken away, to see what these are worth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from training.data.images import DataError
from training.evaluation.methods import Method, PairMethod, Real, Unit, to_grey, to_unit
from training.evaluation.pairs import Grey, Pair
from training.evaluation.runner import Bundle


def controls_of(name: str, bundle: Bundle, pairs: Sequence[Pair]) -> dict[str, Method | PairMethod]:
    """The controls that a bundle allows, by name; empty without encoder and slots.

    - ``NAME, strength 0``: every edit slot at 0.
    - ``NAME, tokens of another image``: both codes from a pair elsewhere in the set; edits stay. Left out where a code
      fits images of its own size only and the images have several.
    - ``NAME, tokens zeroed``: codes of zeros; edits stay.

    Raises:
        DataError: There is only one pair, so that no other image exists.
    """
    controls: dict[str, Method | PairMethod] = {}
    if bundle.slots:
        controls[f"{name}, strength 0"] = partial(bundle.fuse, edit=(0.0,) * len(bundle.slots))
    if bundle.has_codes:
        if not bundle.codes_have_size or len({pair.a.shape for pair in pairs}) == 1:
            controls[f"{name}, tokens of another image"] = _OtherTokens(bundle, pairs)
        controls[f"{name}, tokens zeroed"] = partial(_fuse_without_tokens, bundle)
    return controls


class _OtherTokens:
    """Fuses each pair with the codes of the pair half the set further on: never its own, seldom its neighbour's.

    Files next to each other by name are often frames of one scene, whose tokens would be nearly the right ones.
    """

    def __init__(self, bundle: Bundle, pairs: Sequence[Pair]) -> None:
        if len(pairs) < 2:
            raise DataError("--controls needs at least two pairs: with one there are no tokens of another image")
        step = len(pairs) // 2
        self._bundle = bundle
        self._donor = {pair.name: pairs[(i + step) % len(pairs)] for i, pair in enumerate(pairs)}

    def fused(self, pair: Pair) -> Grey:
        donor = self._donor[pair.name]
        codes = self._bundle.encode(to_unit(donor.a)), self._bundle.encode(to_unit(donor.b))
        fused = self._bundle.fuse(to_unit(pair.a), to_unit(pair.b), self._bundle.default_edit, codes)
        return to_grey(fused, pair.a.shape)


def _fuse_without_tokens(bundle: Bundle, a: Unit, b: Unit) -> Real:
    code = np.zeros_like(bundle.encode(a))
    return bundle.fuse(a, b, bundle.default_edit, (code, code))
