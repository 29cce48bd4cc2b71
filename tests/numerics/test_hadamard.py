"""The regular Hadamard rotation against its definition, worked by hand and in float64."""

import pytest
import torch

from tempoquant.errors import InputError
from tempoquant.numerics import ROTATION_GROUPS, regular_hadamard, rotate


def test_the_4x4_matrix_by_hand():
    by_hand = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    assert torch.equal(regular_hadamard(4), by_hand)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    # (1 + 2 + 3 - 4) / 2, (1 + 2 - 3 + 4) / 2, (1 - 2 + 3 + 4) / 2, (-1 + 2 + 3 + 4) / 2.
    assert rotate(x, 4, 0).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert rotate(torch.tensor([8.0, 0, 0, 0]), 4, 0).tolist() == [4.0, 4.0, 4.0, -4.0]


@pytest.mark.parametrize("group", ROTATION_GROUPS)
def test_it_is_symmetric_orthogonal_and_regular(group):
    matrix = regular_hadamard(group).double()
    assert torch.equal(matrix, matrix.T) and torch.equal(matrix @ matrix, torch.eye(group, dtype=torch.float64))
    # Entries are +-1 / sqrt(G), and all rows have the sum 1: G is a power of four.
    assert torch.equal(matrix.abs(), torch.full((group, group), group**-0.5, dtype=torch.float64))
    assert torch.equal(matrix.sum(1), torch.ones(group, dtype=torch.float64))


@pytest.mark.parametrize(("shape", "axis"), [((3, 5, 32), -1), ((2, 32, 4, 3), 1)])
def test_groups_of_channels_turn_by_themselves(shape, axis):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned, matrix = rotate(x, 16, axis), regular_hadamard(16).double()
    assert turned.shape == x.shape
    blocks = torch.block_diag(matrix, matrix)
    torch.testing.assert_close(turned, torch.tensordot(x, blocks, ([axis], [0])).movedim(-1, axis))
    torch.testing.assert_close(rotate(turned, 16, axis), x)


def test_other_orders_are_refused():
    with pytest.raises(InputError, match="group = 32: a regular Hadamard matrix is made for"):
        regular_hadamard(32)
