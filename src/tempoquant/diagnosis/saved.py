"""Validation of a saved diagnosis, on which reports and figures rely: its JSON entries, and its tensors' shapes."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from tempoquant.errors import FormatError
from tempoquant.recipe import refused

LARGEST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Plain = str | int | float | bool | None
FLOATS = (torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)
SHAPES: dict[str, tuple[str, tuple[torch.dtype, ...]]] = {
    "timesteps": ("K", FLOATS + INTEGERS),
    "rows": ("R", FLOATS + INTEGERS),
    "feature_cosine": ("PK", FLOATS),
    "feature_error": ("PK", FLOATS),
    "nearest": ("PR", (torch.int64,)),
    "unit_cosine": ("UK", FLOATS),
    "unit_sqnr": ("UK", FLOATS),
    "noise_sqnr": ("K", FLOATS),
    "activations": ("LK7", FLOATS),
    "intervals": ("LK2", FLOATS),
    "deviations": ("3K", FLOATS),
    "psnr": ("N", FLOATS),
    "ssim": ("N", FLOATS),
    "full_images": ("NHWC", (torch.uint8,)),
    "images": ("NHWC", (torch.uint8,)),
    "full_frames": ("FSHWC", (torch.uint8,)),
    "frames": ("FSHWC", (torch.uint8,)),
    "frame_steps": ("F", (torch.int64,)),
}
"""Tensor -> its dimensions, a letter each as in :class:`~tempoquant.Diagnosis` or a digit, and its dtypes."""
FINITE = ("timesteps", "rows")
BOUNDED = ("activations", "intervals", "deviations")
"""Tensors without infinity; NaN stands for what was not measured."""


class StrictEntries(BaseModel):
    """Base of models of JSON data: exact types (no coercion), no NaN; unknown entries are allowed."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Size(StrictEntries):
    total: Count
    ratio: Positive


class _Width(StrictEntries):
    bits: Count


class _Recipe(StrictEntries):
    weights: _Width
    activations: _Width


class _Quantized(StrictEntries):
    name: str
    recipe: _Recipe | None
    size: _Size | None
    files: dict[str, str] = {}


class _Reference(StrictEntries):
    name: str
    hash: str
    bytes: Count


class _Schedule(StrictEntries):
    steps: Count
    sampler: str | None
    eta: float
    seed: Annotated[int, Field(ge=-LARGEST, le=LARGEST)]


class _Conditioning(StrictEntries):
    prompt: str | list[str] = []
    class_labels: Plain | list[Plain] = None
    guidance_scale: float = 1.0


class _Options(StrictEntries):
    reference: str = ""
    __pydantic_extra__: dict[str, Plain | list[str]] = Field(init=False)


class _Facts(StrictEntries):
    quantized: _Quantized
    reference: _Reference
    samples: Annotated[int, Field(ge=1, le=LARGEST)]
    ranking_samples: Count
    schedule: _Schedule
    options: _Options = _Options()
    conditioning: _Conditioning = _Conditioning()
    temporal_layers: list[str]
    speed: Positive
    data_range: Positive = 2.0
    versions: dict[str, Plain]
    machine: dict[str, Plain]


class _Cost(StrictEntries):
    model_config = ConfigDict(extra="forbid")
    name: str
    error: Annotated[float, Field(ge=0)]
    share: Annotated[float, Field(ge=0, le=1)]


class Entries(StrictEntries):
    """The entries of ``diagnosis.json`` that reports and figures read; unknown ones are allowed."""

    facts: _Facts
    projections: list[str]
    units: list[str]
    layers: list[str]
    culprits: list[_Cost]
    step_ranges: list[_Cost]
    policy: list[dict[str, Any]]

    @model_validator(mode="after")
    def _are_ranked_together(self) -> "Entries":
        if self.culprits and not self.step_ranges:
            raise ValueError("culprits are not empty and step_ranges are: both or neither are needed")
        return self


def check_entries(entries: Mapping[str, Any], where: str) -> None:
    """Check that entries of ``diagnosis.json`` are complete and of the right types.

    Args:
        entries: the file's content, without format version and hash.
        where: names the file in the message.

    Raises:
        FormatError: an entry is missing or not valid.
    """
    try:
        Entries.model_validate(entries)
        # Half of a surrogate pair, which JSON can name, cannot be written into a page.
        json.dumps(entries, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{where}: {error.object[error.start : error.end]!a} is no character") from None
    except ValidationError as error:
        raise FormatError(str(refused(error, Entries, where))) from None


def check_tensors(tensors: Mapping[str, Tensor], entries: Mapping[str, Any], where: str) -> None:
    """Check that tensors have the shapes and dtypes of ``SHAPES``, sizes that fit the entries, and valid values.

    Args:
        tensors: by name.
        entries: that :func:`check_entries` has checked.
        where: names the file in the message.

    Raises:
        FormatError: a tensor is missing, unknown or not valid.
    """
    if tensors.keys() != SHAPES.keys():
        name = min(tensors.keys() ^ SHAPES.keys())
        raise FormatError(f"{where}: tensor {name} is {'unknown' if name in tensors else 'missing'}")
    sizes = {letter: len(entries[n]) for letter, n in (("P", "projections"), ("U", "units"), ("L", "layers"))}
    sizes |= {"N": entries["facts"]["samples"], **{digit: int(digit) for digit in "237"}}
    for name, (shape, dtypes) in SHAPES.items():
        tensor = tensors[name]
        if tensor.dtype not in dtypes:
            raise FormatError(f"{where}: {name} is {tensor.dtype}: {' or '.join(map(str, dtypes))} is needed")
        # The first tensor with a dimension decides its size; the entries alone may be none.
        by_letter = dict(zip(shape, tensor.shape, strict=False))
        sizes = {letter: max(size, 1) for letter, size in by_letter.items()} | sizes
        expected = tuple(sizes.get(letter, 1) for letter in shape)
        if tuple(tensor.shape) != expected:
            raise FormatError(f"{where}: {name} is {tuple(tensor.shape)}: {expected} is needed")
    _check_values(tensors, where)


def _check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    sizes = {"nearest": len(tensors["rows"]), "frame_steps": len(tensors["timesteps"])}
    for name, size in sizes.items():
        if not bool(((tensors[name] >= 0) & (tensors[name] < size)).all()):
            raise FormatError(f"{where}: {name} holds values outside 0 to {size - 1}")
    invalid = [name for name in FINITE if not bool(tensors[name].isfinite().all())]
    invalid += [name for name in BOUNDED if bool(tensors[name].isinf().any())]
    invalid += ["psnr"] if bool(tensors["psnr"].isnan().any()) else []
    if invalid:
        raise FormatError(f"{where}: {invalid[0]} holds NaN or infinity")
