"""Weights of several tasks: FAMO on the toy problem of its paper, the plain mean, exact resume, gradient angles."""

import io
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from training.conflict import gradient_angles, gradient_cosines
from training.data.images import DataError
from training.famo import WeightingConfig, make_weighting, replayed
from training.run import rng_state

CPU = torch.device("cpu")
TASKS = ["small", "large"]
SCALE = 0.1
LEAST = (-21.0 * SCALE, -21.0)
"""Below the minimum of each toy loss."""


def toy_losses(x):
    """Two losses of a point, the first ten times smaller; where the second coordinate is negative, two bowls at ±7."""
    x1, x2 = x
    wells = [0.5 * (-x1 - 7) - torch.tanh(-x2), 0.5 * (-x1 + 3) + torch.tanh(-x2) + 2]
    bowls = [((centre - x1) ** 2 + 0.1 * (x2 + 8) ** 2) / 10 - 20 for centre in (7, -7)]
    above, below = torch.tanh(0.5 * x2).clamp_min(0), torch.tanh(-0.5 * x2).clamp_min(0)
    scales = (SCALE, 1.0)
    return torch.stack([
        scale * (above * (well.abs().clamp_min(5e-6).log() + 6) + below * bowl)
        for scale, well, bowl in zip(scales, wells, bowls, strict=True)
    ])  # fmt: skip


def make(kind="famo", tasks=TASKS, **numbers):
    return make_weighting(WeightingConfig(kind=kind, **numbers), tasks, CPU)


def minimise(weighting, steps=320, start=(9.0, -1.0)):
    """Where a run ends, and how far the logarithm of each loss above its minimum fell."""
    x = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.06)
    begun = toy_losses(x).detach()
    for _ in range(steps):
        optimizer.zero_grad()
        weighting.objective(toy_losses(x)).backward()
        optimizer.step()
        if weighting.measures_again:
            weighting.update(toy_losses(x).detach())
    least = torch.tensor(LEAST)
    return x.detach(), ((begun - least) / (toy_losses(x).detach() - least)).log()


def test_on_the_toy_problem_famo_ends_between_the_minima_and_the_mean_in_that_of_the_large_loss():
    balanced, famo_fall = minimise(make(decay=0.0, min_losses=LEAST))
    one_sided, mean_fall = minimise(make("mean"))
    assert abs(balanced[0]) < 3
    assert one_sided[0] < -5
    assert mean_fall[0] < 0 < mean_fall[1]  # the mean pays for the large loss with the small one
    assert famo_fall.min() > 0.8
    assert famo_fall.max() < 1.3 * famo_fall.min()


def falling(weighting, rates, steps=150):
    """Losses that fall at fixed rates whatever the weights are."""
    for step in range(steps):
        losses = torch.exp(-torch.tensor(rates) * step)
        weighting.objective(losses)
        weighting.update(losses * torch.exp(-torch.tensor(rates)))
    return weighting.weights


def test_the_slower_loss_gains_weight_whatever_its_scale():
    weights = falling(make(decay=0.0), [0.02, 0.01])
    assert weights[1] > 0.9
    assert weights.sum() == pytest.approx(1.0)
    torch.testing.assert_close(falling(make(decay=0.0), [0.01, 0.01]), torch.tensor([0.5, 0.5]))


def test_with_feedback_the_rates_of_decrease_become_equal():
    """A loss falls by its weight times a gain: equal rates need weights that are inverse to the gains."""
    weighting, gain = make(decay=0.0), torch.tensor([0.03, 0.01])
    losses = torch.tensor([1.0, 1.0])
    for _ in range(900):
        weighting.objective(losses)
        rates = weighting.weights * gain
        losses = losses * torch.exp(-rates)
        weighting.update(losses)
    assert rates[0] / rates[1] == pytest.approx(1.0, abs=0.15)
    assert weighting.weights[1] == pytest.approx(0.75, abs=0.05)


def test_decay_pulls_the_weights_back():
    free, held = (falling(make(decay=decay), [0.02, 0.01], steps=400) for decay in (0.0, 1.0))
    assert abs(held[1] - 0.5) < 0.2 < abs(free[1] - 0.5)


def test_the_gradient_is_the_papers():
    """C · Σ Z/ℓ · ∇ℓ with 1/C = Σ Z/ℓ (eq. 7), at weights that differ."""
    weighting = make(tasks=["a", "b", "c"])
    falling(weighting, [0.02, 0.01, 0.015], steps=30)
    x = torch.tensor([2.0, 3.0, 5.0], requires_grad=True)
    losses = x**2
    weighting.objective(losses).backward()
    share = weighting.weights / losses.detach()
    torch.testing.assert_close(x.grad, share / share.sum() * 2 * x.detach())


def test_the_objective_does_not_depend_on_the_scale_of_a_loss():
    gradients = []
    for factor in (1.0, 1000.0):
        x = torch.tensor([2.0, 3.0], requires_grad=True)
        weighting = make()
        weighting.objective(torch.stack([x[0], factor * x[1]])).backward()
        gradients.append(x.grad)
    direction = [g / g.norm() for g in gradients]
    torch.testing.assert_close(*direction)


def test_the_first_step_moves_each_logit_by_the_learning_rate():
    weighting = make(lr=0.025)
    weighting.objective(torch.tensor([1.0, 1.0]))
    weighting.update(torch.tensor([0.9, 1.0]))
    torch.testing.assert_close(weighting.logits.detach(), torch.tensor([-0.025, 0.025]), atol=1e-5, rtol=0)


