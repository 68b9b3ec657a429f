"""The rows of the paper's tables as runs of one model, on drawn pairs with a tiny tokenizer."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.interface import NoTokens
from models.ste import SlotSpec
from models.tokenizer import Tokenizer, TokenizerConfig
from models.tokenizer import config as tokenizer_config
from training import __main__ as command_line
from training.ablation import backbones
from training.ablation.places import Places, borrow, keep
from training.ablation.report import Outcome, Row, Setting, describe_slots, to_json, to_markdown
from training.ablation.rows import Job, Rows, Skip
from training.ablation.tables import TABLES, choose_rows
from training.config import PairFolder, load_recipe
from training.data.images import DataError
from training.data.pairs import ImagePairs
from training.evaluation.metrics import METRICS
from training.run import CHECKPOINT
from training.targets import TargetConfig, make_target, target_strength
from training.titok_ste_recipe import FusionRecipe

TINY = {
    count: TokenizerConfig(
        f"test-ablation-{count}", 32, 1, 2, num_tokens=count, codebook_size=64, legacy=False, image_size=32
    )
    for count in (32, 64)
}
SHORT = [
    "schedule.steps_per_epoch=1", "schedule.stage1_epochs=1", "schedule.stage2_epochs=1", "validate_epochs=2",
    "validate_pairs=1", "sampling.batch=2", "sampling.sides=[32]", "precision=32-true", "stage2.vif=0",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny_tokenizers():
    tokenizer_config.TOKENIZERS.update({tiny.name: tiny for tiny in TINY.values()})
    yield
    for tiny in TINY.values():
        del tokenizer_config.TOKENIZERS[tiny.name]


def tiny_tokenizer(count=32):
    torch.manual_seed(count)
    return Tokenizer(TINY[count]).eval()


def slot_spec(tokenizer, positions=(12, 18)):
    names = ("sharpen", "smooth", "slot2", "slot3")[: len(positions)]
    effects = {name: {"change": "drawn", "mean_shift": [0.1 + i, 0.2, -0.3]} for i, name in enumerate(names)}
    return SlotSpec(
        tokenizer.tokenizer_id, tokenizer.weights_sha256, tokenizer.num_tokens, 12, positions, (6, 7, 8), names,
        {"method": "supervised", "slot_effects": effects},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """What a bundle holds of a tokenizer and its slots, by number of tokens."""
    folders = {}
    for count in TINY:
        tokenizer, folder = tiny_tokenizer(count), tmp_path_factory.mktemp(f"tokens{count}")
        save_file({k: v.contiguous() for k, v in tokenizer.state_dict().items()}, folder / "tokenizer.safetensors")
        (folder / "slots.json").write_text(json.dumps(slot_spec(tokenizer).to_dict()))
        folders[count] = folder
    return folders


@pytest.fixture(scope="module")
def pairs(data_root):
    return ImagePairs(data_root, [PairFolder(a="ivf/train/visible", b="ivf/train/infrared")])


@pytest.fixture
def ablate(data_root, tokenizers, tmp_path):
    """Runs the command; returns the JSON table."""

    def run(*argv, out=tmp_path, settings=()):
        words = ["ablate", "titok-ste", "--data", data_root, "--tokenizer", tokenizers[32], "--out", out]
        words += ["--slots", tokenizers[32] / "slots.json", *argv]
        for setting in (*SHORT, *settings):
            words += ["--set", setting]
        command_line.main([str(word) for word in words])
        number = argv[argv.index("--table") + 1] if "--table" in argv else 6
        return json.loads((out / f"table{number}" / "table.json").read_text())

    return run


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


# backbones


class FakeViT(nn.Module):
    """Has what a timm vision transformer has, as far as it is used."""

    num_prefix_tokens, num_features = 5, 16
    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 16, 16, stride=16)

    def forward_features(self, image):
        patches = self.layer(image).flatten(2).transpose(1, 2)
        return torch.cat([torch.full((len(patches), 5, 16), 1e3), patches], dim=1)


def fake_timm(monkeypatch, make):
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=make))


def test_a_backbone_comes_from_the_users_file_without_prefix_tokens(monkeypatch, tmp_path):
    asked = []

    def create_model(name, **options):
        asked.append((name, options))
        torch.manual_seed(0)
        return FakeViT()

    fake_timm(monkeypatch, create_model)
    (tmp_path / "dino.safetensors").touch()
    source = backbones.load_interface("dinov3", tmp_path / "dino.safetensors", num_tokens=32, token_dim=12)
    assert asked[0][1] == {"pretrained": False, "checkpoint_path": str(tmp_path / "dino.safetensors")}
    image = torch.rand(1, 1, 256, 256)
    assert source.encode(image).shape == (1, 32, 12)
    assert source.backbone(image.expand(-1, 3, -1, -1)).abs().max() < 100
    assert source.tokenizer_id.startswith("dinov3:")


def test_bad_backbone_files_and_a_missing_timm_are_explained(monkeypatch, tmp_path):
    def fail(name, **options):
        raise RuntimeError("Error(s) in loading state_dict\nmissing keys")

    with pytest.raises(DataError, match="no file"):
        backbones.load_interface("clip", tmp_path / "clip.bin", num_tokens=32, token_dim=12)
    (tmp_path / "clip.bin").touch()
    fake_timm(monkeypatch, fail)
    with pytest.raises(DataError, match=r"holds no vit_base_patch16_clip.*loading state_dict$"):
        backbones.load_interface("clip", tmp_path / "clip.bin", num_tokens=32, token_dim=12)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"pip install 'pairfuse\[interfaces\]'"):
        backbones.load_interface("clip", tmp_path / "clip.bin", num_tokens=32, token_dim=12)


# the command


def test_the_control_has_one_row_with_tokens_and_one_without(ablate, tmp_path):
    table = ablate("--controls")
    assert list(table["rows"]) == ["titok", "none"]
    assert [row["status"] for row in table["rows"].values()] == ["finished", "finished"]
    assert table["reference"] == "titok"
    assert table["rows"]["none"]["tokens"] == "none"
    assert table["rows"]["none"]["slots"]["positions"] == [12, 18]
    assert set(table["rows"]["none"]["difference"]) == {"EN", "SD", "SCD", "SSIM", "tone_0", "tone_1"}
    for metric, found in table["rows"]["none"]["difference"].items():
        means = [table["rows"][name]["mean"][metric] for name in ("none", "titok")]
        assert found["mean"] == pytest.approx(means[0] - means[1], abs=1e-9)
        assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    text = (tmp_path / "table6" / "table.md").read_text()
    assert "| none − titok |" in text.replace("|  |", "|")
    assert "paper, RoadScene" in text
    assert "Row none ran with schedule.edit_start=zero" in text


def test_with_one_start_of_the_edit_the_rows_differ_in_nothing_but_their_tokens(ablate, tmp_path):
    ablate("--controls", settings=["schedule.edit_start=probe"])
    folders = [tmp_path / "table6" / row for row in ("titok", "none")]
    first = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in folders]
    assert first[0]["step"] == 0
    # before the first step the network's output does not depend on tokens, only on the batch
    assert first[0]["rec/mse"] == pytest.approx(first[1]["rec/mse"], rel=1e-5)
    recipes = [torch.load(folder / CHECKPOINT, weights_only=True)["recipe"] for folder in folders]
    assert recipes[0] == recipes[1]


def test_a_finished_row_is_neither_trained_nor_measured_again(ablate, tmp_path, monkeypatch):
    first = ablate("--table", "3", "--rows", "none", "smooth")
    monkeypatch.setattr("training.ablation.measured.FusionTrainer", None)
    monkeypatch.setattr("training.ablation.measured.evaluate_methods", None)
    assert ablate("--table", "3", "--rows", "none", "smooth") == first
    assert first["rows"]["none"]["slots"]["positions"] == []
    assert first["rows"]["smooth"]["slots"]["names"] == ["smooth"]


def test_values_are_measured_again_at_another_size_or_when_spoilt(ablate, tmp_path):
    native = ablate("--table", "3", "--rows", "none")
    (tmp_path / "table3" / "none" / "values.json").write_text("[")
    assert ablate("--table", "3", "--rows", "none") == native
    small = ablate("--table", "3", "--rows", "none", "--size", "48")
    assert small["rows"]["none"]["mean"] != native["rows"]["none"]["mean"]


def test_an_interrupted_row_goes_on_where_it_stopped(ablate, tmp_path, monkeypatch):
    from training.trainer import Trainer

    write = Trainer.checkpoint

    def write_and_fail(self, seconds, **options):
        write(self, seconds, **options)
        raise DataError("power cut")

    every_step = ["validate_epochs=1"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "checkpoint", write_and_fail)
        with pytest.raises(SystemExit, match="row both: power cut"):
            ablate("--table", "3", "--rows", "both", settings=every_step)
    assert torch.load(tmp_path / "table3" / "both" / CHECKPOINT, weights_only=True)["step"] == 1
    cut = ablate("--table", "3", "--rows", "both", settings=every_step)
    whole = ablate("--table", "3", "--rows", "both", out=tmp_path / "whole", settings=every_step)
    assert cut["rows"]["both"]["mean"] == whole["rows"]["both"]["mean"]


def test_a_row_that_fails_ends_the_command_and_keeps_the_finished_ones(ablate, tmp_path, tokenizers):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.safetensors").write_bytes(b"no tensors")
    (tmp_path / "broken" / "slots.json").write_text((tokenizers[64] / "slots.json").read_text())
    argv = ("--table", "4", "--tokenizer-for", f"64={tmp_path / 'broken'}")
    with pytest.raises(SystemExit, match=r"^error: table 4, row 64: .*finished rows are kept in .*table4$"):
        ablate(*argv)
    rows = json.loads((tmp_path / "table4" / "table.json").read_text())["rows"]
    assert [row["status"] for row in rows.values()] == ["finished", "not run", "not run"]
    table = ablate("--table", "4", "--tokenizer-for", f"64={tokenizers[64]}")
    assert [row["status"] for row in table["rows"].values()] == ["finished", "finished", "skipped"]
    assert "--tokenizer-for 128=PATH" in (tmp_path / "table4" / "table.md").read_text()


def test_the_zero_of_table_seven_is_ours_and_says_so(ablate, tmp_path):
    table = ablate("--table", "7", "--rows", "0", "3")
    assert table["rows"]["0"]["slots"]["positions"] == []
    assert len(table["rows"]["3"]["slots"]["positions"]) == 3
    text = (tmp_path / "table7" / "table.md").read_text()
    assert "paper, M3FD †" in text
    assert "† The paper's row of 0 slots is CDDFuse" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--table", "6", "--rows", "dino"), "no row 'dino'"),
        (("--table", "4", "--tokenizer-for", "48=x"), "KEY=PATH with a KEY of 32, 64, 128"),
        (("--table", "4", "--tokenizer-for", "64"), "KEY=PATH"),
        (("--table", "4", "--tokenizer-for", "64=nowhere"), "there is no nowhere"),
        (("--table", "6", "--backbone", "dinov2=x"), "dinov3, clip"),
        (("--table", "3", "--size", "big"), "--size"),
        (("--table", "3", "--recipe", "huge"), "no recipe 'huge'"),
        (("--table", "3", "--slots", "nowhere.json"), "slot file nowhere.json"),
    ],
)
def test_bad_options_end_with_one_line(ablate, argv, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        ablate(*argv)


def test_a_row_does_not_go_on_with_other_slots_or_another_recipe(ablate, tmp_path):
    ablate("--table", "3", "--rows", "both")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(slot_spec(tiny_tokenizer(), (3, 5)).to_dict()))
    with pytest.raises(SystemExit, match="begun with other edit slots"):
        ablate("--table", "3", "--rows", "both", "--slots", other)
    with pytest.raises(SystemExit, match="seed differ"):
        ablate("--table", "3", "--rows", "both", settings=["seed=3"])


def test_a_table_without_any_finished_row_is_still_a_table():
    setting = Setting("r", (), 1, "d", "native", ("a",))
    outcome = Outcome(TABLES[6], setting, (Row("clip", Skip("no weights")), Row("none")))
    assert "| clip | ours: no weights |" in to_markdown(outcome)
    assert "not run yet" in to_markdown(outcome)
    assert to_json(outcome)["reference"] is None
    json.dumps(to_json(outcome), allow_nan=False)


def test_the_recipe_of_every_row_is_valid(tokenizers, pairs):
    rows = Rows(tokenizers[32], pairs, tokenizers[32] / "slots.json")
    for number, table in TABLES.items():
        for name in table.rows:
            job = rows.build(number, name)
            if isinstance(job, Job):
                load_recipe("titok-ste-lite-short", FusionRecipe, list(job.settings))
                job.slots.check_tokenizer(job.source.tokenizer_id)
