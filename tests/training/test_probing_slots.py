"""What the probe measures, and slots that need no search."""

import json

import numpy as np
import pytest
import torch

from tests.training.planted import WEIGHTS
from training.data.images import DataError
from training.evaluation.metrics.common import Triple
from training.evaluation.metrics.statistics import average_gradient, edge_intensity, spatial_frequency
from training.probing.ablation import find_fixed, find_random
from training.probing.measures import measure, score
from training.probing.slots import Effect, order_by_effect, slot_names, write_json

# measures


def test_measures_are_those_of_the_evaluation():
    rng = np.random.default_rng(0)
    a, b, f = (rng.integers(0, 256, (40, 52)).astype(np.float64) for _ in range(3))
    tensors = [torch.from_numpy(x / 255.0).float()[None, None] for x in (a, b, f)]
    measured = measure(*tensors)[0].tolist()
    triple = Triple(a, b, f)
    expected = [edge_intensity(triple), average_gradient(triple), spatial_frequency(triple)]
    assert measured[:3] == pytest.approx(expected, rel=1e-4)
    assert float(measure(tensors[0], tensors[0], tensors[0])[0, 3]) == pytest.approx(2.0, abs=1e-5)


def test_measures_have_a_gradient_on_a_constant_and_beyond_the_displayable_range():
    a = torch.full((1, 1, 32, 32), 0.5)
    for level in (0.5, 1.4):
        fused = torch.full_like(a, level).requires_grad_()
        measure(a, a, fused).sum().backward()
        assert torch.isfinite(fused.grad).all()


def test_score_weighs_relative_changes():
    unedited = torch.tensor([[40.0, 4.0, 8.0, 1.2]])
    assert float(score(unedited, unedited, WEIGHTS)) == 0.0
    edited = unedited * torch.tensor([1.1, 1.0, 0.9, 1.05])
    assert float(score(edited, unedited, WEIGHTS)) == pytest.approx(0.1 - 0.1 + 3 * 0.05, abs=1e-6)


# slot file


def test_names_follow_the_effect_on_edges():
    effects = [Effect({"EI": ei}, gain, 0.0) for ei, gain in ((1.0, 0.2), (-2.0, 0.1), (3.0, 0.3), (0.5, 0.4))]
    assert order_by_effect(effects) == [2, 1, 3, 0]
    assert order_by_effect(effects[:1]) == [0]
    assert slot_names(4) == ("sharpen", "smooth", "slot2", "slot3")
    assert slot_names(1) == ("sharpen",)


def test_random_slots_are_valid_different_and_repeatable():
    found = find_random(8, 12, 4, seed=3)
    positions = [slot.position for slot in found.slots]
    assert len(set(positions)) == 4
    assert all(0 <= position < 8 for position in positions)
    assert all(slot.channels[0] % 3 == 0 and len(slot.channels) == 3 for slot in found.slots)
    assert find_random(8, 12, 4, seed=3) == found
    assert find_random(8, 12, 4, seed=4) != found


@pytest.mark.parametrize(
    ("positions", "channels", "message"),
    [
        ([12, 40], [6, 7, 8], "positions 0 to 31, not 40"),
        ([12, 18], [6, 7, 12], "channels 0 to 11, not 12"),
        ([12, 12], [6, 7, 8], "names a position twice"),
        ([12], [6, 6], "names a channel twice"),
        ([12], [], "at least one channel"),
    ],
)
def test_wrong_fixed_slots_are_named(positions, channels, message):
    with pytest.raises(DataError, match=message):
        find_fixed(32, 12, positions, channels, seed=0)


def test_a_slot_file_is_replaced_in_one_move(tmp_path):
    write_json(tmp_path / "new" / "slots.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "slots.json", {"a": object()})
    assert json.loads((tmp_path / "new" / "slots.json").read_text()) == {"a": 1}
