"""The probe finds a planted slot, trains nothing but the selector, and writes slot files that training reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from models.registry import build
from models.ste import SelectiveTokenEditing, SlotSpec
from models.token_fusion import Features, TokenFusionModel
from models.tokenizer import Tokenizer, TokenizerConfig
from models.tokenizer import config as tokenizer_config
from training import __main__ as command_line
from training.data.images import DataError
from training.evaluation.metrics.common import Triple
from training.evaluation.metrics.statistics import average_gradient, edge_intensity, spatial_frequency
from training.probing.ablation import find_fixed, find_random
from training.probing.agreement import agreement_lines, compare
from training.probing.edited import EditedFusion
from training.probing.exhaustive import Check, check_all
from training.probing.gumbel import Selector, distinct_positions, overlap, search, search_loss, temperature
from training.probing.learned import best_of, find_exhaustive, find_gumbel
from training.probing.measures import measure, score
from training.probing.network import load_model
from training.probing.settings import CheckSettings, SearchSettings
from training.probing.slots import Effect, make_spec, order_by_effect, slot_names, write_json
from training.run import CHECKPOINT, save_atomically
from training.titok_ste import read_slots, start_edit_

TINY = TokenizerConfig("test-probe", 32, 1, 2, num_tokens=8, codebook_size=64, legacy=False, image_size=32)
WEIGHTS = (1.0, 1.0, 1.0, 3.0)
STRONG, WEAK = (5, (3, 4, 5)), (2, (9, 10, 11))
SEARCH = SearchSettings(steps=120, batch=4, seeds=3, window=30)
CHECK = CheckSettings(check_pairs=4)


class Planted(TokenFusionModel):
    """The mean of the images, whose sharpness depends on one token strongly and on another weakly."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, None)
        self.gain = torch.nn.Parameter(torch.tensor([0.5, 0.2]))

    def features(self, image, code, *, edit=None):
        return Features(image, code if edit is None else self.ste(code, edit))

    def decode_pair(self, a, b, features_a, features_b):
        mean = (a + b) / 2
        blurred = F.avg_pool2d(F.pad(mean, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
        code = features_a.detail + features_b.detail
        places = [code[:, position, list(channels)].mean(dim=1) for position, channels in (STRONG, WEAK)]
        sharpness = 0.6 + self.gain[0] * places[0] + self.gain[1] * places[1]
        return blurred + sharpness[:, None, None, None] * (mean - blurred)

    def decode_single(self, features, reference):
        return reference

    def fuse_unclamped(self, a, b, code_a, code_b, edit):
        return self.decode_pair(a, b, self.features(a, code_a, edit=edit), self.features(b, code_b, edit=edit))

    def fusion_parameters(self):
        return []


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(3)
    return Tokenizer(TINY).eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    coarse = F.interpolate(torch.rand(12, 1, 6, 6, generator=generator), size=(32, 32), mode="bicubic").clamp(0, 1)
    return (0.8 * coarse + 0.2 * torch.rand(12, 1, 32, 32, generator=generator)).split(6)


@pytest.fixture(scope="module")
def subject(tokenizer, images):
    return EditedFusion(Planted(tokenizer), *images, WEIGHTS)


@pytest.fixture(scope="module")
def check(subject):
    return check_all(subject, CHECK)


@pytest.fixture(scope="module")
def selections(subject):
    return [search(subject, 2, SEARCH, seed) for seed in range(3)]


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


# search


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


# slot file


def test_names_follow_the_effect_on_edges():
    effects = [Effect({"EI": ei}, gain, 0.0) for ei, gain in ((1.0, 0.2), (-2.0, 0.1), (3.0, 0.3), (0.5, 0.4))]
    assert order_by_effect(effects) == [2, 1, 3, 0]
    assert order_by_effect(effects[:1]) == [0]
    assert slot_names(4) == ("sharpen", "smooth", "slot2", "slot3")
    assert slot_names(1) == ("sharpen",)


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


# command line


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
