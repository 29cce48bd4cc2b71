"""Step sizes of one unit: they learn, and are put back where that makes the unit worse."""

import pytest
import torch
from torch import nn

from tempoquant.intervals import Clock, ConstantInterval, GroupInterval, TableInterval
from tempoquant.layers import Site, simulate, to_quantized
from tempoquant.learned.networks import ARCHITECTURES
from tempoquant.numerics import QParams
from tempoquant.randomness import rng
from tempoquant.reconstruction.effort import StepEffort
from tempoquant.reconstruction.step_learning import Call, StepLearner, with_scale

STEPS = torch.tensor([0, 300, 600, 900])
ROWS, RELATIVE = 32, StepEffort(iterations=60, batch=8, lr=3e-2, generator_lr=1e-2)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = to_quantized(nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False))
        self.linear = to_quantized(nn.Linear(8, 4).requires_grad_(False))

    def forward(self, x, shift):
        h = nn.functional.silu(self.conv(x) + shift[:, None, None, None])
        return self.linear(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def unit(effort=RELATIVE, too_wide=4.0, key="unit"):
    """A block of two layers with 4-bit inputs, whose range grows with the time step, on grids that are too wide."""
    clock, block = Clock(STEPS, 1, "t"), Block()
    timestep = STEPS.repeat(ROWS // 4)
    x = torch.randn(ROWS, 3, 6, 6, generator=rng("x")) * (0.2 + timestep[:, None, None, None] / 300)
    call = Call((x,), {"shift": torch.linspace(0, 1, ROWS)}, block(x, torch.linspace(0, 1, ROWS)), timestep)
    for layer, reach, zero in ((block.conv, 4.0, 8), (block.linear, 6.0, 2)):
        layer.input_interval = ConstantInterval(
            QParams(torch.tensor(too_wide * reach / 8), torch.tensor(zero), 0, 15), 4
        )
    sites = [Site("conv", block.conv, "input_interval"), Site("linear", block.linear, "input_interval")]
    return StepLearner(block, call, clock, effort, (key,)), sites


def test_learning_lowers_the_units_loss_and_moves_scales_only():
    learner, sites = unit()
    before, zeros = learner.loss(), [site.provider.zero_point.clone() for site in sites]
    learner.learn(sites, None, 1000)
    assert learner.loss() < 0.5 * before
    assert all(torch.equal(s.provider.zero_point, z) for s, z in zip(sites, zeros, strict=True))
    assert all(float(s.provider.scale) < 2.0 and not s.provider.scale.requires_grad for s in sites)
    assert all(site.holder.kernel is simulate for site in sites)


def test_steps_that_make_the_unit_worse_are_not_kept():
    learner, sites = unit(StepEffort(iterations=2, batch=8, lr=50.0))
    before = [(site.provider, site.provider.scale.clone()) for site in sites]
    learner.learn(sites, None, 1000)
    for site, (provider, scale) in zip(sites, before, strict=True):
        assert site.provider is provider and torch.equal(provider.scale, scale)


def test_groups_learn_an_interval_each():
    learner, sites = unit()
    for site in sites:
        start = site.provider
        qparams = QParams(start.scale.expand(4).clone(), start.zero_point.expand(4).clone(), 0, 15)
        site.provider = GroupInterval(qparams, 4, learner.clock, 1000)
    before = learner.loss()
    learner.learn(sites, None, 1000)
    scale = sites[0].provider.scale
    # Inputs at the last time steps are ten times those at the first.
    assert learner.loss() < before and scale.unique().numel() == 4 and float(scale[3]) > float(scale[0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generated_steps_follow_the_time_step_and_beat_one_for_all(name):
    effort = StepEffort(iterations=300, batch=8, lr=1e-2, generator_lr=1e-2)
    constant, sites = unit(effort)
    constant.learn(sites, None, 1000)
    learner, sites = unit(effort)
    learner.learn(sites, ARCHITECTURES[name], 1000)
    table = sites[0].provider
    assert isinstance(table, TableInterval) and table.scale.shape == (4,)
    assert float(table.scale[3]) > 2 * float(table.scale[0]) and (table.zero_point == 8).all()
    assert learner.loss() < constant.loss()


def test_the_same_key_gives_the_same_bits():
    scales = []
    for key in ("a", "a", "b"):
        torch.rand(3)
        learner, sites = unit(key=key)
        learner.learn(sites, ARCHITECTURES["tdq"], 1000)
        scales.append(torch.stack([site.provider.scale for site in sites]))
    assert torch.equal(scales[0], scales[1]) and not torch.equal(scales[0], scales[2])


def test_the_first_step_of_adam_by_hand():
    # Adam's first step is the learning rate itself, whatever the gradient: here towards a narrower grid.
    for relative, expected in ((True, 2.0 * (1 - 0.1)), (False, 2.0 - 0.1)):
        learner, sites = unit(StepEffort(iterations=1, batch=8, lr=0.1, relative=relative))
        learner.learn(sites, None, 1000)
        assert float(sites[0].provider.scale) == pytest.approx(expected, rel=1e-5)


def test_a_kept_scale_is_set_in_place_or_makes_a_table():
    learner, sites = unit()
    start = sites[0].provider
    assert with_scale(start, torch.tensor(0.25), learner.clock) is start and float(start.scale) == 0.25
    table = with_scale(start, torch.arange(1.0, 5.0), learner.clock)
    assert isinstance(table, TableInterval)
    assert table.scale.tolist() == [1, 2, 3, 4] and table.zero_point.tolist() == [8] * 4
