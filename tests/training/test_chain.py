"""The whole chain on drawn pairs: tokenizer, slots, both stages, resume, bundle."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from app.card import ModelCard
from tests.training.tiny_runs import (
    PowerCutError,
    assert_same,
    command,
    fusion_words,
    load,
    power_cut,
    tokenizer_words,
)
from training import graphs, titok_ste
from training.config import load_recipe
from training.data.images import DataError
from training.titok_ste_recipe import FusionRecipe
from training.tokenizer_files import load_tokenizer


def export_words(chain, out, *more, tokenizer=None):
    return ["export", "--tokenizer", tokenizer or chain / "tokenizer", "--run", chain / "fusion", "--out", out, *more]


@pytest.fixture(scope="module")
def bundle(chain, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle")
    command(*export_words(chain, out))
    return out


@pytest.fixture(scope="module")
def wide_bundle(chain, bundle, tmp_path_factory):
    """The same network in float32, with the tokenizer out of the other bundle."""
    out = tmp_path_factory.mktemp("wide")
    command(*export_words(chain, out, "--storage", "float32", tokenizer=bundle))
    return out


def validations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["val/SCD"] for line in lines if "val/SCD" in line}


def test_interrupted_tokenizer_run_ends_like_an_uninterrupted_one(data_root, tiny_tokenizer, tmp_path):
    whole, cut = (tokenizer_words(data_root, tmp_path / name, "reseed_every=2") for name in ("whole", "cut"))
    command(*whole)
    with power_cut(3), pytest.raises(PowerCutError):
        command(*cut)
    command(*cut)
    assert_same(load(tmp_path / "cut"), load(tmp_path / "whole"))
    assert torch.equal(load(tmp_path / "cut")["used"], load(tmp_path / "whole")["used"])


@pytest.mark.parametrize("step", [2, 4], ids=["between the stages", "in stage two"])
def test_interrupted_fusion_run_ends_like_an_uninterrupted_one(data_root, tmp_path, chain, step):
    words = fusion_words(data_root, chain, tmp_path)
    with power_cut(step), pytest.raises(PowerCutError):
        command(*words)
    command(*words)
    assert_same(load(tmp_path), load(chain / "fusion"))


def test_stage_two_trains_the_offsets_within_their_bound(chain):
    delta = load(chain / "fusion")["model"]["ste.delta"]
    norms = delta.norm(dim=1)
    assert (norms > 0).all()
    assert (norms <= 0.375 + 1e-6).all()


def test_validation_writes_finite_scores(chain):
    scores = validations(chain / "fusion")
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
    model, _ = titok_ste.load_trained(chain / "fusion", load_tokenizer(chain / "tokenizer"))
    inputs = graphs.example_inputs(model, size, seed=5)
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
    (tmp_path / "tokenizer").symlink_to(chain / "tokenizer")
    with pytest.raises(SystemExit, match="probe that tokenizer"):
        command(*fusion_words(data_root, tmp_path, tmp_path / "fusion"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.lr=fast", "schedule.lr"),
        ("seed", "KEY=VALUE"),
        ("seed.x=1", "not a section"),
        ("sampling.colour=1", "sampling.colour"),
        ("stage1_reference=own", "stage1"),
        ("sampling.sides=[]", "sampling.sides"),
        ("sampling.sides=[50]", "multiple of 8"),
        ("sampling.sides=[128, 40]", "stage2.vif needs at least 41"),
        ("sampling.batch=0", "sampling.batch"),
        ("sampling.zoom=0.5", "sampling.zoom"),
        ("train=[{a: x", "no YAML value"),
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
        command("tokenizer", "--data", tmp_path, "--out", tmp_path / "run")


def test_a_run_folder_that_is_a_file_ends_with_a_message(data_root, tiny_tokenizer, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(SystemExit, match=r"^error: .*run"):
        command(*tokenizer_words(data_root, tmp_path / "run"))


@pytest.mark.parametrize("name", ["titok-l32", "t32-tiny7"])
def test_only_local_tokenizers_are_trained(data_root, tmp_path, name):
    with pytest.raises(SystemExit, match=f"^error: no tokenizer '{name}' can be trained here; known: .*t32-256"):
        command(*tokenizer_words(data_root, tmp_path, f"tokenizer={name}"))


def test_unknown_profile_lists_the_known(data_root, chain, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: no model is named 'huge'; known: .*titok-ste-lite"):
        command(*fusion_words(data_root, chain, tmp_path, "profile=huge"))


def test_a_bundle_stands_in_for_the_tokenizer_run(chain, bundle, wide_bundle):
    cards = [json.loads((folder / "card.json").read_text()) for folder in (bundle, wide_bundle)]
    assert cards[0]["training"] == cards[1]["training"]
    assert cards[0]["files"]["slots.json"] == cards[1]["files"]["slots.json"]
    assert len({load_tokenizer(folder).tokenizer_id for folder in (chain / "tokenizer", bundle, wide_bundle)}) == 1


def test_float16_storage_halves_the_files(bundle, wide_bundle):
    for name in ("encoder.onnx", "fusion.onnx", "fusion.safetensors", "tokenizer.safetensors"):
        ratio = (bundle / name).stat().st_size / (wide_bundle / name).stat().st_size
        graph = 0.15 if name.endswith(".onnx") else 0.05  # the nodes of so small a graph weigh something
        assert 0.45 < ratio < 0.5 + graph, name


@pytest.mark.parametrize("name", ["encoder.onnx", "fusion.onnx"])
def test_large_weights_are_stored_as_float16_and_cast_once(bundle, name):
    graph = onnx.load(bundle / name).graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    halves = {key for key, value in stored.items() if value.dtype == np.float16}
    wide = [value for value in stored.values() if value.dtype == np.float32 and value.size >= 256]
    assert not any(np.array_equal(value, value.astype(np.float16)) for value in wide)  # the exporter's sums of weights
    assert sum(value.size for value in wide) < 0.1 * sum(stored[key].size for key in halves)
    assert all(stored[key].size >= 256 for key in halves)
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in halves]
    assert sorted(node.input[0] for node in casts) == sorted(halves)


def test_rounding_that_shows_in_the_picture_is_refused(chain, monkeypatch):
    model, _ = titok_ste.load_trained(chain / "fusion", load_tokenizer(chain / "tokenizer"))
    monkeypatch.setattr(graphs, "HALF_LIMIT", 1e-9)
    with pytest.raises(RuntimeError, match="--storage float32"):
        graphs.round_weights(model)


def test_weights_beyond_float16_are_refused(chain):
    model, _ = titok_ste.load_trained(chain / "fusion", load_tokenizer(chain / "tokenizer"))
    with torch.no_grad():
        model.detail_out.weight[0, 0], model.detail_out.weight[0, 1] = 1e6, -1e6
    with pytest.raises(RuntimeError, match="--storage float32"):
        graphs.round_weights(model)


def test_a_fusion_run_is_no_tokenizer(chain):
    with pytest.raises(DataError, match="titok-ste run"):
        load_tokenizer(chain / "fusion")
    with pytest.raises(DataError, match="tokenizer run"):
        titok_ste.load_trained(chain / "tokenizer", None)


def test_a_run_can_start_from_another_and_the_card_names_both(data_root, chain, tmp_path):
    settings = ["schedule.stage1_epochs=0", "schedule.stage2_epochs=1", "schedule.lr=1e-9"]
    words = fusion_words(data_root, chain, tmp_path / "fusion", *settings)
    command(*words, "--start-from", chain / "fusion")
    before, after = (load(folder / "fusion")["average"] for folder in (chain, tmp_path))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    command(*export_words(tmp_path, tmp_path / "bundle", tokenizer=chain / "tokenizer"))
    card = ModelCard.model_validate_json((tmp_path / "bundle" / "card.json").read_text())
    assert [run.steps for run in card.training.runs] == [6, 6, 2]


def test_a_run_does_not_start_from_one_with_other_slots(data_root, chain, tmp_path):
    slots = json.loads((chain / "slots.json").read_text())
    slots["positions"] = [(position + 1) % 32 for position in slots["positions"]]
    (tmp_path / "slots.json").write_text(json.dumps(slots))
    (tmp_path / "tokenizer").symlink_to(chain / "tokenizer")
    words = fusion_words(data_root, tmp_path, tmp_path / "fusion")
    with pytest.raises(SystemExit, match="begun with other edit slots"):
        command(*words, "--start-from", chain / "fusion")


def test_one_token_in_32_may_take_another_code_and_is_reported():
    expected = np.zeros((1, 32, 12), np.float32)
    code = expected.copy()
    code[0, 3] = 0.5
    assert graphs.code_parity(code, expected, "x") == {"encoder x": 0.0, "other codes x": 1.0}
    code[0, 4] = 0.5
    with pytest.raises(RuntimeError, match="6% of the tokens"):
        graphs.code_parity(code, expected, "x")


def test_a_bundle_may_leave_the_slots_out(chain, tmp_path):
    command(*export_words(chain, tmp_path, "--fixed-strength"))
    card = ModelCard.model_validate_json((tmp_path / "card.json").read_text())
    assert card.edit_slots == []
    assert [spec.name for spec in card.fusion.inputs] == ["a", "b", "code_a", "code_b"]
    model, _ = titok_ste.load_trained(chain / "fusion", load_tokenizer(chain / "tokenizer"))
    inputs = graphs.example_inputs(model, (2, 40, 56), seed=3)
    inputs["edit"] = torch.ones(2, 2)
    session = onnxruntime.InferenceSession(tmp_path / "fusion.onnx", providers=["CPUExecutionProvider"])
    (fused,) = session.run(None, {name: x.numpy() for name, x in inputs.items() if name != "edit"})
    with torch.no_grad():
        expected = model.fuse(**inputs).numpy()
    assert np.abs(fused - expected).max() <= 2e-3  # the bundle's weights are rounded to float16


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_codes_that_are_not_finite_are_no_agreement(bad):
    code = np.full((1, 32, 12), bad, np.float32)
    with pytest.raises(RuntimeError, match="100% of the tokens"):
        graphs.code_parity(code, np.zeros_like(code), "x")
