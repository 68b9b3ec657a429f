"""The command ``ablate``, on drawn pairs with a tiny tokenizer."""

import json

import pytest
import torch

from tests.training.tiny_ablation import registered, slot_spec, tiny_tokenizer, write_tokenizers
from training import __main__ as command_line
from training.data.images import DataError
from training.run import CHECKPOINT

SHORT = [
    "schedule.steps_per_epoch=1", "schedule.stage1_epochs=1", "schedule.stage2_epochs=1", "validate_epochs=2",
    "validate_pairs=1", "sampling.batch=2", "sampling.sides=[32]", "precision=32-true", "stage2.vif=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    with registered():
        yield write_tokenizers(tmp_path_factory.mktemp("tokenizers"))


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
    monkeypatch.setattr("training.ablation.titok_ste.FusionTrainer.fit", None)
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
