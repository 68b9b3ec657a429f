"""A backbone's training by its command: exact resume, the teacher, an overfit, and recipes that cannot run."""

import json

import pytest
import torch

from tests.training.tiny_backbone_runs import VIEWS, backbone_words, model_recipe
from tests.training.tiny_runs import PowerCutError, assert_same, command, flat, load, power_cut
from training.backbone import BackboneTrainer, parameter_groups
from training.backbone_recipe import BackboneRecipe
from training.backbone_student import Student
from training.config import load_recipe
from training.data.images import DataError

LATE = {"alone": 1, "rise": 3}


@pytest.fixture(scope="module")
def run_folder(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    command(*backbone_words(data_root, folder, folder / "run"))
    return folder / "run"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trainer(data_root, tmp_path, **changes):
    return BackboneTrainer(model_recipe(**changes), data_root, tmp_path)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(data_root, tmp_path, precision):
    whole, cut = (
        backbone_words(data_root, tmp_path, tmp_path / n, precision=precision, loss=LATE) for n in ("whole", "cut")
    )
    command(*whole)
    with power_cut(2), pytest.raises(PowerCutError):
        command(*cut)
    command(*cut)
    ours, theirs = load(tmp_path / "cut"), load(tmp_path / "whole")
    assert_same(ours, theirs)
    ours, theirs = flat(ours["centres"]), flat(theirs["centres"])
    assert ours.keys() == theirs.keys() == {"/patches 9", "/keys 9"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_step_has_windows_of_its_own_side(data_root, tmp_path):
    run = trainer(data_root, tmp_path, views={**VIEWS, "sides": [32, 48]})
    drawn, draw = [], run.sampler.draw
    run.sampler.draw = lambda side: drawn.append(side) or draw(side)
    for run.step in (0, 1, 2, 3, 4, 0, 1, 2, 3, 4):  # a resumed run comes to a step without those before
        run.train_step()
    assert drawn[:5] == drawn[5:]
    assert set(drawn) == {32, 48}


def test_a_run_records_terms_and_what_tells_of_a_collapse(run_folder):
    first, *_ = rows = lines(run_folder)
    terms = ("masked", "visible", "cls", "apart", "edges")
    assert first["loss"] == pytest.approx(sum(first[name] for name in terms), rel=1e-5)
    assert 0.5 < first["use"] <= 1
    assert 0 < first["doubt"] < 1
    assert -1 < first["cosine"] < 1
    assert [row["step"] for row in rows if "val/hit" in row] == [2, 4]


def test_the_teacher_follows_and_gets_no_gradient(data_root, tmp_path):
    run = trainer(data_root, tmp_path)
    before = flat(run.average.state_dict())
    before = {name: value.clone() for name, value in before.items()}
    student = {name: value.clone() for name, value in flat(run.module.state_dict()).items()}
    assert all(torch.equal(before[name], student[name]) for name in before)
    run.train_step()
    assert all(p.grad is None and not p.requires_grad for p in run.average.parameters())
    assert all(p.grad is not None for p in run.module.parameters())
    moved, after = flat(run.module.state_dict()), flat(run.average.state_dict())
    decay = 0.1  # of the first step, see Trainer.update_average
    for name in before:
        expected = torch.lerp(before[name], moved[name], 1 - decay)
        torch.testing.assert_close(after[name], expected, atol=1e-6, rtol=1e-5)


def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(data_root, tmp_path):
    run = trainer(data_root, tmp_path, steps=40, optim={"lr": 3e-3, "warmup_steps": 3, "ema": 0.9})
    views = run.sampler.draw(32)
    run.sampler.draw = lambda side: views
    losses = []
    for _ in range(40):
        losses.append({name: float(value) for name, value in run.train_step().items()})
        run.step += 1
    first, last = losses[0], losses[-1]
    assert last["edges"] < 0.5 * first["edges"]
    assert last["apart"] < first["apart"]
    assert last["loss"] < 0.7 * first["loss"]


def test_edges_come_first(data_root, tmp_path):
    run = trainer(data_root, tmp_path, loss={"alone": 2, "rise": 2})
    names = []
    for _ in range(4):
        names.append(set(run.train_step()))
        assert all(p.grad is not None for p in run.module.vit.parameters())
        run.step += 1
    assert names[:2] == [{"loss", "edges"}] * 2
    assert names[2] == names[3] > {"masked", "visible", "cls", "apart", "use", "doubt", "cosine"}


def test_only_weights_of_layers_decay():
    model = Student(model_recipe())
    decaying, others = (group["params"] for group in parameter_groups(model, 0.1))
    assert len(decaying) + len(others) == len([*model.parameters()])
    kept = {id(parameter) for parameter in others}
    assert {id(model.head.prototypes), id(model.vit.prefix), id(model.vit.mask_token), id(model.vit.norm.weight)} < kept
    assert id(model.vit.patches.weight) in {id(parameter) for parameter in decaying}


def test_validation_leaves_random_numbers_alone(data_root, tmp_path):
    run = trainer(data_root, tmp_path)
    state = torch.get_rng_state()
    scores, pictures = run.validate()
    assert torch.equal(torch.get_rng_state(), state)
    assert scores.keys() == {"val/hit", "val/near", "val/distance"}
    assert 0 <= scores["val/hit"] <= scores["val/near"] <= 1
    assert not pictures


@pytest.mark.parametrize("name", ["backbone", "backbone-short"])
def test_shipped_recipes_are_valid_and_train_on_no_validation_image(name):
    recipe = load_recipe(name, BackboneRecipe)
    folders = [
        path
        for source in recipe.sources
        for entry in (source.pairs, source.images)
        if entry is not None
        for path in entry.model_dump().values()
        if isinstance(path, str)
    ]
    assert len(folders) == 11
    assert all("/train" in path for path in folders)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"width": 3}}, "network: .*unexpected keyword argument 'width'"),
        ({"network": {"embed_dim": 100}}, "network: .*64 for each head, not 100 for 3"),
        ({"views": {**VIEWS, "sides": [40]}}, r"views\.sides\.0: .*multiple of 16"),
        ({"views": {**VIEWS, "mask": [0.6, 0.3]}}, "mask must be two rising shares"),
        ({"views": {**VIEWS, "zoom": [0, 1]}}, "zoom must be two rising numbers above 0"),
        ({"loss": {"alone": 5, "edges": 0}}, "`alone` needs `edges`"),
        ({"sources": [{"share": 1}]}, "give `pairs` or `images`, and not both"),
        ({"sources": []}, "sources: "),
        ({"optim": {"lr": 1e-3}}, "ema must lie between 0 and 1"),
        ({"sources": [{"images": {"path": "ivf/train/gone"}}]}, "no folder .*gone"),
        ({"optim": {"lr": 1e-3, "ema": 0.9}, "loss": {"masked": 1e39}}, "is not finite"),
    ],
)
def test_recipes_that_cannot_run_say_why(data_root, tmp_path, changes, message):
    with pytest.raises(SystemExit, match=message):
        command(*backbone_words(data_root, tmp_path, tmp_path / "run", **changes))


def test_a_checkpoint_of_another_kind_is_refused(data_root, run_folder):
    state = load(run_folder)
    other = run_folder.parent / "other"
    other.mkdir()
    torch.save({**state, "kind": "tita"}, other / "last.pt")
    with pytest.raises(DataError, match="holds a tita run, not a backbone run"):
        trainer(data_root, other).resume()
