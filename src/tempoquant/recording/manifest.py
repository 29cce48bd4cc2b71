"""The manifest of a recording: what decides which files are opened, and how they are read."""

import json
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from tempoquant.documents import read_json
from tempoquant.errors import FormatError
from tempoquant.files import write_whole

FORMAT_VERSION = 2
"""2: conditions without a batch."""
MANIFEST = "manifest.json"


class Entry(BaseModel):
    """What a manifest says of one conditioning tensor; one without a batch is stored once, as one row."""

    name: str
    file: str
    dtype: str
    shape: list[NonNegativeInt]
    stored: list[NonNegativeInt] = Field(min_length=3, max_length=3)
    batched: bool = True

    @model_validator(mode="after")
    def _is_consistent(self) -> "Entry":
        kind = getattr(torch, self.dtype, None)
        if not isinstance(kind, torch.dtype):
            raise ValueError(f"{self.dtype!r} is no dtype")
        if prod(self.shape) * kind.itemsize != self.stored[2]:
            raise ValueError(f"rows of {self.stored[2]} bytes are not {self.shape} {self.dtype}")
        return self


class Request(BaseModel, strict=True):
    """What a manifest says of the recording's size."""

    samples: PositiveInt
    batch_size: PositiveInt
    dtype: Literal["float16", "float32"]
    sample_shape: list[PositiveInt] = Field(min_length=1)


class Manifest(BaseModel, strict=True):
    """The entries of a manifest that decide which files are opened, and how they are read.

    Those after ``done`` are there once the first batch was begun.
    """

    request: Request
    batches: PositiveInt
    done: NonNegativeInt
    branches: PositiveInt = 1
    timestep_dtype: Literal["int64", "int32", "float64", "float32", "float16", "bfloat16"] = "float32"
    conditioning: list[Entry] = Field(default_factory=list)
    constants: dict[str, bool | int | float | str] = Field(default_factory=dict)
    timesteps: list[FiniteFloat | int] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_consistent(self) -> "Manifest":
        if self.batches != -(-self.request.samples // self.request.batch_size) or self.done > self.batches:
            raise ValueError(f"{self.done} of {self.batches} batches do not fit {self.request.samples} samples")
        if self.done and not self.timesteps:
            raise ValueError("timesteps are missing")
        for number, entry in enumerate(self.conditioning):
            if entry.file != conditioning_file(number):
                raise ValueError(f"{entry.file!r} is not {conditioning_file(number)!r}")
            rows = [self.request.samples, self.branches] if entry.batched else [1, 1]
            if entry.stored[:2] != rows:
                raise ValueError(f"{entry.name!r} has {entry.stored[:2]} rows")
        return self


def conditioning_file(number: int) -> str:
    """The file of a recording's ``number``-th conditioning tensor."""
    return f"conditioning.{number}.bin"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a recording, finished or not; FormatError if there is none that this version reads."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FormatError(f"{folder} is not a recording: it has no {MANIFEST}")
    try:
        manifest = read_json(path)
        version = int(manifest["format"])
    except (FormatError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is not a recording's manifest") from error
    if version > FORMAT_VERSION:
        raise FormatError(f"{folder} has recording format {version}; this version reads up to {FORMAT_VERSION}")
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"])) or "its entries"
        raise FormatError(f"{path} is damaged: {place}: {found['msg']}; delete the folder to record again") from None
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace the manifest in one step, so that a killed process leaves the old one or the new one."""
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
