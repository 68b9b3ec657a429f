"""Losses of a backbone's training: only hidden patches, the right patch, centres, and what tells of a collapse."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from training.backbone_edges import edge_directions
from training.backbone_loss import (
    Centres,
    balanced,
    collapse,
    cross_entropy,
    edge_loss,
    teacher_losses,
    teacher_targets,
    told_apart,
)
from training.backbone_recipe import LossConfig
from training.backbone_student import Scores
from training.backbone_views import Views

N, G, K = 4, 3, 6
"""Canvases, patches of their side, prototypes; windows have one patch less a side."""


def scores(patches, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = ((N, K), (N, patches, K), (N, patches, 5), (N, patches, 32), (N, patches, 8))
    cls, values, projected, edges, features = (torch.randn(shape, generator=draw) for shape in shapes)
    return Scores(cls.tanh(), values.tanh().requires_grad_(), normalize(projected, dim=-1), edges, features)


def views():
    draw = torch.Generator().manual_seed(1)
    image = torch.rand(N, 1, 32, 32, generator=draw)
    places = torch.tensor([[0, 1, 3, 4], [4, 5, 7, 8], [1, 0, 4, 3], [3, 4, 6, 7]])
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]] * 2)
    return Views(torch.rand(N, 1, 48, 48, generator=draw), image, image, places, mask)


def targets(seed=2):
    return teacher_targets(scores(G * G, seed), Centres(0.9), 0.05)


def losses(student, wanted, **weights):
    off = {"masked": 0.0, "visible": 0.0, "cls": 0.0, "apart": 0.0, "edges": 0.0}
    config = LossConfig(**{**off, **weights})
    return teacher_losses(student, wanted, views(), config) | edge_loss(student, views(), config)


def test_only_hidden_patches_enter_the_masked_term():
    student, mask = scores(4), views().mask
    losses(student, targets(), masked=1.0)["masked"].backward()
    moved = student.patches.grad.abs().sum(dim=2) > 0
    assert torch.equal(moved, mask)
    student = scores(4)
    losses(student, targets(), visible=1.0)["visible"].backward()
    assert torch.equal(student.patches.grad.abs().sum(dim=2) > 0, ~mask)


def test_a_patch_is_compared_with_the_teachers_patch_of_the_same_place():
    wanted, places = targets(), views().places
    right = torch.stack([wanted.patches[n, places[n]] for n in range(N)])
    student = scores(4)._replace(patches=0.1 * right.log())  # says at temperature 0.1 exactly what the teacher says
    best = losses(student, wanted, masked=1.0)["masked"]
    entropy = torch.special.entr(right).sum(dim=2)[views().mask].mean()
    assert best.detach() == pytest.approx(float(entropy), rel=1e-4)
    moved = wanted._replace(patches=wanted.patches.roll(1, dims=1))
    elsewhere = losses(student, moved, masked=1.0)["masked"]
    assert elsewhere > best + 0.1


def test_the_class_token_is_compared_with_the_other_canvas():
    wanted = targets()
    student = scores(4)._replace(cls=0.1 * wanted.cls.log())
    crossed = losses(student, wanted._replace(cls=wanted.cls.roll(2, dims=0)), cls=1.0)["cls"]
    assert crossed == pytest.approx(float(torch.special.entr(wanted.cls).sum(dim=1).mean()), rel=1e-4)
    assert losses(student, wanted, cls=1.0)["cls"] > crossed + 0.1


def test_weights_scale_their_terms_and_edges_can_be_left_out():
    student = scores(4)
    names = ("masked", "visible", "cls", "apart", "edges")
    once, twice = (losses(student, targets(), **dict.fromkeys(names, weight)) for weight in (1.0, 2.0))
    assert set(once) == set(names)
    assert all(float(twice[name].detach()) == pytest.approx(2 * float(once[name].detach()), rel=1e-5) for name in once)
    assert "edges" not in losses(student, targets(), masked=1.0)


def test_the_teachers_terms_begin_late_and_rise():
    late = LossConfig(alone=10, rise=4)
    assert [late.teacher_share(step) for step in (0, 9, 10, 11, 13, 99)] == [0, 0, 0.25, 0.5, 1, 1]
    assert LossConfig().teacher_share(0) == 1


def test_edges_of_all_patches_count():
    student = scores(4)
    student = student._replace(edges=student.edges.requires_grad_())
    edge_loss(student, views(), LossConfig(edges=2.0))["edges"].backward()
    assert (student.edges.grad.abs().sum(dim=2) > 0).all()
    right = student._replace(edges=edge_directions(views().partner))
    assert edge_loss(right, views(), LossConfig())["edges"] == 0


def test_patches_are_told_apart_by_the_right_key():
    keys = normalize(torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert told_apart(keys, keys, 0.05) < 0.05
    assert told_apart(keys, keys.roll(1, dims=1), 0.05) > 5
    assert told_apart(torch.zeros(2, 9, 16), keys, 0.05) == pytest.approx(math.log(18), rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_balanced_batch_uses_all_prototypes_and_stays_sharp(offset):
    scores = 0.3 * torch.randn(200, K, generator=torch.Generator().manual_seed(0))
    scores[:, 2] += offset  # one answer for everything
    found = balanced(scores, 0.05)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(200))
    torch.testing.assert_close(found.mean(dim=0), torch.full((K,), 1 / K), atol=0.02, rtol=0)
    assert found.amax(dim=1).mean() > 0.7


def test_cross_entropy_is_least_for_the_target():
    target = torch.tensor([0.7, 0.2, 0.1])
    least = cross_entropy(0.1 * target.log(), target, 0.1)
    assert least == pytest.approx(float(torch.special.entr(target).sum()), rel=1e-5)
    assert cross_entropy(torch.zeros(3), target, 0.1) == pytest.approx(math.log(3), rel=1e-5)


def test_a_centre_takes_away_what_is_always_said():
    usual = torch.randn(9, K)  # by place: a teacher that only knows where a patch lies
    centres = Centres(0.9)
    for _ in range(3):
        centred = centres.centred("patches", usual.expand(N, 9, K) + 0.0)
    assert centred.abs().max() < 1e-5
    strange = centres.centred("patches", usual + torch.eye(4).repeat(1, 3)[:, None, :K])
    torch.testing.assert_close(strange, torch.eye(4).repeat(1, 3)[:, None, :K].expand(N, 9, K), atol=1e-5, rtol=0)


def test_a_centre_is_a_running_mean_that_can_be_kept():
    centres = Centres(0.75)
    assert torch.equal(centres.centred("cls", torch.ones(2, K)), torch.zeros(2, K))
    assert torch.equal(centres.centred("cls", 3 * torch.ones(2, K)), 2 * torch.ones(2, K))  # what was before
    assert torch.equal(centres.state_dict()["cls"], torch.full((K,), 1.5))
    other = Centres(0.75)
    other.load_state_dict(centres.state_dict(), torch.device("cpu"))
    assert torch.equal(other.centred("cls", torch.ones(2, K)), torch.full((2, K), -0.5))


def test_collapse_is_seen():
    one = torch.zeros(2, 5, K)
    one[..., 0] = 1
    alike = torch.full((2, 5, K), 1 / K)
    spread = torch.eye(K)[torch.arange(2 * K) % K].view(2, K, K)
    same, different = torch.ones(2, K, 4), torch.eye(2 * K).view(2, K, 2 * K)
    assert collapse(one, same)["use"] == pytest.approx(0, abs=1e-6)
    assert collapse(alike, same)["use"] == pytest.approx(1, abs=1e-6)
    assert collapse(alike, same)["doubt"] == pytest.approx(1, abs=1e-6)
    assert collapse(spread, same)["use"] == pytest.approx(1, abs=1e-6)
    assert collapse(spread, same)["doubt"] == pytest.approx(0, abs=1e-6)
    assert collapse(spread, same)["cosine"] == pytest.approx(1, abs=1e-6)
    assert collapse(spread, different)["cosine"] == pytest.approx(0, abs=1e-6)
