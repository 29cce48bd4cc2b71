"""Integers of 2 to 8 bits in bytes: a dense bit stream, little end first, so that two 4-bit values fill a byte."""

import torch
from torch import Tensor

from tempoquant.errors import FormatError, InputError


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` values of ``bits`` bits take."""
    return (count * bits + 7) // 8


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack unsigned integers into a uint8 vector of ``packed_size(values.numel(), bits)`` bytes.

    Value i occupies bits ``[i b, (i + 1) b)`` of the stream; bit k of the stream is bit k % 8 of byte k // 8.
    16-bit values are stored as two bytes, little end first.

    Args:
        values: integers in ``[0, 2^bits - 1]``, any shape; flattened in row-major order.

    Raises:
        InputError: a value is outside the range.
    """
    flat = values.flatten().to(torch.int32)
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= 2**bits):
        raise InputError(f"values from {int(flat.min())} to {int(flat.max())} do not fit {bits} unsigned bits")
    if bits == 8:
        return flat.to(torch.uint8)
    if bits == 4:
        even = torch.cat([flat, flat.new_zeros(flat.numel() % 2)]).view(-1, 2)
        return (even[:, 0] | (even[:, 1] << 4)).to(torch.uint8)
    shifts = torch.arange(bits, dtype=torch.int32, device=flat.device)
    stream = ((flat[:, None] >> shifts) & 1).flatten()
    stream = torch.cat([stream, stream.new_zeros(-stream.numel() % 8)]).view(-1, 8)
    weights = 1 << torch.arange(8, dtype=torch.int32, device=flat.device)
    return (stream * weights).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of :func:`pack` up to 8 bits: uint8 vector of ``count`` values.

    Raises:
        FormatError: the vector has not the length that ``count`` values need.
    """
    if packed.numel() != packed_size(count, bits):
        raise FormatError(
            f"{packed.numel()} packed bytes where {count} values of {bits} bits need {packed_size(count, bits)}"
        )
    if bits == 8:
        return packed
    if bits == 4:
        return torch.stack([packed & 15, packed >> 4], dim=1).flatten()[:count]
    # In bytes: loading must not take several times the memory of what is loaded.
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    stream = ((packed[:, None] >> shifts) & 1).flatten()[: count * bits].view(count, bits)
    return (stream << shifts[:bits]).sum(1, dtype=torch.uint8)
