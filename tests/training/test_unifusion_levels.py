"""One step of UniFusion: what moves on which level, by whose gradient, and what its average holds."""

import pytest
import torch
from lightning_fabric import Fabric

from models.unifusion.backbone import weights_sha256
from tests.training.tiny_runs import flat
from tests.training.tiny_unifusion_runs import NETWORK, tiny_trainer
from training.run import restore_rng, rng_state
from training.unifusion_levels import averages_kept
from training.unifusion_loss import reconstruction_loss

PHI, THETA = {"adapter_a", "adapter_b", "heads"}, {"fusion", "output"}
STRICT = {"fuse_grad_to_adapter": 0.0}
BATCH_NORM = {**NETWORK, "norm": "batch"}


@pytest.fixture
def make(data_root, tmp_path):
    def trainer(**changes):
        made = tiny_trainer(data_root, tmp_path / "run", **changes)
        made.module.train()
        return made

    return trainer


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def part(name):
    return name.removeprefix("network.").partition(".")[0]


def changed(module, before):
    """Parts that hold a tensor, running averages included, of which any bit differs."""
    return {part(name) for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def gradients(module, parts):
    return {name: p.grad.clone() for name, p in module.named_parameters() if part(name) in parts and p.grad is not None}


def hold_still(trainer):
    """Steps leave their gradients and do not move anything."""
    for optimizer in (trainer.optimizer, trainer.adapter_optimizer):
        if optimizer is not None:
            optimizer.step = lambda: None
    trainer.clip_gradients = lambda parameters, limit: torch.zeros(())
    return trainer


# two levels


@pytest.mark.parametrize("network", [NETWORK, BATCH_NORM], ids=["group norm", "batch norm"])
def test_in_strict_mode_each_level_leaves_the_other_as_it_is(make, network):
    trainer = make(network=network, levels=STRICT)
    drawn, before = trainer.draw(), copied(trainer.module)
    trainer.lower_step(drawn)
    assert changed(trainer.module, before) == PHI
    trainer.adapter_optimizer.zero_grad(set_to_none=True)
    before, moments = copied(trainer.module), flat(trainer.adapter_optimizer.state_dict()["state"])
    moments = {name: value.clone() for name, value in moments.items()}
    with averages_kept(trainer.module):
        trainer.upper_step(drawn)
    assert changed(trainer.module, before) == THETA
    now = flat(trainer.adapter_optimizer.state_dict()["state"])
    assert all(torch.equal(now[name], value) for name, value in moments.items())
    assert gradients(trainer.module, PHI) == {}


def test_a_step_is_both_levels_one_after_the_other(make):
    whole, single = make(network=BATCH_NORM, levels=STRICT), make(network=BATCH_NORM, levels=STRICT)
    drawn = rng_state()
    whole.train_step()
    restore_rng(drawn)
    single._set_learning_rates()
    single.lower_step(single.draw())
    lower = {name: value for name, value in copied(single.module).items() if part(name) in PHI}
    now = whole.module.state_dict()
    assert [name for name, value in lower.items() if not torch.equal(now[name], value)] == []
    assert changed(whole.module, copied(single.module)) == THETA


@pytest.mark.parametrize("steps", [1, 3])
def test_inner_steps_count_each_batch_once(make, steps):
    trainer = make(network=BATCH_NORM, levels={"inner_steps": steps, **STRICT})
    trainer.train_step()
    counts = {int(v) for name, v in trainer.module.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == {1}
    taken = {int(s["step"]) for s in trainer.adapter_optimizer.state_dict()["state"].values()}
    assert taken == {steps}
    assert {int(s["step"]) for s in trainer.optimizer.state_dict()["state"].values()} == {1}


def test_a_share_of_the_fusion_gradient_reaches_the_adapters(make):
    found = {}
    for share in (0.25, 1.0):
        trainer = hold_still(make(levels={"fuse_grad_to_adapter": share}))
        torch.manual_seed(0)
        trainer.upper_step(trainer.draw())
        found[share] = gradients(trainer.module, PHI | THETA)
    adapters = [name for name in found[1.0] if part(name) in PHI]
    assert {part(name) for name in adapters} == PHI - {"heads"}
    for name in adapters:
        torch.testing.assert_close(found[0.25][name], 0.25 * found[1.0][name], atol=1e-8, rtol=1e-3)
    assert all(torch.equal(found[0.25][name], found[1.0][name]) for name in found[1.0] if part(name) in THETA)
    assert max(found[1.0][name].abs().max() for name in adapters) > 0


def test_with_a_share_the_adapters_own_optimiser_moves_them_again(make):
    trainer = make(levels={"fuse_grad_to_adapter": 0.5})
    before = copied(trainer.module)
    trainer.upper_step(trainer.draw())
    assert changed(trainer.module, before) == THETA | PHI - {"heads"}
    ours = {id(p) for group in trainer.adapter_optimizer.param_groups for p in group["params"]}
    assert ours == {id(p) for name, p in trainer.module.named_parameters() if part(name) in PHI}


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e9])
def test_the_weight_of_the_reconstruction_counts_against_the_share(make, clip):
    ratios = []
    for weight in (1.0, 8.0):
        trainer = make(
            only=["infrared-visible"],
            optim={"lr": 3e-3, "warmup_steps": 1, "clip": clip, "ema": 0.9},
            levels={"rec_weight": weight, "fuse_grad_to_adapter": 0.5},
        )
        norms = []

        def note(trainer=trainer, norms=norms):
            own = gradients(trainer.module, PHI)
            norms.append(torch.stack([value.norm() for value in own.values()]).norm())

        trainer.adapter_optimizer.step = note
        torch.manual_seed(0)
        drawn = trainer.draw()
        trainer.lower_step(drawn)
        trainer.upper_step(drawn)
        ratios.append(float(norms[0] / norms[1]))
        if clip == 1e-3:
            assert float(norms[0]) == pytest.approx(clip, rel=1e-2)
    assert ratios[1] == pytest.approx(8 * ratios[0], rel=1e-2)


