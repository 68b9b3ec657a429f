import json
from dataclasses import replace

import pytest
import torch

from models.ste import SelectiveTokenEditing, SlotSpec

FILE = {
    "tokenizer_id": "t32-256:00ff",
    "sha256": "ab" * 32,
    "K": 32,
    "C": 12,
    "positions": [12, 18],
    "channels": [6, 7, 8],
    "names": ["sharpen", "smooth"],
    "per_slot_frequency": [0.9, 0.8],
    "seed": 3,
}


def editing(delta_norm=0.3, **kwargs):
    ste = SelectiveTokenEditing(32, **{"positions": (12, 18), "channels": (6, 7, 8), **kwargs})
    with torch.no_grad():
        ste.delta.copy_(torch.nn.functional.normalize(torch.randn(ste.delta.shape), dim=1) * delta_norm)
    return ste


def test_starts_at_zero_with_six_numbers():
    ste = SelectiveTokenEditing(32, positions=(12, 18), channels=(6, 7, 8))
    assert ste.delta.shape == (2, 3)
    assert not ste.delta.any()
    assert list(ste.state_dict()) == ["delta"]


def test_edits_only_the_chosen_numbers():
    ste, tokens = editing(), torch.randn(3, 32, 12)
    change = ste(tokens, torch.tensor([[1.0, 0.5]]).expand(3, -1)) - tokens
    assert torch.allclose(change[:, 12, 6:9], ste.delta[0].expand(3, -1), atol=1e-6)
    assert torch.allclose(change[:, 18, 6:9], 0.5 * ste.delta[1].expand(3, -1), atol=1e-6)
    change[:, [12, 18], 6:9] = 0
    assert not change.any()


def test_channels_per_slot():
    ste, tokens = editing(channels=((0, 1), (10, 11))), torch.zeros(1, 32, 12)
    edited = ste(tokens, torch.ones(2))
    assert torch.equal(edited[0, 12, :2], ste.delta[0])
    assert torch.equal(edited[0, 18, 10:], ste.delta[1])
    assert edited.count_nonzero() == 4


def test_zero_strength_and_off_switch_leave_tokens_bit_identical():
    ste, tokens = editing(), torch.randn(2, 32, 12)
    assert torch.equal(ste(tokens, torch.zeros(2, 2)), tokens)
    ste.enabled = False
    assert torch.equal(ste(tokens, torch.ones(2, 2)), tokens)


def test_no_slots():
    ste, tokens = SelectiveTokenEditing(32, positions=(), channels=(6, 7, 8)), torch.randn(2, 32, 12)
    assert torch.equal(ste(tokens, torch.zeros(2, 0)), tokens)
    ste.project_norm_()
    assert sum(p.numel() for p in ste.parameters()) == 0


def test_one_strength_for_the_batch_or_one_per_image():
    ste, tokens = editing(), torch.randn(2, 32, 12)
    each = torch.tensor([[0.5, 1.5], [1.0, 0.0]])
    both = ste(tokens, each)
    for n in range(2):
        assert torch.equal(both[n], ste(tokens[n : n + 1], each[n])[0])


@pytest.mark.parametrize(("norm", "limit"), [(0.3, 2.0), (0.375, 2.0), (0.5, 1.5), (1.5, 0.5), (0.0, 2.0)])
def test_strength_is_clipped_by_the_offset_norm(norm, limit):
    ste, tokens = editing(norm), torch.randn(1, 32, 12)
    assert ste.strength_limit().tolist() == pytest.approx([limit, limit])
    assert torch.allclose(ste(tokens, torch.tensor([9.0, 9.0])), ste(tokens, torch.tensor([limit, limit])))
    assert torch.equal(ste(tokens, torch.tensor([-1.0, -0.1])), tokens)
    moved = (ste(tokens, torch.tensor([9.0, 0.0])) - tokens).norm().item()
    assert moved <= 0.75 + 1e-5


