"""The paper's tables, and each of their rows as a run: slots, targets, settings."""

import json

import pytest
import torch

from models.interface import NoTokens
from models.ste import SlotSpec
from models.tokenizer import Tokenizer, TokenizerConfig
from tests.training.tiny_ablation import registered, slot_spec, tiny_tokenizer, write_tokenizers
from training.ablation.places import Places, borrow, describe_slots, keep
from training.ablation.report import Outcome, Row, Setting, to_json, to_markdown
from training.ablation.rows import Rows, TokenJob
from training.ablation.study import Skip
from training.ablation.tables import TABLES, choose_rows
from training.config import PairFolder, load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.evaluation.metrics import METRICS
from training.targets import TargetConfig, make_target, target_strength
from training.titok_ste_recipe import FusionRecipe


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    with registered():
        yield write_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def pairs(data_root):
    return ImagePairs(data_root, [PairFolder(a="ivf/train/visible", b="ivf/train/infrared")])


# the paper's values


def test_tables_hold_the_papers_values():
    assert sorted(TABLES) == [3, 4, 6, 7]
    assert TABLES[3].metrics == TABLES[4].metrics == ("EI", "SF", "AG", "SSIM")
    assert TABLES[6].metrics == TABLES[7].metrics == ("EN", "SD", "SCD", "SSIM")
    (third,), (fourth,) = TABLES[3].paper.values(), TABLES[4].paper.values()
    assert third["none"] == (34.39, 7.90, 2.94, 1.37)
    assert third["smooth"] == (36.87, 8.44, 3.17, 1.40)
    assert third["both"] == fourth["32"] == (37.42, 8.63, 3.21, 1.42)
    assert fourth["128"] == (32.13, 7.32, 2.79, 1.36)
    sixth, seventh = TABLES[6].paper, TABLES[7].paper
    assert sixth["RoadScene"]["titok"] == (7.42, 50.79, 1.84, 0.71)
    assert sixth["MIF"]["clip"] == (6.19, 38.49, 0.32, 0.45)
    assert seventh["M3FD"]["2"] == (7.19, 47.35, 1.85, 1.49)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: f"table {table.number}")
def test_tables_are_complete(table):
    assert set(table.metrics) <= METRICS.keys()
    for rows in table.paper.values():
        assert rows.keys() <= table.rows.keys()
        assert all(len(values) == len(table.metrics) for values in rows.values())
    assert table.foreign.keys() <= table.rows.keys()


def test_rows_are_chosen_by_name_in_the_order_given():
    assert choose_rows(TABLES[6], None) == ["titok", "dinov3", "clip", "none"]
    assert choose_rows(TABLES[6], ["none", "titok"]) == ["none", "titok"]
    with pytest.raises(DataError, match="no row 'dino'; known: titok, dinov3"):
        choose_rows(TABLES[6], ["dino"])
    with pytest.raises(DataError, match="once"):
        choose_rows(TABLES[6], ["none", "none"])


# slots


def test_a_slot_keeps_its_name_and_its_direction():
    slots = slot_spec(tiny_tokenizer())
    smooth = keep(slots, (1,))
    assert (smooth.names, smooth.positions) == (("smooth",), (18,))
    assert smooth.evidence["slot_effects"] == {"smooth": slots.evidence["slot_effects"]["smooth"]}
    assert keep(slots, ()).positions == ()
    assert SlotSpec.from_dict(keep(slots, ()).to_dict()) == keep(slots, ())


def test_borrowed_slots_belong_to_the_stand_in():
    slots, none = slot_spec(tiny_tokenizer()), NoTokens()
    borrowed = borrow(slots, none)
    assert borrowed.tokenizer_id == "none"
    assert (borrowed.positions, borrowed.channels) == (slots.positions, slots.channels)
    shifts = [spec.evidence["slot_effects"]["smooth"]["mean_shift"] for spec in (slots, borrowed)]
    assert shifts[0] == shifts[1]
    with pytest.raises(DataError, match="do not fit 64"):
        borrow(slots, NoTokens(64))


def test_budgets_grow_by_random_places_and_say_so(pairs):
    places = Places(tiny_tokenizer(), pairs, slot_spec(tiny_tokenizer()))
    found = [places.budget(count) for count in range(5)]
    assert [len(chosen.slots.positions) for chosen in found] == [0, 1, 2, 3, 4]
    assert found[4].slots.names == ("sharpen", "smooth", "slot2", "slot3")
    assert len(set(found[4].slots.positions)) == 4
    assert found[4].slots.positions[:3] == found[3].slots.positions
    assert [chosen.by for chosen in found[2:]] == [
        "slot file, supervised", "slot file, supervised, then 1 at random", "slot file, supervised, then 2 at random",
    ]  # fmt: skip
    assert places.budget(4) == found[4]