@pytest.mark.parametrize("depth", [0, 2])
def test_learning_rates_of_both_levels(make, depth):
    trainer = make(body_lr_ratio=0.5, adapter_lr_ratio=4.0, network={**NETWORK, "reconstruction_depth": depth})
    trainer._set_learning_rates()
    levels = [level for level in (trainer.optimizer, trainer.adapter_optimizer) if level is not None]
    assert len(levels) == (2 if depth else 1)
    rates = {id(value): group["lr"] for level in levels for group in level.param_groups for value in group["params"]}
    last = {id(value) for value in trainer.network.fusion.head[3].parameters()}
    last |= {id(value) for value in trainer.network.output.parameters()}
    for name, value in trainer.module.named_parameters():
        expected = 6e-3 if part(name) in PHI else 3e-3 if id(value) in last else 1.5e-3
        assert rates.pop(id(value)) == pytest.approx(expected), name
    assert not rates


# other ways to train


def test_a_joint_step_follows_the_sum_of_both_losses(make):
    joint = hold_still(make(levels={"joint": True}))
    assert joint.adapter_optimizer is None
    torch.manual_seed(0)
    drawn = joint.draw()
    values = joint.joint_step(drawn)
    found = gradients(joint.module, PHI | THETA)
    apart = hold_still(make(levels={"fuse_grad_to_adapter": 1.0}))
    apart.lower_step(drawn)
    expected = gradients(apart.module, PHI)
    apart.upper_step(drawn)
    fusing = gradients(apart.module, PHI | THETA)
    for name, value in found.items():
        total = fusing.get(name, 0) + expected.get(name, 0) if "heads" not in name else expected[name]
        torch.testing.assert_close(value, total, atol=1e-6, rtol=1e-3)
    assert found.keys() == expected.keys() | fusing.keys()
    assert values.keys() >= {"loss/multi-focus", "rec/multi-focus"}


def test_without_reconstruction_the_fusion_loss_trains_the_adapters(make):
    trainer = make(network={**NETWORK, "reconstruction_depth": 0})
    assert trainer.adapter_optimizer is None
    assert trainer.module.heads is None
    before = copied(trainer.module)
    values = trainer.train_step()
    assert changed(trainer.module, before) == {"adapter_a", "adapter_b", *THETA}
    assert not any(name.startswith("rec") for name in values)
    assert changed(trainer.average, trainer.module.state_dict()) == THETA


def test_an_encoder_of_the_networks_own_belongs_to_the_lower_level(make):
    trainer = make(network={**NETWORK, "encoder": "trained"}, levels=STRICT)
    assert trainer.network.backbone is None
    drawn, before = trainer.draw(), copied(trainer.module)
    assert drawn.codes is None
    trainer.lower_step(drawn)
    assert changed(trainer.module, before) == PHI | {"encoder"}
    before = copied(trainer.module)
    trainer.upper_step(drawn)
    assert changed(trainer.module, before) == THETA


