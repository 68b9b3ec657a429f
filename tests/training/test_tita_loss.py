"""Objectives of TITA's tasks: each term wants what it says, by images where the answer is known."""

import pytest
import torch

from training.data.tasks import TaskBatch
from training.losses import gradient, ssim
from training.tita_loss import Objective, task_loss

NOTHING = {"ssim": 0.0, "texture": 0.0, "intensity": 0.0}


@pytest.fixture
def pair():
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(8, 1, 6, 6), size=(40, 40), mode="bicubic").clamp(0, 1)
    return smooth[:4], smooth[4:]


def batch(a, b, truth=None, made=None):
    return TaskBatch(a, b, truth, torch.zeros(len(a), dtype=torch.bool) if made is None else torch.tensor(made))


def loss(sources, fused, **weights):
    return task_loss(sources, fused, Objective(**{**NOTHING, **weights})).item()


@pytest.mark.parametrize(("target", "wanted"), [("max", torch.maximum), ("mean", lambda a, b: (a + b) / 2)])
def test_intensity(pair, target, wanted):
    a, b = pair
    fused = wanted(a, b)
    assert loss(batch(a, b), fused, intensity=20.0, target=target) == pytest.approx(0.0, abs=1e-6)
    assert loss(batch(a, b), fused + 0.1, intensity=20.0, target=target) == pytest.approx(2.0, rel=1e-4)


def test_texture_wants_the_larger_gradient_and_not_more(pair):
    a, b = pair
    flat = torch.full_like(b, 0.5)
    assert loss(batch(a, flat), a + 0.2, texture=1.0) == pytest.approx(0.0, abs=1e-5)
    strength = gradient(a).mean().item()
    assert loss(batch(a, flat), flat, texture=1.0) == pytest.approx(strength, rel=1e-4)
    assert loss(batch(a, flat), 2 * a, texture=1.0) == pytest.approx(strength, rel=1e-3)


def test_shares_of_the_similarity(pair):
    a, b = pair
    weak = 0.5 + 0.05 * (b - 0.5)
    fused = (a + weak) / 2
    to_a, to_b = (1 - ssim(x, fused).mean().item() for x in (a, weak))
    equal = loss(batch(a, weak), fused, ssim=1.0, shares="equal")
    by_gradient = loss(batch(a, weak), fused, ssim=1.0, shares="gradient")
    share = (gradient(a).mean() / (gradient(a).mean() + gradient(weak).mean())).item()
    assert share > 0.9
    assert equal == pytest.approx((to_a + to_b) / 2, rel=1e-4)
    assert by_gradient == pytest.approx(share * to_a + (1 - share) * to_b, rel=1e-4)


def test_made_crops_learn_from_their_truth_and_the_others_do_not(pair):
    a, b = pair
    truth = torch.rand_like(a)
    weights = {"ssim": 10.0, "texture": 20.0, "intensity": 20.0, "truth": True}
    made = [True, False, True, False]
    mixed = batch(a, b, truth, made)
    rows = torch.tensor(made)[:, None, None, None]
    best = torch.where(rows, truth, torch.maximum(a, b))
    only_others = loss(batch(a[1::2], b[1::2]), best[1::2], **{**weights, "shares": "equal"})
    assert loss(mixed, best, **{**weights, "shares": "equal"}) == pytest.approx(only_others / 2, rel=1e-3)
    ignored = loss(mixed, best, **{**weights, "shares": "equal", "truth": False})
    assert ignored == pytest.approx(loss(batch(a, b), best, **{**weights, "shares": "equal"}), rel=1e-5)


def test_terms_beyond_the_paper(pair):
    a, b = pair
    centred = a + b - (a + b).mean(dim=(2, 3), keepdim=True) / 2
    assert loss(batch(a, b), centred, correlation=3.0) == pytest.approx(0.0, abs=1e-3)
    assert loss(batch(a, b), a, correlation=3.0) > 1.0
    outside = torch.full_like(a, 1.25)
    assert loss(batch(a, b), outside, out_of_range=4.0) == pytest.approx(1.0, rel=1e-5)
    assert loss(batch(a, b), outside.clamp(0, 1), out_of_range=4.0) == 0.0


def test_tone_punishes_a_halo_and_not_the_edge_itself(pair):
    a = torch.full((1, 1, 64, 64), 0.2)
    a[..., 32:] = 0.8
    b = torch.full_like(a, 0.5)
    halo = a.clone()
    halo[..., 16:32] -= torch.linspace(0, 0.15, 16)
    assert loss(batch(a, b), a, tone=1.0) == pytest.approx(0.0, abs=1e-6)
    assert loss(batch(a, b), a + 0.1, tone=1.0) == pytest.approx(0.0, abs=1e-6)
    assert loss(batch(a, b), halo, tone=1.0) > 1e-3
    # signs count: the edge the wrong way round is worse than none
    assert loss(batch(a, b), 1 - a, tone=1.0) == pytest.approx(2 * loss(batch(a, b), b, tone=1.0), rel=1e-4)


def test_gradients_as_weak_as_noise_are_not_asked_for(pair):
    a, _ = pair
    torch.manual_seed(1)
    flat = torch.full_like(a, 0.5)
    noisy = flat + torch.randn_like(flat) / 255
    asked, excused = (loss(batch(noisy, flat), flat, texture=1.0, noise=noise) for noise in (0.0, 0.08))
    assert excused < 0.2 * asked
    edge = flat.clone()
    edge[..., 20:] = 1.0
    assert loss(batch(edge, flat), flat, texture=1.0, noise=0.08) == pytest.approx(
        loss(batch(edge, flat), flat, texture=1.0), rel=1e-2
    )


def test_the_whole_is_the_papers_sum(pair):
    a, b = pair
    fused = (a + b) / 2
    parts = [
        loss(batch(a, b), fused, **{name: weight})
        for name, weight in (("ssim", 10), ("texture", 20), ("intensity", 20))
    ]
    assert task_loss(batch(a, b), fused, Objective()).item() == pytest.approx(sum(parts), rel=1e-5)


def test_gradients_reach_the_output_everywhere(pair):
    a, b = pair
    fused = (1.5 * (a + b) - 0.5).requires_grad_()
    truth = torch.rand_like(a)
    task_loss(batch(a, b, truth, [True, False, False, True]), fused, Objective(truth=True)).backward()
    assert torch.isfinite(fused.grad).all()
    assert (fused.grad != 0).float().mean() > 0.9
