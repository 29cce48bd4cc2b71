"""Grids of groups of weights, against numbers worked out by hand and rounding in float64."""

import pytest
import torch

from tempoquant.numerics import nearest, over_rows, weight_qparams


def test_grids_by_hand():
    weight = torch.tensor([[0.0, 3.0, -10.0, 20.0], [-1.0, 2.0, 0.0, 0.75]])
    grid = weight_qparams(weight, 2, False, "minmax", groups=2)
    assert grid.scale.tolist() == [[1.0, 10.0], [1.0, 0.25]]
    assert grid.zero_point.tolist() == [[0, 1], [1, 0]]
    assert (grid.q_min, grid.q_max) == (0, 3)
    assert nearest(weight, grid).tolist() == [[0, 3, -1, 2], [-1, 2, 0, 3]]


@pytest.mark.parametrize("search", ["minmax", "mse"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_group_is_a_channel_of_its_own(search, symmetric):
    weight = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    grid = weight_qparams(weight, 4, symmetric, search, groups=2)
    alone = weight_qparams(weight.reshape(12, 6), 4, symmetric, search)
    assert torch.equal(grid.scale.view(12, 1), alone.scale) and torch.equal(
        grid.zero_point.view(12, 1), alone.zero_point
    )
    assert torch.equal(nearest(weight, grid).view(12, 6), nearest(weight.reshape(12, 6), alone))


def test_outlier_channels_widen_their_own_group_alone():
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    weight[:, 40] *= 30

    def error(groups):
        grid = weight_qparams(weight, 4, False, "minmax", groups)
        rounded = nearest(weight, grid).double() * over_rows(grid.scale, 128).double()
        return float((rounded - weight.double()).square().mean())

    assert error(4) < 0.4 * error(1)