def test_slots_are_probed_where_no_file_is_given(pairs):
    slots, by = Places(tiny_tokenizer(), pairs).base
    assert by == "supervised probe"
    assert slots.names == ("sharpen", "smooth")
    assert slots.tokenizer_id == tiny_tokenizer().tokenizer_id


def test_a_published_tokenizer_is_edited_where_the_paper_does(pairs):
    config = TokenizerConfig("titok-l32", 32, 1, 2, codebook_size=64, image_size=32)
    slots, by = Places(Tokenizer(config).eval(), pairs).base
    assert by == "the paper's positions"
    assert describe_slots(slots) == "sharpen 12 (6-8), smooth 18 (6-8)"
    config = TokenizerConfig("titok-s128", 32, 1, 2, num_tokens=128, codebook_size=64, image_size=32)
    assert Places(Tokenizer(config).eval(), pairs).base.slots.positions == (69, 20)


def test_slots_of_another_tokenizer_are_refused(pairs):
    with pytest.raises(DataError, match="probe that tokenizer"):
        Places(tiny_tokenizer(), pairs, slot_spec(tiny_tokenizer(64)))


# strength and target


def test_a_target_reads_strengths_by_the_names_of_the_slots():
    edit = torch.tensor([[0.0, 0.5, 2.0], [1.5, 1.0, 0.0]])
    assert torch.equal(target_strength(edit, ("sharpen", "smooth", "slot2")), edit[:, :2])
    assert torch.equal(target_strength(edit[:, :1], ("smooth",)), torch.tensor([[1.0, 0.0], [1.0, 1.5]]))
    assert torch.equal(target_strength(edit[:, :0], ()), torch.ones(2, 2))


def test_without_slots_the_target_is_that_of_strength_one():
    a, b = torch.rand(2, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, one = (
        make_target(a, b, target_strength(edit, names), TargetConfig())
        for edit, names in ((torch.zeros(2, 0), ()), (torch.ones(2, 2), ("sharpen", "smooth")))
    )
    assert all(torch.equal(x, y) for x, y in zip(plain, one, strict=True))


# rows


def test_a_row_whose_files_are_missing_is_left_out_with_the_cure(tokenizers, pairs):
    rows = Rows(tokenizers[32], pairs)
    assert rows.build(4, "128") == Skip("no tokenizer of 128 tokens: give --tokenizer-for 128=PATH")
    assert "--backbone clip=FILE" in rows.build(6, "clip").reason


def test_interfaces_start_their_edit_at_zero_unless_the_user_decides(tokenizers, pairs):
    slots = tokenizers[32] / "slots.json"
    assert Rows(tokenizers[32], pairs, slots).build(6, "none").settings == ("schedule.edit_start=zero",)
    assert Rows(tokenizers[32], pairs, slots).build(6, "titok").settings == ()
    assert Rows(tokenizers[32], pairs, slots, fixed=("schedule.edit_start",)).build(6, "none").settings == ()


def test_a_tokenizer_with_another_number_of_tokens_is_refused(tokenizers, pairs):
    with pytest.raises(DataError, match=r"--tokenizer-for 128=.* has 64 tokens"):
        Rows(tokenizers[32], pairs, tokenizers={128: tokenizers[64]}).build(4, "128")


def test_a_slot_file_of_another_budget_is_refused(tokenizers, pairs):
    with pytest.raises(DataError, match=r"--slots-for 3=.* has 2 slots"):
        Rows(tokenizers[32], pairs, budgets={3: tokenizers[32] / "slots.json"}).build(7, "3")


def test_the_recipe_of_every_row_is_valid(tokenizers, pairs):
    rows = Rows(tokenizers[32], pairs, tokenizers[32] / "slots.json")
    for number, table in TABLES.items():
        for name in table.rows:
            job = rows.build(number, name)
            if isinstance(job, TokenJob):
                load_recipe("titok-ste-lite-short", FusionRecipe, list(job.settings))
                job.slots.check_tokenizer(job.source.tokenizer_id)


# the table


def test_a_table_without_any_finished_row_is_still_a_table():
    setting = Setting("r", (), 1, "d", "native", ("a",))
    outcome = Outcome(TABLES[6], setting, (Row("clip", Skip("no weights")), Row("none")))
    assert "| clip | ours: no weights |" in to_markdown(outcome)
    assert "not run yet" in to_markdown(outcome)
    assert to_json(outcome)["reference"] is None
    json.dumps(to_json(outcome), allow_nan=False)
