"""The whole chain on drawn pairs: tokenizer, slots, both stages, resume, bundle."""

import json
from argparse import Namespace

import numpy as np
import onnxruntime
import pytest
import torch

from app.card import ModelCard
from models.tokenizer import config as tokenizer_config
from training import __main__ as command_line
from training import export, titok_ste, tokenizer
from training.config import load_recipe
from training.data.images import DataError
from training.run import CHECKPOINT
from training.titok_ste_recipe import FusionRecipe

TOKENIZER_SET = [
    "tokenizer=test-tiny", "steps=6", "batch=2", "precision=32-true", "cache_side=48", "validate_every=3",
    "reseed_every=100", "optim.warmup_steps=1", "optim.lr=0.01", "train=[{path: ivf/train/visible, partner: ivf/train/infrared}]", "val=[{path: ivf/val/visible}]",
]  # fmt: skip
FUSION_SET = [
    "schedule.steps_per_epoch=2", "schedule.stage1_epochs=1", "schedule.stage2_epochs=2", "validate_epochs=1",
    "sampling.batch=2", "sampling.sides=[48]", "train=[{a: ivf/train/visible, b: ivf/train/infrared}]",
]  # fmt: skip


STORAGE = {"storage": "float16", "checkpoint": "last", "fixed_strength": False}


@pytest.fixture(scope="module", autouse=True)
def tiny_tokenizer():
    tiny = tokenizer_config.TokenizerConfig(
        "test-tiny", 32, 1, 2, codebook_size=64, legacy=False, image_size=32, decoder_layers=1
    )
    tokenizer_config.TOKENIZERS[tiny.name] = tiny
    yield
    del tokenizer_config.TOKENIZERS[tiny.name]


def train_tokenizer(data, out, *extra):
    options = {"recipe": "t32-tiny6-128", "data": data, "out": out, "start_from": None, "devices": 1}
    tokenizer.run(Namespace(**options, set=[*TOKENIZER_SET, *extra]))


def train_fusion(data, folder, out, *extra):
    args = {"tokenizer": folder / "tokenizer", "slots": folder / "slots.json", "out": out}
    args |= {"start_from": None, "devices": 1}
    titok_ste.run(Namespace(recipe="titok-ste-lite", data=data, set=[*FUSION_SET, *extra], **args))


@pytest.fixture(scope="module")
def chain(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    train_tokenizer(data_root, folder / "tokenizer")
    words = ("--tokenizer", folder / "tokenizer", "--data", data_root, "--seed", 1, "--out", folder / "slots.json")
    command_line.main(["probe", *map(str, words)])
    train_fusion(data_root, folder, folder / "fusion")
    return folder


@pytest.fixture(scope="module")
def bundle(chain):
    out = chain / "bundle"
    export.run(
        Namespace(tokenizer=chain / "tokenizer", run=chain / "fusion", card="titok-ste-lite", out=out, **STORAGE)
    )
    return out


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["val/SCD"] for line in lines if "val/SCD" in line}


def weights(folder):
    """Current and averaged weights and the optimiser's moments of a run, by name."""
    state = torch.load(folder / CHECKPOINT, weights_only=True)
    moments = {
        f"{key}.{name}": value for key, row in state["optimizer"]["state"].items() for name, value in row.items()
    }
    return {**state["model"], **{f"average.{k}": v for k, v in state["average"].items()}, **moments}


class PowerCutError(Exception):
    """Stands for a power cut."""


def cut_after_checkpoint(patch, trainer, step):
    """Ends a run right after it wrote its checkpoint of a step."""
    write = trainer.checkpoint

    def write_and_cut(self, seconds, **options):
        write(self, seconds, **options)
        if self.step == step:
            raise PowerCutError

    patch.setattr(trainer, "checkpoint", write_and_cut)


def test_interrupted_tokenizer_run_ends_like_an_uninterrupted_one(data_root, tmp_path, chain, monkeypatch):
    with monkeypatch.context() as patch:
        cut_after_checkpoint(patch, tokenizer.TokenizerTrainer, 3)
        with pytest.raises(PowerCutError):
            train_tokenizer(data_root, tmp_path)
    train_tokenizer(data_root, tmp_path)
    for name, value in weights(chain / "tokenizer").items():
        assert torch.equal(weights(tmp_path)[name], value), name


