"""Both searches find planted slots, and train nothing but the selector."""

import json

import numpy as np
import pytest
import torch

from models.registry import build
from models.ste import SlotSpec
from tests.training.planted import CHECK, SEARCH, STRONG, WEAK, make_subject, make_tokenizer
from training.probing.agreement import agreement_lines, compare
from training.probing.exhaustive import Check, check_all
from training.probing.gumbel import Selector, distinct_positions, overlap, search, search_loss, temperature
from training.probing.learned import best_of, find_exhaustive, find_gumbel
from training.probing.settings import SearchSettings
from training.probing.slots import make_spec
from training.titok_ste import start_edit_


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def subject(tokenizer):
    return make_subject(tokenizer)


@pytest.fixture(scope="module")
def check(subject):
    return check_all(subject, CHECK)


@pytest.fixture(scope="module")
def selections(subject):
    return [search(subject, 2, SEARCH, seed) for seed in range(3)]


# gradient search


def test_gradient_reaches_the_selector_and_never_the_network(subject):
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    selector = Selector(2, 8, 12, generator)
    with torch.no_grad():
        selector.logits[0, STRONG[0]] += 20.0  # only positions that are drawn teach the directions
    loss, *_ = search_loss(subject, selector, SEARCH, 0, generator)
    loss.backward()
    assert selector.logits.grad.abs().sum() > 0
    assert selector.directions.grad.abs().sum() > 0
    search(subject, 1, SEARCH.model_copy(update={"steps": 2}), 0)
    for module in (subject.model, subject.model.tokenizer):
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_search_finds_the_planted_positions(selections):
    best = best_of(selections)
    assert set(best.positions) == {STRONG[0], WEAK[0]}
    assert best.score > 0.05
    for position, channels in (STRONG, WEAK):
        offset = best.offsets[best.positions.index(position)]
        assert offset.norm() == pytest.approx(SEARCH.epsilon)
        assert offset[list(channels)].sum() > 0.5 * offset.abs().sum()


def test_one_slot_takes_the_stronger_place(subject):
    found = best_of([search(subject, 1, SEARCH, seed) for seed in range(2)])
    assert found.positions == (STRONG[0],)


def test_frequencies_sum_to_one_and_slots_differ(selections):
    for selection in selections:
        for table in (selection.frequency, selection.mean_soft):
            torch.testing.assert_close(table.sum(dim=1), torch.ones(2))
        assert len(set(selection.positions)) == 2
        assert all(0.0 <= value < 3.0 for value in selection.entropy)


def test_a_seed_repeats_its_search(subject, selections):
    again = search(subject, 2, SEARCH, 1)
    assert again.positions == selections[1].positions
    assert torch.equal(again.offsets, selections[1].offsets)
    assert again.curve == selections[1].curve
    assert selections[0].curve != selections[1].curve


def test_slots_never_draw_one_position_even_if_all_want_it():
    generator = torch.Generator().manual_seed(0)
    selector = Selector(3, 8, 12, generator)
    with torch.no_grad():
        selector.logits[:, 4] = 30.0
    choice, soft = selector.draw(64, 0.5, generator)
    hard = choice.detach().round()
    assert torch.equal(hard.sum(dim=2), torch.ones(64, 3))
    assert hard.sum(dim=1).max() == 1.0
    assert hard[:, 0, 4].all()
    torch.testing.assert_close(soft.sum(dim=2), torch.ones(64, 3))


def test_overlap_counts_pairs_of_slots():
    soft = torch.eye(4)[[0, 0, 1]][None]
    assert float(overlap(soft)) == 1.0
    assert float(overlap(torch.eye(4)[[0, 0, 0]][None])) == 3.0
    assert float(overlap(torch.eye(4)[[0, 1, 2]][None])) == 0.0


def test_temperature_falls_exponentially():
    settings = SearchSettings(steps=101)
    values = [temperature(step, settings) for step in (0, 50, 100)]
    assert values == pytest.approx([4.0, (4.0 * 0.3) ** 0.5, 0.3])
    assert temperature(0, SearchSettings(steps=1)) == 4.0


