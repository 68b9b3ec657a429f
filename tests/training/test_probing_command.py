"""The command ``probe``: networks in, slot files and plots out, mistakes in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models.registry import build
from models.ste import SelectiveTokenEditing, SlotSpec
from models.tokenizer import Tokenizer
from models.tokenizer import config as tokenizer_config
from tests.training.planted import TINY
from training import __main__ as command_line
from training.data.images import DataError
from training.probing.network import load_model
from training.run import CHECKPOINT, save_atomically
from training.titok_ste import read_slots


@pytest.fixture(scope="module", autouse=True)
def tiny_tokenizer():
    tokenizer_config.TOKENIZERS[TINY.name] = TINY
    yield
    del tokenizer_config.TOKENIZERS[TINY.name]


def write_bundle(folder, seed):
    """A lite network with random weights, as a released bundle holds it; returns its folder."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(TINY)
    slots = SlotSpec(tokenizer.tokenizer_id, tokenizer.weights_sha256, 8, 12, (1, 6), (0, 1, 2), ("sharpen", "smooth"))
    model = build("titok-ste-lite", tokenizer, slots)
    with torch.no_grad():  # training starts from zeros here, and tokens then change nothing
        for layer in (model.base_out, model.encoder.style):
            layer.weight.normal_(std=0.1)
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "fusion.safetensors")
    save_file({k: v.contiguous() for k, v in tokenizer.state_dict().items()}, folder / "tokenizer.safetensors")
    (folder / "slots.json").write_text(json.dumps(slots.to_dict()))
    recipe = json.dumps({"profile": "titok-ste-lite"})
    (folder / "card.json").write_text(json.dumps({"training": {"runs": [{"recipe": "{}"}, {"recipe": recipe}]}}))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_tokenizer):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "one", seed=1)


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory, tiny_tokenizer):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "other", seed=2)


def probe(*words):
    assert command_line.main(["probe", *map(str, words)]) == 0


QUICK = ("--pairs", 3, "--side", 32, "--check-pairs", 2, "--steps", 3, "--batch", 2, "--seeds", 2, "--window", 2)


