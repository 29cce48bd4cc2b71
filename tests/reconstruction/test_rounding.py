import pytest
import torch

from tempoquant.numerics import RowLayout
from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.randomness import rng
from tempoquant.reconstruction.effort import effort
from tempoquant.reconstruction.rounding import SoftRounding, beta_at, reconstruction_loss

WEIGHT = torch.randn(6, 3, 3, 3, generator=rng("rounding"))
LAYOUT = RowLayout(tuple(WEIGHT.shape))
BY_CHANNEL = weight_qparams(WEIGHT, 4, False, "minmax")
GRID = LAYOUT.grid(BY_CHANNEL)


def test_starts_at_the_weight_itself():
    inside = torch.clamp(WEIGHT, -GRID.zero_point * GRID.scale, (15 - GRID.zero_point) * GRID.scale)
    torch.testing.assert_close(SoftRounding(WEIGHT, GRID).weight().detach(), inside, rtol=1e-4, atol=1e-5)


def test_hard_rounding_at_the_start_is_rounding_to_nearest():
    fraction = (WEIGHT / GRID.scale).frac().abs()
    off_ties = (fraction - 0.5).abs() > 1e-3
    assert torch.equal(SoftRounding(WEIGHT, GRID).integers()[off_ties], nearest(WEIGHT, BY_CHANNEL)[off_ties])


def test_starts_at_given_integers_even_far_from_the_weight():
    start = nearest(WEIGHT, BY_CHANNEL)
    start.view(-1)[::7] += 2
    start = torch.clamp(start, -GRID.zero_point, 15 - GRID.zero_point)
    assert torch.equal(SoftRounding(WEIGHT, GRID, start).integers(), start)


def test_regularizer_schedule():
    assert beta_at(0, 100) is None and beta_at(19, 100) is None
    assert beta_at(20, 100) == pytest.approx(20)
    assert beta_at(60, 100) == pytest.approx(11)
    assert beta_at(100, 100) == pytest.approx(2)


def test_penalty_is_zero_only_for_decided_roundings():
    rounding = SoftRounding(WEIGHT, GRID)
    assert float(rounding.penalty(2.0).detach()) > 1
    rounding.alpha.data = torch.where(rounding.alpha > 0, 50.0, -50.0)
    assert float(rounding.penalty(2.0).detach()) == 0


def test_loss_sums_over_channels_and_averages_the_rest():
    assert float(reconstruction_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))) == 3
    assert float(reconstruction_loss(torch.full((5, 7), 2.0), torch.zeros(5, 7))) == 28


def test_paper_effort_has_the_papers_settings():
    paper = effort("paper")
    assert (paper.iterations, paper.batch, paper.lr, paper.compensate) == (20_000, 32, 1e-3, False)
    with pytest.raises(ValueError, match="unknown effort 'fest': did you mean fast"):
        effort("fest")
