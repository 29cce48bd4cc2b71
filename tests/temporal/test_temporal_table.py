import pytest
import torch

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.numerics import affine_qparams
from tempoquant.temporal.table import TemporalTable, has_tables

STEPS = torch.tensor([10.0, 20.0, 40.0])


def clock() -> Clock:
    return Clock(STEPS, 1, "timestep")


def features() -> torch.Tensor:
    return torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.01], [1.0], [30.0]])


def test_float16_is_rounded_once():
    table = TemporalTable.of(features(), "float16", clock())
    assert table.storage == "float16" and table.values.dtype == torch.float16
    assert torch.equal(table.at(torch.arange(3)), features().half().float())


def test_int8_is_within_half_a_step_of_each_rows_own_range():
    table = TemporalTable.of(features(), "int8", clock())
    assert table.storage == "int8" and table.values.dtype == torch.uint8
    width = features().amax(1) - features().amin(1)
    torch.testing.assert_close(table.scale, width / 255)
    error = (table.at(torch.arange(3)) - features()).abs().amax(1)
    assert (error <= 0.5001 * width / 255).all() and (error > 0.4 * width / 255).all()


def test_hand_worked_integers():
    # Row 0 spans -1 to 4.1: step 0.02, zero point 50; row 1 zero to 255.
    table = TemporalTable.of(torch.tensor([[-1.0, 4.1, 0.513], [255.0, 3.4, 0.0], [0.0, 0.0, 0.0]]), "int8", clock())
    assert table.values.tolist() == [[0, 255, 76], [255, 3, 0], [0, 0, 0]]
    expected = torch.tensor([[-1.0, 4.1, 0.52], [255.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(table.at(torch.arange(3)), expected)


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_every_item_gets_its_own_row_and_an_unseen_step_the_nearest(storage):
    found = clock()
    table = TemporalTable.of(features().view(3, 10, 5), storage, found)
    with found.at(torch.tensor([40, 10, 24, 31])):
        assert torch.equal(table(4), table.at(torch.tensor([2, 0, 1, 2])))
    with found.at(20):
        assert table(3).shape == (3, 10, 5) and torch.equal(table(3), table.at(torch.tensor([1, 1, 1])))


def test_what_does_not_fit_is_said():
    with pytest.raises(TempoquantError, match="2 time steps do not fit a clock of 3 rows"):
        TemporalTable(torch.zeros(2, 4), clock())
    with pytest.raises(TempoquantError, match=r"feature of 1e\+06 does not fit float16"):
        TemporalTable.of(torch.full((3, 1), 1e6), "float16", clock())
    table = TemporalTable.of(features(), "float16", clock())
    with pytest.raises(TempoquantError, match="before the denoiser was called"):
        table(1)
    error = pytest.raises(TempoquantError, match="2 time steps cannot be spread over 3 temporal features")
    with table.clock.at(table.clock.timesteps[:2]), error:
        table(3)


def test_what_has_a_row_a_time_step():
    grid = affine_qparams(-torch.ones(3), torch.ones(3), 8)
    assert has_tables(TableInterval(grid, 8, clock()))
    assert has_tables(TemporalTable.of(features(), "int8", clock()))
    assert not has_tables(ConstantInterval(affine_qparams(-torch.ones(()), torch.ones(()), 8), 8))