def test_gumbel_from_a_bundle_writes_slots_and_plots(bundle, data_root, tmp_path, capsys):
    out, plots = tmp_path / "slots.json", tmp_path / "plots"
    words = ("--method", "gumbel", "--run", bundle, "--data", data_root, "--modality", "both", "a", "b")
    probe(*words, *QUICK, "--out", out, "--plots", plots)
    spec = read_slots(out)
    assert spec.names == ("sharpen", "smooth")
    assert all(len(effect["mean_shift"]) == 3 for effect in spec.evidence["slot_effects"].values())
    assert set(spec.evidence["per_modality"]) == {"both", "a", "b"}
    assert set(spec.evidence["agreement"]) == {"ranks_by_score", "exhaustive", "supervised"}
    assert spec.evidence["settings"]["steps"] == 3
    printed = capsys.readouterr().out
    assert "of 2 seeds ended at these positions" in printed
    assert "exhaustive chose" in printed
    assert "supervised chose" in printed
    names = ["frequency.png", "score.png", "selector.png", "slots.png", "stability.png"]
    assert sorted(path.name for path in plots.iterdir()) == names
    for name in names:
        with Image.open(plots / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_budgets_write_a_slot_file_each_and_a_summary(bundle, data_root, tmp_path):
    words = ("--method", "exhaustive", "--run", bundle, "--data", data_root, "--budgets", 2, 0, 1)
    probe(*words, *QUICK, "--fit", "crop", "--out", tmp_path / "budgets", "--plots", tmp_path / "plots")
    specs = [read_slots(tmp_path / "budgets" / f"slots{budget}.json") for budget in range(3)]
    assert [len(spec.positions) for spec in specs] == [0, 1, 2]
    assert [SelectiveTokenEditing.from_spec(spec).delta.numel() for spec in specs] == [0, 3, 6]
    rows = json.loads((tmp_path / "budgets" / "summary.json").read_text())["budgets"]
    assert [row["budget"] for row in rows] == [0, 1, 2]
    assert rows[0]["J"] == 0.0
    assert rows[1]["J"] > 0.0
    assert rows[1]["EI"] != rows[0]["EI"]
    assert (tmp_path / "budgets" / "summary.md").read_text().startswith("| slots | positions | J | EI |")
    assert (tmp_path / "plots" / "budgets.png").is_file()


def test_without_a_network_a_tokenizer_is_enough(bundle, data_root, tmp_path):
    supervised, fixed, none = (tmp_path / f"{name}.json" for name in ("supervised", "fixed", "none"))
    probe("--tokenizer", bundle, "--data", data_root, "--out", supervised)
    assert read_slots(supervised).evidence["method"] == "supervised"
    probe("--method", "fixed", "--positions", 3, 5, "--channels", 6, 7, 8, "--tokenizer", bundle, "--out", fixed)
    spec = read_slots(fixed)
    assert (spec.positions, spec.channels) == ((3, 5), ((6, 7, 8), (6, 7, 8)))
    probe("--method", "random", "--slots", 0, "--tokenizer", bundle, "--out", none)
    assert read_slots(none).positions == ()


def test_fixed_slots_start_along_measured_shifts_where_there_are_images(bundle, data_root, tmp_path):
    words = ("--method", "fixed", "--positions", 3, "--channels", 0, 1, 2, "--tokenizer", bundle)
    probe(*words, "--data", data_root, "--out", tmp_path / "measured.json")
    probe(*words, "--out", tmp_path / "blind.json")
    measured, blind = (read_slots(tmp_path / f"{name}.json").evidence["slot_effects"] for name in ("measured", "blind"))
    assert measured["sharpen"]["change"] == "unsharp mask and contrast"
    assert blind["sharpen"]["change"] == "random direction"


def test_a_network_adds_measured_effects_to_any_method(bundle, data_root, tmp_path):
    words = ("--method", "random", "--seed", 3, "--run", bundle, "--data", data_root)
    probe(*words, *QUICK, "--out", tmp_path / "slots.json")
    effects = read_slots(tmp_path / "slots.json").evidence["slot_effects"]
    assert all({"EI", "AG", "SF", "SSIM", "score"} <= effect.keys() for effect in effects.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "gumbel"), "give a trained network"),
        (("--method", "random"), "give the tokenizer"),
        (("--method", "supervised", "--tokenizer", "BUNDLE"), "needs images"),
        (("--method", "random", "--tokenizer", "BUNDLE", "--slots", "5"), "a budget is 0 to 4 slots, not 5"),
        (("--method", "fixed", "--tokenizer", "BUNDLE"), "2 fixed slots need 2 positions"),
        (("--tokenizer", "BUNDLE", "--data", "DATA", "--slots", "3"), "knows 2 changes"),
        (("--tokenizer", "BUNDLE", "--data", "DATA", "--slots", "1", "--budgets", "1"), "not both"),
        (("--run", "BUNDLE", "--data", "DATA", "--side", "100"), "--side: .*multiple of 8"),
        (("--run", "BUNDLE", "--data", "DATA", "--pairs", "1"), "--pairs: .*greater than or equal to 2"),
        (("--run", "BUNDLE", "--data", "DATA", "--side", "96", "--fit", "crop"), "smaller than --side 96"),
        (("--run", "BUNDLE", "--data", "DATA", "--tokenizer", "OTHER"), "probe that tokenizer"),
        (("--run", "DATA", "--data", "DATA"), "run folder: give its tokenizer"),
        (("--run", "BUNDLE", "--data", "DATA", "--a", "nowhere"), "no folder"),
    ],
)
def test_mistakes_end_with_one_line(bundle, other_bundle, data_root, tmp_path, words, message):
    places = {"BUNDLE": bundle, "OTHER": other_bundle, "DATA": data_root}
    with pytest.raises(SystemExit, match=f"^error: .*{message}") as stop:
        probe(*(places.get(word, word) for word in words), "--out", tmp_path / "slots.json")
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "slots.json").exists()


def test_training_refuses_slots_of_another_tokenizer_with_one_line(bundle, other_bundle, data_root, tmp_path):
    words = [
        "--tokenizer",
        bundle,
        "--slots",
        other_bundle / "slots.json",
        "--data",
        data_root,
        "--out",
        tmp_path / "f",
    ]
    with pytest.raises(SystemExit, match=r"^error: these edit slots were probed on .* probe that tokenizer") as stop:
        command_line.main(["titok-ste", "--recipe", "titok-ste-lite", *map(str, words)])
    assert "\n" not in str(stop.value)


def test_a_run_folder_needs_its_own_tokenizer(bundle, other_bundle, data_root, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    slots, weights = (bundle / "slots.json").read_text(), load_file(bundle / "fusion.safetensors")
    state = {"kind": "titok-ste", "profile": "titok-ste-lite", "slots": slots, "average": weights}
    save_atomically(state, run / CHECKPOINT)
    model, released = load_model(run, bundle), load_model(bundle)
    assert all(torch.equal(value, released.state_dict()[name]) for name, value in model.state_dict().items())
    words = ("--method", "gumbel", "--run", run, "--data", data_root, "--out", tmp_path / "slots.json")
    with pytest.raises(SystemExit, match=r"^error: .*give its tokenizer too"):
        probe(*words)
    with pytest.raises(SystemExit, match=r"^error: .*probe that tokenizer"):
        probe(*words, "--tokenizer", other_bundle)


def test_damaged_bundles_are_refused(bundle, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in Path(bundle).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file({"ste.delta": torch.zeros(2, 3)}, folder / "fusion.safetensors")
    with pytest.raises(DataError, match="damaged"):
        load_model(folder)
    (folder / "card.json").write_text("{}")
    with pytest.raises(DataError, match=r"card\.json"):
        load_model(folder)