def random_losses(seed, count):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) + 0.5


def feed(weighting, losses):
    for before, after in pairwise(losses):
        weighting.objective(before)
        weighting.update(after)
    return weighting.weights


def test_a_state_that_went_through_a_file_goes_on_to_the_bit():
    losses = random_losses(0, 40)
    whole = make()
    feed(whole, losses[:20])
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    later = make()
    later.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(feed(whole, losses[19:]), feed(later, losses[19:]))
    assert not torch.equal(later.weights, feed(make(), losses[19:]))


def test_a_state_does_not_change_when_the_run_goes_on():
    weighting = make()
    feed(weighting, random_losses(0, 5))
    state = weighting.state_dict()
    kept = state["logits"].clone()
    feed(weighting, random_losses(1, 5))
    assert torch.equal(state["logits"], kept)


def test_processes_that_average_their_losses_keep_the_same_weights():
    losses = [random_losses(seed, 12) for seed in (0, 1)]
    averages = [iter(sum(losses)[[i // 2 + i % 2 for i in range(22)]] / 2) for _ in losses]
    parts = [
        make_weighting(WeightingConfig(), TASKS, CPU, average=lambda _, values=values: next(values))
        for values in averages
    ]
    first, second = (feed(part, own) for part, own in zip(parts, losses, strict=True))
    assert torch.equal(first, second)
    assert not torch.equal(*(feed(make(), own) for own in losses))


def test_states_of_other_tasks_or_of_another_kind_are_refused():
    with pytest.raises(DataError, match=r"famo of focus, exposure, the recipe by famo of small, large"):
        make().load_state_dict(make(tasks=["focus", "exposure"]).state_dict())
    with pytest.raises(DataError, match=r"weights tasks by mean of small, large"):
        make().load_state_dict(make("mean").state_dict())


@pytest.mark.parametrize("kind", ["famo", "mean"])
@pytest.mark.parametrize("losses", [[1.0], [1.0, 1.0, 1.0], [[1.0, 1.0]]])
def test_another_number_of_losses_is_an_error(kind, losses):
    with pytest.raises(ValueError, match=r"expected 2 losses, one for each of small, large.*stack the losses"):
        make(kind).objective(torch.tensor(losses))


@pytest.mark.parametrize("kind", ["famo", "mean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_name_their_task(kind, value):
    weighting = make(kind)
    with pytest.raises(DataError, match=r"loss of large is not finite: lower the learning rate"):
        weighting.objective(torch.tensor([1.0, value]))
    weighting.objective(torch.tensor([1.0, 1.0]))
    with pytest.raises(DataError, match="loss of large"):
        weighting.update(torch.tensor([1.0, value]))


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_famo_needs_losses_above_their_minimum_and_the_mean_does_not(value):
    losses = torch.tensor([value, 1.0])
    with pytest.raises(DataError, match=r"loss of small is .*, not above 0.*`min_losses`.*`kind: mean`"):
        make().objective(losses)
    make(min_losses=(-1.0, 0.0)).objective(losses)
    assert make("mean").objective(losses) == losses.mean()


def test_wrong_uses_and_settings_are_named():
    with pytest.raises(ValueError, match="objective before update"):
        make().update(torch.tensor([1.0, 1.0]))
    with pytest.raises(DataError, match=r"min_losses has 3 values for 2 tasks"):
        make(min_losses=(0.0, 0.0, 0.0))
    with pytest.raises(DataError, match=r"names of their own, got focus, focus"):
        make(tasks=["focus", "focus"])
    with pytest.raises(ValidationError, match="lr"):
        WeightingConfig(lr=0.0)
    with pytest.raises(ValidationError, match="kind"):
        WeightingConfig(kind="equal")


def test_replayed_numbers_are_those_of_before_and_change_nothing_afterwards():
    torch.manual_seed(3)
    state = rng_state()
    first = torch.rand(4)
    with replayed(state):
        assert torch.equal(torch.rand(4), first)
    following = torch.rand(4)
    torch.manual_seed(3)
    torch.rand(4)
    assert torch.equal(torch.rand(4), following)


def test_angles_of_known_gradients():
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    unused = torch.ones(3, requires_grad=True)
    losses = [x[0] * 2, x[1] * 5, -x[0], x.sum()]
    angles = gradient_angles(losses, [x, unused])
    expected = torch.tensor([[0, 90, 180, 45], [90, 0, 90, 45], [180, 90, 0, 135], [45, 45, 135, 0]], dtype=torch.float)
    torch.testing.assert_close(angles, expected, atol=0.05, rtol=0)
    assert x.grad is None
    sum(losses).backward()  # the graphs are still there


def test_a_task_without_gradient_has_no_angle():
    x = torch.ones(2, requires_grad=True)
    cosines = gradient_cosines([x.sum(), (0 * x).sum()], [x])
    assert cosines[0, 0] == pytest.approx(1.0)
    assert torch.isnan(cosines[1]).all()
    assert torch.isnan(cosines[0, 1])


@pytest.mark.parametrize("losses", [0, 1])
def test_angles_need_two_losses(losses):
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="angles need two losses"):
        gradient_cosines([x.sum()] * losses, [x])
    with pytest.raises(ValueError, match="0 parameters that train"):
        gradient_cosines([x.sum()] * 2, [x.detach()])