def test_positions_differ_when_frequencies_clash():
    assert distinct_positions(torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.0, 0.4]])) == (0, 2)


def test_more_slots_than_tokens_are_refused(subject):
    with pytest.raises(ValueError, match="9 slots do not fit 8"):
        search(subject, 9, SEARCH, 0)


# exhaustive check


def test_exhaustive_check_finds_the_planted_places_and_directions(subject, check):
    assert check.ranked()[:2] == [STRONG[0], WEAK[0]]
    found = find_exhaustive(subject, check, 2, CHECK)
    assert [(slot.position, slot.channels) for slot in found.slots] == [STRONG, WEAK]
    for slot in found.slots:
        assert min(slot.shift) > 0
        assert np.linalg.norm(slot.shift) == pytest.approx(CHECK.amplitude, rel=1e-4)
    others = [k for k in range(8) if k not in {STRONG[0], WEAK[0]}]
    assert check.score[others].abs().max() < 1e-5


def test_both_methods_agree_on_the_planted_slots(subject, selections, check):
    found = find_gumbel({"both": selections}, check)
    assert {(slot.position, slot.channels) for slot in found.slots} == {STRONG, WEAK}
    chosen = [slot.position for slot in found.slots]
    result = compare(chosen, {"exhaustive": check.ranked()[:2], "supervised": [WEAK[0], 0]}, check)
    assert sorted(result["ranks_by_score"]) == [1, 2]
    lines = agreement_lines("gumbel", chosen, result, 8)
    assert lines[1] == "exhaustive chose 5, 2: agrees (2 of 2)"
    assert lines[2] == "supervised chose 2, 0: agrees on 2 (1 of 2)"


def test_a_steady_group_without_effect_is_not_chosen():
    mean = torch.zeros(1, 2, 2, 4)
    mean[0, 0], mean[0, 1] = 1.0, 0.001
    std = torch.full_like(mean, 0.5)
    std[0, 1] = 1e-5
    gain = torch.tensor([[[0.3, -0.3], [0.0003, -0.0003]]])
    check = Check(mean, std, gain, min_share=0.25)
    assert check.stability[0, 1] > check.stability[0, 0]
    assert check.group(0) == 0
    assert Check(mean, std, gain, min_share=0.0).group(0) == 1


def test_only_the_chosen_image_is_edited(subject):
    edit = torch.zeros(1, 8, 12)
    edit[0, STRONG[0], list(STRONG[1])] = 0.3
    gains = {
        modality: subject.editing(modality).score_all(edit, [0]).item() for modality in ("both", "a", "b")
    }  # two equal tokens' sum steers the toy network
    assert gains["a"] == pytest.approx(gains["b"], rel=1e-3)
    assert gains["both"] > 1.5 * gains["a"] > 0
    assert subject.modality == "both"


def test_slot_file_keeps_the_evidence_and_starts_training(tokenizer, subject, selections, check):
    spec = make_spec(find_gumbel({"both": selections}, check), tokenizer, subject, CHECK, {"settings": {}})
    again = SlotSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again.positions == spec.positions == (STRONG[0], WEAK[0])
    assert again.evidence["budget"] == 2
    assert again.evidence["method"] == "gumbel"
    assert sum(again.evidence["per_slot_frequency"]["sharpen"]) == pytest.approx(1.0, abs=1e-3)
    effects = again.evidence["slot_effects"]
    assert effects["sharpen"]["EI"] > effects["smooth"]["EI"] > 0
    assert again.evidence["joint_effect"]["EI"] > effects["sharpen"]["EI"]
    assert again.evidence["seed"] in (0, 1, 2)
    assert len(again.evidence["seeds"]) == 3
    model = build("titok-ste-lite", tokenizer, again)
    start_edit_(model, again, 0.3)
    assert model.ste.delta.norm(dim=1).tolist() == pytest.approx([0.3, 0.3])
