from __future__ import annotations

import zlib
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.deflate import Effort, compress

EFFORTS = get_args(Effort)


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=30)), st.sampled_from(EFFORTS))
@settings(max_examples=60, deadline=None)
def test_the_bytes_come_back(values, effort):
    assert zlib.decompress(compress(values, effort)) == values.tobytes()


@pytest.fixture
def noise():
    """Differences as of a noisy picture: small, and without any order."""
    return np.random.default_rng(0).normal(0, 3, 200_000).astype(np.int8).view(np.uint8)


def test_noise_is_smaller_without_repetitions(noise):
    fast, small, smallest = (len(compress(noise, effort)) for effort in EFFORTS)
    assert small == smallest < 0.95 * fast
    assert smallest < 0.95 * len(zlib.compress(noise.data, 9))


def test_repetitions_are_found(noise):
    fast, small, smallest = (len(compress(np.tile(noise[:3000], 60), effort)) for effort in EFFORTS)
    assert smallest < small == fast < 10_000


@given(arrays(np.uint8, array_shapes(max_dims=1, max_side=2000)))
@settings(max_examples=60, deadline=None)
def test_more_effort_never_makes_more_bytes(values):
    fast, small, smallest = (len(compress(values, effort)) for effort in EFFORTS)
    assert fast >= small >= smallest
