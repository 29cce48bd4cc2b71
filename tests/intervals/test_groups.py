import pytest
import torch
from torch import nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, GroupInterval, group_of
from tempoquant.numerics import QParams


def grouped(clock, groups=4, train_timesteps=1000):
    qparams = QParams(torch.arange(1, groups + 1) / 10, torch.arange(groups), 0, 15)
    return GroupInterval(qparams, 4, clock, train_timesteps)


CASES = [
    # N = 4 of T = 1000: 250 time steps each.
    (4, 1000, {0: 0, 249: 0, 250: 1, 499: 1, 500: 2, 749: 2, 750: 3, 999: 3}),
    # 1000 / 3 is no integer: floor(333 * 3 / 1000) = floor(0.999), floor(334 * 3 / 1000) = floor(1.002).
    (3, 1000, {333: 0, 334: 1, 666: 1, 667: 2}),
    (10, 100, {9: 0, 10: 1, 99: 9}),
    (1, 1000, {0: 0, 999: 0}),
    # Outside of the schedule: the first or the last group. Time steps need not be integers.
    (4, 1000, {-3: 0, 1000: 3, 4000: 3, 249.9: 0, 250.1: 1}),
]


@pytest.mark.parametrize(("groups", "train_timesteps", "expected"), CASES)
def test_groups_by_hand(groups, train_timesteps, expected):
    found = group_of(torch.tensor([float(t) for t in expected]), groups, train_timesteps)
    assert found.tolist() == list(expected.values())


@pytest.mark.parametrize("groups", [1, 2, 4, 10, 20])
def test_groups_equal_integer_arithmetic_at_every_training_step(groups):
    for train_timesteps in (50, 100, 1000):
        steps = torch.arange(train_timesteps)
        assert torch.equal(group_of(steps, groups, train_timesteps), steps * groups // train_timesteps)


def test_an_unseen_time_step_belongs_to_its_own_group_not_to_the_nearest_rows():
    clock = Clock(torch.tensor([0, 300, 600, 900]), 1, "t")
    provider = grouped(clock)
    with clock.at(torch.tensor(240)):
        row, interval = clock.row, provider.current()
    # The nearest recorded step is 300, of the second group; 240 is of the first.
    assert int(row) == 1 and interval.scale.tolist() == pytest.approx(0.1) and int(interval.zero_point) == 0
    # Of rows, only recorded steps are known.
    assert provider.at(row).scale.tolist() == pytest.approx(0.2)


def test_mixed_time_steps_get_an_interval_each():
    class Net(nn.Module):
        def forward(self, x, t):
            return x

    clock, net = Clock(torch.tensor([0, 300, 600, 900]), 1, "t"), Net()
    clock.attach(net)
    net(torch.zeros(3), torch.tensor([999, 10, 510]))
    interval = grouped(clock)(torch.zeros(6, 2))
    assert interval.scale.flatten().tolist() == pytest.approx([0.4, 0.4, 0.1, 0.1, 0.3, 0.3])
    assert interval.zero_point.flatten().tolist() == [3, 3, 0, 0, 2, 2]


def test_a_group_needs_a_time_step():
    with pytest.raises(TempoquantError, match="before the denoiser was called"):
        grouped(Clock(torch.tensor([0, 1]), 1, "t")).current()