@pytest.mark.parametrize("step", [2, 4], ids=["between the stages", "in stage two"])
def test_interrupted_fusion_run_ends_like_an_uninterrupted_one(data_root, tmp_path, chain, monkeypatch, step):
    with monkeypatch.context() as patch:
        cut_after_checkpoint(patch, titok_ste.FusionTrainer, step)
        with pytest.raises(PowerCutError):
            train_fusion(data_root, chain, tmp_path)
    train_fusion(data_root, chain, tmp_path)
    for name, value in weights(chain / "fusion").items():
        assert torch.equal(weights(tmp_path)[name], value), name


def test_stage_two_trains_the_offsets_within_their_bound(chain):
    delta = weights(chain / "fusion")["ste.delta"]
    norms = delta.norm(dim=1)
    assert (norms > 0).all()
    assert (norms <= 0.375 + 1e-6).all()


def test_validation_writes_finite_scores(chain):
    scores = losses(chain / "fusion")
    assert sorted(scores) == [4, 6]
    assert np.isfinite(list(scores.values())).all()


def test_bundle_card_is_valid_and_complete(bundle):
    card = ModelCard.model_validate_json((bundle / "card.json").read_text())
    assert card.slots == ("sharpen", "smooth")
    assert [run.steps for run in card.training.runs] == [6, 6]
    assert [(use.name, use.count, use.unit) for use in card.training.data] == [
        ("ivf/train/visible + ivf/train/infrared", 8, "images"),
        ("ivf/train/visible + ivf/train/infrared", 4, "pairs"),
    ]
    assert json.loads(card.training.runs[1].recipe)["schedule"]["steps_per_epoch"] == 2
    assert max(value for name, value in card.parity.items() if not name.startswith("other codes")) <= 1e-4
    assert card.fusion.outputs[0].shape == ["N", 1, "H", "W"]


@pytest.mark.parametrize("size", [(1, 256, 256), (3, 256, 256), (1, 130, 77), (3, 130, 77), (1, 480, 640), (2, 33, 47)])
def test_onnx_equals_pytorch(chain, bundle, size):
    model, _ = titok_ste.load_trained(chain / "fusion", tokenizer.load_tokenizer(chain / "tokenizer"))
    inputs = export.example_inputs(model, size, seed=5)
    session = onnxruntime.InferenceSession(bundle / "fusion.onnx", providers=["CPUExecutionProvider"])
    (fused,) = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    with torch.no_grad():
        expected = model.fuse(**inputs).numpy()
    assert fused.shape == expected.shape
    assert np.abs(fused - expected).max() <= 1e-4


def test_slots_of_another_tokenizer_are_refused(data_root, chain, tmp_path):
    slots = json.loads((chain / "slots.json").read_text())
    slots["tokenizer_id"] = "other:0"
    (tmp_path / "slots.json").write_text(json.dumps(slots))
    args = Namespace(
        recipe="titok-ste-lite", data=data_root, tokenizer=chain / "tokenizer", slots=tmp_path / "slots.json",
        out=tmp_path / "f", set=FUSION_SET, start_from=None, devices=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="probe that tokenizer"):
        titok_ste.run(args)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.lr=fast", "schedule.lr"),
        ("seed", "KEY=VALUE"),
        ("seed.x=1", "not a section"),
        ("sampling.colour=1", "sampling.colour"),
        ("stage1_reference=own", "stage1"),
    ],
)
def test_wrong_recipe_values_are_named(override, message):
    with pytest.raises(DataError, match=message):
        load_recipe("titok-ste-lite", FusionRecipe, [override])


def test_unknown_recipe_lists_the_known():
    with pytest.raises(DataError, match="titok-ste-lite"):
        load_recipe("titok-ste-huge", FusionRecipe)


def test_missing_data_ends_with_a_message_not_a_traceback(tmp_path):
    with pytest.raises(SystemExit, match="no folder"):
        command_line.main(["tokenizer", "--data", str(tmp_path), "--out", str(tmp_path / "run")])


