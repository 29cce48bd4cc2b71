"""Grouped rotation by the regular Hadamard matrix (ConvRot): spreads a channel's outliers over its group."""

import math
from functools import cache

import torch
from torch import Tensor

from tempoquant.errors import InputError

ROTATION_GROUPS = (4, 16, 64, 256)
"""Powers of four: only of these orders are Kronecker powers of the regular 4x4 matrix."""
REGULAR_4 = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))


def regular_hadamard(group: int) -> Tensor:
    """The normalized Kronecker power of the regular 4x4 Hadamard matrix: (group, group) float32 on the processor.

    It is symmetric and orthogonal, so its own inverse, and all its rows have one sum: a constant input does not gather
    in one channel, as it does with Sylvester's matrix. Entries are ``+-1 / sqrt(group)``, exact in float32.

    Args:
        group: 4, 16, 64 or 256.

    Raises:
        InputError: another ``group``.
    """
    if group not in ROTATION_GROUPS:
        raise InputError(f"group = {group}: a regular Hadamard matrix is made for {ROTATION_GROUPS}")
    matrix = torch.ones(1, 1)
    for _ in range(round(math.log(group, 4))):
        matrix = torch.kron(matrix, torch.tensor(REGULAR_4, dtype=torch.float32) / 2)
    return matrix


@cache
def _matrix(group: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Not a tensor of inference mode: it outlives the call that needs it first.
    with torch.inference_mode(False):
        return regular_hadamard(group).to(device, dtype)


def rotate(x: Tensor, group: int, axis: int) -> Tensor:
    """Multiplies every group of consecutive channels by the regular Hadamard matrix; twice is the identity.

    Args:
        x: floating point, any shape.
        group: see :func:`regular_hadamard`; divides the size of ``axis``.
        axis: of the channels.

    Returns:
        x's shape and dtype.
    """
    grouped = x.movedim(axis, -1).unflatten(-1, (-1, group))
    return torch.matmul(grouped, _matrix(group, x.dtype, x.device)).flatten(-2).movedim(-1, axis)
