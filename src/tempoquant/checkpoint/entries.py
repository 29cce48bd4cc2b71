"""The schema of a ``quantization_config``, validated before anything is built from it."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from tempoquant.errors import FormatError, unknown
from tempoquant.extension import PROVIDERS
from tempoquant.methods import load_plugins
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
    """A quantized layer.

    ``input`` is the place of its input's interval in the list of intervals, ``group_size`` how many input channels
    share a scale of its weight (all of an output channel, if it is absent).
    """

    bits: Annotated[int, AfterValidator(check_bits)]
    symmetric: bool
    input: Count | None
    group_size: Size | None = None


class StandInEntry(Entry):
    """The replacement of a temporal layer: the storage of its cached features, or None for a dead layer."""

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
    intervals: list[dict[str, Any]]
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
    """Validate a ``quantization_config``.

    Raises:
        FormatError: names the first entry that is not valid.
    """
    try:
        Entries.model_validate(dict(config))
    except ValidationError as error:
        raise FormatError(str(refused(error, Entries, "quantization_config"))) from None
    for i, entry in enumerate(config["intervals"]):
        _check_interval(f"quantization_config: intervals.{i}", entry)


def _check_interval(where: str, entry: Mapping[str, Any]) -> None:
    """Raise FormatError unless ``entry`` has the form of its kind of provider."""
    kind = entry.get("kind")
    if kind not in PROVIDERS:
        load_plugins()
    if kind not in PROVIDERS:
        raise FormatError(
            f"{where}.kind: {unknown('kind of interval', str(kind), PROVIDERS)} (a kind of your own is "
            "known once the module that registers it is imported)"
        )
    form = PROVIDERS[kind].form
    try:
        form.model_validate(entry)
    except ValidationError as error:
        raise FormatError(str(refused(error, form, where))) from None
