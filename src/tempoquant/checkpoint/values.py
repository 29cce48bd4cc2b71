"""What the tensors of tables may hold: their dtypes, and values that an interval, a clock or a correction can have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from tempoquant.checkpoint.vectors import PREFIX
from tempoquant.errors import FormatError
from tempoquant.numerics import VALID_BITS

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Values:
    """The dtypes, dimensions and values that a stored tensor may have.

    Attributes:
        dtypes: that it may have.
        valid: elementwise, whether a value is valid.
        what: the valid values, in words.
        dims: how many dimensions it has; None: any.
    """

    dtypes: tuple[torch.dtype, ...]
    valid: Callable[[Tensor], Tensor]
    what: str
    dims: int | None = 1


def _anything(values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def _positive(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values > 0)


def _not_negative(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values >= 0)


def _ascending(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values.diff(prepend=values.new_tensor([-torch.inf])) > 0)


def _widths(values: Tensor) -> Tensor:
    return torch.isin(values, values.new_tensor(VALID_BITS))


FLOAT, BYTE = (torch.float32,), (torch.uint8,)
TABLES = {
    "vectors": Values(FLOAT, _anything, "anything"),
    "weight_scale": Values(FLOAT, _positive, "positive and finite"),
    "weight_zero": Values(BYTE, _anything, "anything"),
    "interval_scale": Values(FLOAT, _positive, "positive and finite"),
    "interval_zero": Values((torch.uint8, torch.int32), _not_negative, "0 or more"),
    "interval_scale_out": Values(FLOAT, _positive, "positive and finite"),
    "interval_widths": Values(BYTE, _widths, "2 to 8, or 16"),
    "interval_*": Values(FLOAT, torch.isfinite, "finite"),
    "networks": Values(FLOAT, torch.isfinite, "finite"),
    "timesteps": Values(FLOAT, _ascending, "finite, each greater than the one before it"),
    "features": Values((torch.float16, torch.uint8), torch.isfinite, "finite"),
    "feature_scale": Values(FLOAT, _positive, "positive and finite"),
    "feature_zero": Values(BYTE, _anything, "anything"),
    "correction_gain": Values(FLOAT, torch.isfinite, "finite", None),
    "correction_bias": Values(FLOAT, torch.isfinite, "finite", None),
    "correction_variance": Values(FLOAT, _not_negative, "finite, and not negative", None),
    "condition.*": Values((*FLOATS, *INTEGERS), torch.isfinite, "finite", None),
}
"""By name, or pattern of names, after ``tempoquant.``; others, of later versions, are not read."""


def check_tables(tensors: Mapping[str, Tensor]) -> None:
    """Raise FormatError if a tensor of the tables has another dtype or number of dimensions, or an impossible value."""
    for name, tensor in tensors.items():
        key = name.removeprefix(PREFIX)
        pattern = next((p for p in TABLES if name.startswith(PREFIX) and fnmatchcase(key, p)), None)
        if pattern is not None:
            _check(name, tensor, TABLES[pattern])


def _check(name: str, tensor: Tensor, values: Values) -> None:
    if tensor.dtype not in values.dtypes or values.dims not in (None, tensor.dim()):
        dtypes = " or ".join(str(dtype).removeprefix("torch.") for dtype in values.dtypes)
        actual = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
        needed = dtypes if values.dims is None else f"{dtypes} of {values.dims} dimensions"
        raise FormatError(f"the tensor {name!r} is {actual}: {needed} is needed")
    wrong = (~values.valid(tensor)).nonzero()
    if len(wrong):
        place = wrong[0].tolist()
        value = tensor[tuple(place)].item()
        raise FormatError(f"the tensor {name!r} holds {value:g} at {place}: it must be {values.what}")