def test_a_run_does_not_go_on_under_another_recipe(data_root, chain):
    with pytest.raises(DataError, match="optim differ"):
        train_tokenizer(data_root, chain / "tokenizer", "optim.lr=1")
    with pytest.raises(DataError, match="seed differ"):
        train_fusion(data_root, chain, chain / "fusion", "seed=1")


def test_a_bundle_stands_in_for_the_tokenizer_run(chain, bundle):
    from_run = tokenizer.load_tokenizer(chain / "tokenizer")
    from_bundle = tokenizer.load_tokenizer(bundle)
    assert from_bundle.tokenizer_id == from_run.tokenizer_id
    again = chain / "again"
    export.run(Namespace(tokenizer=bundle, run=chain / "fusion", card="titok-ste-lite", out=again, **STORAGE))
    cards = [json.loads((folder / "card.json").read_text()) for folder in (bundle, again)]
    assert cards[0]["training"] == cards[1]["training"]
    assert cards[0]["files"]["tokenizer.safetensors"] == cards[1]["files"]["tokenizer.safetensors"]


def test_a_fusion_run_is_no_tokenizer(chain):
    with pytest.raises(DataError, match="titok-ste run"):
        tokenizer.load_tokenizer(chain / "fusion")
    with pytest.raises(DataError, match="tokenizer run"):
        titok_ste.load_trained(chain / "tokenizer", None)


def test_a_run_can_start_from_another_and_the_card_names_both(data_root, chain, tmp_path):
    args = {"tokenizer": chain / "tokenizer", "slots": chain / "slots.json", "out": tmp_path / "tuned", "devices": 1}
    settings = [*FUSION_SET, "schedule.stage1_epochs=0", "schedule.stage2_epochs=1", "schedule.lr=1e-9"]
    start = chain / "fusion"
    titok_ste.run(Namespace(recipe="titok-ste-lite", data=data_root, set=settings, start_from=start, **args))
    before = torch.load(start / CHECKPOINT, weights_only=True)["average"]
    after = torch.load(tmp_path / "tuned" / CHECKPOINT, weights_only=True)["average"]
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    export.run(
        Namespace(
            tokenizer=chain / "tokenizer", run=tmp_path / "tuned", card="titok-ste-lite", out=tmp_path / "b", **STORAGE
        )
    )
    card = ModelCard.model_validate_json((tmp_path / "b" / "card.json").read_text())
    assert [run.steps for run in card.training.runs] == [6, 6, 2]


def test_one_token_in_32_may_take_another_code_and_is_reported():
    expected = np.zeros((1, 32, 12), np.float32)
    code = expected.copy()
    code[0, 3] = 0.5
    assert export.code_parity(code, expected, "x") == {"encoder x": 0.0, "other codes x": 1.0}
    code[0, 4] = 0.5
    with pytest.raises(RuntimeError, match="6% of the tokens"):
        export.code_parity(code, expected, "x")


def test_a_bundle_may_leave_the_slots_out(chain, tmp_path):
    args = {**STORAGE, "fixed_strength": True}
    export.run(
        Namespace(tokenizer=chain / "tokenizer", run=chain / "fusion", card="titok-ste-lite", out=tmp_path, **args)
    )
    card = ModelCard.model_validate_json((tmp_path / "card.json").read_text())
    assert card.edit_slots == []
    assert [spec.name for spec in card.fusion.inputs] == ["a", "b", "code_a", "code_b"]
    model, _ = titok_ste.load_trained(chain / "fusion", tokenizer.load_tokenizer(chain / "tokenizer"))
    inputs = export.example_inputs(model, (2, 40, 56), seed=3)
    inputs["edit"] = torch.ones(2, 2)
    session = onnxruntime.InferenceSession(tmp_path / "fusion.onnx", providers=["CPUExecutionProvider"])
    (fused,) = session.run(None, {name: x.numpy() for name, x in inputs.items() if name != "edit"})
    with torch.no_grad():
        expected = model.fuse(**inputs).numpy()
    assert np.abs(fused - expected).max() <= 2e-3  # the bundle's weights are rounded to float16
