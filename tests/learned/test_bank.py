"""Intervals that networks of a bank give: one for every item of a batch, and the tables that they fold into."""

import pytest
import torch

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.layers import QuantLinear, Site
from tempoquant.learned import ARCHITECTURES, SCHEMES, Bank, Draws, LearnedInterval, fold_intervals
from tempoquant.learned.networks import IntervalNetworks
from tempoquant.numerics import QParams

SCALES, ZEROS = torch.tensor([1e-4, 0.02, 0.5]), torch.tensor([0, 7, 30])
CLOCK = Clock(torch.tensor([0, 10, 400, 999]), 1, "t")


def bank_of_step_sizes(name="tdq"):
    """Networks of step sizes beside fixed zero points, as calibration after training learns them."""
    start = [ConstantInterval(QParams(s, z, 0, 255), 8) for s, z in zip(SCALES, ZEROS, strict=True)]
    bank = Bank(start, SCHEMES["lsq"], ARCHITECTURES[name], 1000, Draws(), ("test",))
    bank.fix_zero_points()
    return bank, [LearnedInterval(provider, bank, i, CLOCK) for i, provider in enumerate(start)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_step_sizes_are_the_networks_and_zero_points_the_calibrated(name):
    _, intervals = bank_of_step_sizes(name)
    networks = IntervalNetworks(SCALES, ARCHITECTURES[name], 1000, ("test",))
    rows = torch.arange(4)
    for i, interval in enumerate(intervals):
        found = interval.at(rows)
        assert torch.equal(found.scale, networks(CLOCK.timesteps)[i]) and found.output_scale is found.scale
        # A zero point that follows an offset would move where the step size does.
        assert float(found.zero_point) == float(ZEROS[i])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folds_into_the_table_of_the_same_bits(name):
    bank, intervals = bank_of_step_sizes(name)
    ours = intervals[1]
    table = ours.fold(bank.at_rows(CLOCK))
    rows = torch.arange(4)
    for a, b in zip(vars(ours.at(rows)).values(), vars(table.at(rows)).values(), strict=True):
        assert torch.equal(a.expand(4), b.expand(4))
    assert table.scale.unique().numel() == 4 and table.bits == 8 and table.zero_point.tolist() == [7] * 4
    assert not table.scale.requires_grad and list(table.children()) == []


def test_gives_what_its_bank_was_set_to_one_for_every_item():
    bank, intervals = bank_of_step_sizes()
    with pytest.raises(TempoquantError, match="before its bank"):
        intervals[1].current()
    bank.set(torch.tensor([999, 0, 0]))
    assert intervals[1].current().scale.shape == (3,) and intervals[1].current().scale.requires_grad
    table = intervals[1].fold(bank.at_rows(CLOCK))
    torch.testing.assert_close(intervals[1].current().scale, table.scale[[3, 0, 0]])


def test_dropout_acts_while_there_are_random_numbers():
    bank, _ = bank_of_step_sizes()
    plain = bank(torch.arange(8))
    bank.draws.now = torch.Generator().manual_seed(0)
    assert not torch.equal(bank(torch.arange(8)), plain)
    bank.draws.now = None
    assert torch.equal(bank(torch.arange(8)), plain)


@pytest.mark.parametrize("keep", [True, False])
def test_all_sites_fold_and_keep_their_networks_if_they_are_to(keep):
    bank, intervals = bank_of_step_sizes()
    layers = [QuantLinear(2, 2) for _ in intervals]
    for layer, interval in zip(layers, intervals, strict=True):
        layer.input_interval = interval
    sites = [Site(str(i), layer, "input_interval") for i, layer in enumerate(layers)]
    fold_intervals(sites, bank, CLOCK, keep)
    tables = [layer.input_interval for layer in layers]
    assert all(isinstance(table, TableInterval) for table in tables)
    assert [table.number for table in tables] == ([0, 1, 2] if keep else [table.number for table in tables])
    kept = {table.networks for table in tables}
    assert len(kept) == 1 and (None not in kept) == keep
    if keep:
        (networks,) = kept
        assert networks.form["scheme"] == "lsq" and networks.form["train_timesteps"] == 1000
        # Another reader finds zero points that never move.
        assert not networks.tensors["moves"].any() and networks.tensors["zero"].tolist() == ZEROS.tolist()