def test_projection_keeps_the_whole_range_usable():
    ste = editing(2.0)
    direction = torch.nn.functional.normalize(ste.delta.detach(), dim=1)
    ste.project_norm_()
    assert torch.allclose(ste.delta.norm(dim=1), torch.full((2,), 0.375))
    assert torch.allclose(ste.delta / 0.375, direction, atol=1e-6)
    assert torch.allclose(ste.strength_limit(), torch.full((2,), 2.0))
    short = editing(0.2)
    before = short.delta.clone()
    short.project_norm_()
    assert torch.equal(short.delta, before)


def test_gradient_scales_with_the_strength():
    ste = editing()
    ste(torch.zeros(1, 32, 12), torch.tensor([1.0, 0.25])).sum().backward()
    assert torch.allclose(ste.delta.grad, torch.tensor([[1.0] * 3, [0.25] * 3]))


def test_edit_is_exact_in_bfloat16_autocast():
    ste, tokens = editing(), torch.randn(1, 32, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        edited = ste(tokens, torch.ones(2))
    assert torch.equal(edited, ste(tokens, torch.ones(2)))


@pytest.mark.parametrize("shape", [(1, 3), (3,), (1, 1, 2)])
def test_refuses_a_strength_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"strength must be \(N, 2\) or \(2,\)"):
        editing()(torch.zeros(1, 32, 12), torch.ones(shape))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"positions": (12, 32)}, r"positions \[32\] outside"),
        ({"channels": (6, 12)}, r"channels \[12, 12\] outside"),
        ({"channels": ((6, 7), (8,))}, "same number"),
        ({"channels": ((6, 7),)}, "1 lists of channels for 2 slots"),
        ({"channels": (6, (7, 8))}, "not both"),
        ({"channels": (6, 6)}, "none twice"),
        ({"channels": ()}, "at least one"),
    ],
)
def test_refuses_bad_slots(kwargs, message):
    with pytest.raises(ValueError, match=message):
        editing(**kwargs)


def test_slot_file_round_trip():
    spec = SlotSpec.from_dict(json.loads(json.dumps(FILE)))
    assert spec.positions == (12, 18)
    assert spec.channels == ((6, 7, 8), (6, 7, 8))
    assert spec.evidence == {"per_slot_frequency": [0.9, 0.8], "seed": 3}
    assert SlotSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert SelectiveTokenEditing.from_spec(spec).delta.shape == (2, 3)


def test_slot_file_without_slots_edits_nothing():
    data = {**FILE, "positions": [], "channels": [], "names": [], "method": "fixed", "budget": 0}
    spec = SlotSpec.from_dict(json.loads(json.dumps(data)))
    assert SlotSpec.from_dict(spec.to_dict()) == spec
    ste, tokens = SelectiveTokenEditing.from_spec(spec), torch.randn(2, 32, 12)
    assert torch.equal(ste(tokens, torch.zeros(2, 0)), tokens)
    assert ste.strength_limit().shape == (0,)


def test_slot_file_of_another_tokenizer_is_refused():
    spec = SlotSpec.from_dict(FILE)
    spec.check_tokenizer("t32-256:00ff")
    with pytest.raises(ValueError, match=r"probed on the tokenizer 't32-256:00ff'.*'titok-l32:1234'"):
        spec.check_tokenizer("titok-l32:1234")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": None}, "lacks positions"),
        ({"positon": [1]}, "unknown keys: positon"),
        ({"positions": [12, 40]}, "outside"),
        ({"channels": [6, 7, 12]}, "outside"),
        ({"names": ["a", "a"]}, "different names"),
        ({"names": ["a"]}, "different names"),
    ],
)
def test_bad_slot_files_are_refused(change, message):
    data = {key: value for key, value in {**FILE, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        SlotSpec.from_dict(data)


def test_spec_checks_hold_for_copies_too():
    with pytest.raises(ValueError, match="outside"):
        replace(SlotSpec.from_dict(FILE), num_tokens=16)