def test_tasks_take_turns(make):
    trainer = make(schedule="round-robin")
    for name in ("infrared-visible", "multi-focus", "infrared-visible"):
        drawn = trainer.draw()
        assert [task.name for task in drawn.tasks] == [name]
        assert len(drawn.a) == 2
        assert f"rec/{name}" in trainer.train_step()
        trainer.step += 1


def test_one_task_alone(make):
    trainer = make(only=["multi-focus"])
    assert [task.name for task in trainer.draw().tasks] == ["multi-focus"]
    assert list(trainer.examples.examples) == ["multi-focus"]
    assert list(trainer.data_counts()) == ["ivf/train/visible"]


def test_samples_without_the_skip_are_rebuilt_from_the_taps(make):
    trainer = make(levels={"skip_drop": 0.5})
    kept = torch.cat([trainer._kept_skips(50) for _ in range(4)])
    assert set(kept.tolist()) == {0.0, 1.0}
    assert 60 < kept.sum() < 140
    assert make()._kept_skips(4) is None
    drawn = trainer.draw()
    with torch.no_grad():
        none = torch.zeros(len(drawn.a))
        blind = trainer.module(drawn.a, drawn.b, drawn.codes, rebuild=True, keep_skip=none).rebuilt
        other = trainer.module(drawn.b, drawn.a, drawn.codes, rebuild=True, keep_skip=none).rebuilt
        seen = trainer.module(drawn.a, drawn.b, drawn.codes, rebuild=True).rebuilt
        both = trainer.module(drawn.a, drawn.b, drawn.codes, rebuild=True, fuse=True, keep_skip=none)
        fused = trainer.module(drawn.a, drawn.b, drawn.codes, fuse=True).fused
    assert torch.equal(blind[0], other[0])
    assert not torch.equal(blind[0], seen[0])
    # fusion has it in any case
    assert torch.equal(both.rebuilt[0], blind[0])
    assert torch.equal(both.fused, fused)


@pytest.mark.parametrize("side", [32, 40])
def test_an_rgb_network_learns_from_gray(make, side):
    trainer = make(
        network={**NETWORK, "output": "image", "fold": 1, "norm": "batch"}, sampling={"batch": 1, "side": side}
    )
    drawn = trainer.draw()
    outcome = trainer.module(drawn.a, drawn.b, drawn.codes, rebuild=True, fuse=True)
    assert outcome.fused.shape == (2, 1, side, side)
    assert [image.shape for image in outcome.rebuilt] == [(2, 3, side, side)] * 2
    assert trainer.train_step()["loss"].isfinite()


# what stays, and what is averaged


def test_the_backbone_stays_as_it_is(make):
    trainer = make(levels={"fuse_grad_to_adapter": 1.0})
    before = weights_sha256(trainer.network.backbone)
    for _ in range(3):
        trainer.train_step()
        trainer.step += 1
    assert weights_sha256(trainer.network.backbone) == before
    assert trainer.average.network.backbone is trainer.network.backbone
    assert not trainer.network.backbone.training
    assert all(p.grad is None and not p.requires_grad for p in trainer.network.backbone.parameters())


def test_only_the_fusion_network_is_averaged(make):
    trainer = make(network=BATCH_NORM)
    start = copied(trainer.average)
    for _ in range(3):
        trainer.train_step()
        trainer.step += 1
    now = trainer.module.state_dict()
    assert changed(trainer.average, now) == THETA
    for name, value in trainer.average.state_dict().items():
        if part(name) in THETA and not torch.equal(start[name], now[name]):
            assert not torch.equal(value, start[name]), name


def test_the_average_lies_where_the_network_is_moved(make, monkeypatch):
    setup = Fabric.setup
    monkeypatch.setattr(Fabric, "setup", lambda self, module, *rest: setup(self, module.double(), *rest))
    trainer = make()
    kinds = {value.dtype for value in trainer.module.state_dict().values()}
    assert kinds == {value.dtype for value in trainer.average.state_dict().values()} == {torch.float64}
    assert trainer.average.network.backbone is trainer.network.backbone


def test_reconstruction_is_half_the_error_of_both_images():
    a, b = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    rows = reconstruction_loss((a + 0.1, b - 0.3), (a, b))
    torch.testing.assert_close(rows, torch.full((3,), 0.2))
    with pytest.raises(ValueError, match=r"cannot compare \(3, 3, 8, 8\) with a source of \(3, 1, 8, 8\)"):
        reconstruction_loss((a.expand(-1, 3, -1, -1), b), (a, b))
