"""What a ``quantization_config`` holds, checked entry by entry before anything is built from it."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from tempoquant.errors import FormatError
from tempoquant.numerics import VALID_BITS
from tempoquant.recipe import check_bits, refused

LARGEST_FEATURE = 2**24
"""Numbers in one item's output of a layer that a table stands for."""

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class Entry(BaseModel):
    """Base of all entries: unknown keys are refused, and numbers of another type are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TimeArgumentEntry(Entry):
    """Where the module's forward takes the time step."""

    position: Count | None
    name: str


class LayerEntry(Entry):
    """A quantized layer; ``input`` is the place of its input's interval in the list of intervals."""

    bits: Annotated[int, AfterValidator(check_bits)]
    symmetric: bool
    input: Count | None


class IntervalEntry(Entry):
    """An interval; its scales and zero points are tensors. ``groups`` and ``train_timesteps`` are of kind groups."""

    kind: Literal["constant", "table", "groups", "stepped"]
    bits: int
    scale_out: bool = False
    groups: Size | None = None
    train_timesteps: Size | None = None

    @model_validator(mode="after")
    def _complete(self) -> "IntervalEntry":
        if self.bits not in VALID_BITS:
            raise ValueError(f"bits = {self.bits} is not supported: valid are 2 to 8, and 16")
        if (self.kind == "groups") != (self.groups is not None) or (self.groups is None) != (
            self.train_timesteps is None
        ):
            raise ValueError("groups and train_timesteps are needed for kind 'groups', and for it alone")
        return self


class StandInEntry(Entry):
    """What stands in the place of a temporal layer: how its features are stored, or None if it is never read."""

    storage: Literal["float16", "int8"] | None
    shape: list[Size]
    parameters: Count

    @model_validator(mode="after")
    def _moderate(self) -> "StandInEntry":
        if prod(self.shape) > LARGEST_FEATURE:
            raise ValueError(f"a feature of {prod(self.shape)} numbers: at most {LARGEST_FEATURE}")
        return self


class AttentionEntry(Entry):
    """An attention product."""

    owner: str
    index: Count
    kind: Literal["sdpa", "explicit"]
    calls: list[Count] = Field(min_length=2, max_length=2)
    flipped: bool = False


class NetworksEntry(Entry):
    """Interval networks: names and shapes of their tensors, and (number, interval) of each of their tables.

    Their form is checked when they are needed: tables do without.
    """

    form: dict[str, Any]
    tensors: list[Annotated[tuple[str, list[Count]], Strict(False)]]
    tables: list[Annotated[tuple[Count, Count], Strict(False)]]


class TransformEntry(BaseModel):
    """A transform of one layer; the fields of each kind are checked where it is made."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Count]

    layer: str
    kind: str


class Entries(BaseModel):
    """The ``quantization_config`` but for its recipe; entries of later versions that are not known here pass."""

    model_config = ConfigDict(strict=True)

    time_argument: TimeArgumentEntry
    shared: list[str]
    projections: list[str]
    intervals: list[IntervalEntry]
    layers: dict[str, LayerEntry]
    attention: list[AttentionEntry]
    operands: dict[str, dict[Literal["q", "k", "v", "p"], Count]]
    splits: dict[str, int] = {}
    transforms: list[TransformEntry] = []
    stand_ins: dict[str, StandInEntry] = {}
    networks: list[NetworksEntry] = []
    conditions: list[str] = []
    frozen: bool = False
    layout: str | None = None
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _of_its_intervals(self) -> "Entries":
        wrong = next(((where, i) for where, i in self._references() if i >= len(self.intervals)), None)
        if wrong is not None:
            raise ValueError(f"{wrong[0]} = {wrong[1]}: there are {len(self.intervals)} intervals")
        return self

    def _references(self) -> Iterator[tuple[str, int]]:
        """Every place of an interval that is named, and where."""
        for name, layer in self.layers.items():
            if layer.input is not None:
                yield f"layers.{name}.input", layer.input
        for name, operands in self.operands.items():
            yield from ((f"operands.{name}.{operand}", i) for operand, i in operands.items())
        for networks in self.networks:
            yield from (("networks.tables", i) for _, i in networks.tables)


def check_entries(config: Mapping[str, Any]) -> None:
    """Raise FormatError unless ``config``, a ``quantization_config``, holds what one holds."""
    try:
        Entries.model_validate(dict(config))
    except ValidationError as error:
        raise FormatError(str(refused(error, Entries, "quantization_config"))) from None
