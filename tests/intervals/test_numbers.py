"""Intervals in Python numbers: read once, and again when the tensors behind them change."""

import copy
from contextlib import ExitStack

import pytest
import torch

from tempoquant.intervals import Clock, ConstantInterval, ScalarQParams, SteppedInterval, TableInterval
from tempoquant.numerics import affine_qparams


def table():
    clock = Clock(torch.tensor([10.0, 20.0, 30.0]), 1, "t")
    grid = affine_qparams(torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([3.0, 1.0, 0.7]), 8)
    return TableInterval(grid, 8, clock, grid.scale * 1.5)


def test_a_table_gives_the_current_rows():
    provider = table()
    for row in (2, 0, 1):
        with provider.clock.at(provider.clock.timesteps[row]):
            assert provider.scalar_qparams() == ScalarQParams.of(provider.current())
            assert provider.scalar_qparams().output_scale == pytest.approx(1.5 * provider.scalar_qparams().scale)
    with provider.clock.at(provider.clock.timesteps[:2]):
        assert provider.scalar_qparams() is None


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("change", ["in place", "another tensor", "copy"])
def test_changed_tensors_are_read_again(change, stack):
    provider = table()
    stack.enter_context(provider.clock.at(provider.clock.timesteps[1]))
    before = provider.scalar_qparams()
    if change == "copy":
        provider = copy.deepcopy(provider)
    with torch.no_grad():
        if change == "another tensor":
            provider.scale = provider.scale * 2
        else:
            provider.scale.mul_(2)
    assert provider.scalar_qparams().scale == 2 * before.scale
    assert provider.scalar_qparams() == ScalarQParams.of(provider.current())


def test_constant_and_stepped_intervals_have_numbers_too():
    grid = affine_qparams(torch.tensor(-1.0), torch.tensor(3.0), 8)
    constant = ConstantInterval(grid, 8)
    assert constant.scalar_qparams() == ScalarQParams.of(constant.current())
    constant.scale.mul_(3)
    assert constant.scalar_qparams() == ScalarQParams.of(constant.current())
    clock = Clock(torch.tensor([10.0, 20.0]), 1, "t")
    stepped = SteppedInterval(torch.tensor([0.1, 0.2]), torch.zeros(2), torch.tensor([4, 8]), clock)
    with clock.at(10):
        assert stepped.scalar_qparams() == ScalarQParams(pytest.approx(0.1), 0.0, 0.0, 15.0, pytest.approx(0.1))


def test_tensors_of_inference_mode_which_tell_no_changes_are_read_each_time():
    with torch.inference_mode():
        constant = ConstantInterval(affine_qparams(torch.tensor(-1.0), torch.tensor(3.0), 8), 8)
        before = constant.scalar_qparams()
        constant.scale.mul_(2)
        assert constant.scalar_qparams().scale == 2 * before.scale
