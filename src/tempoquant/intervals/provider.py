"""What gives an activation its quantization parameters: the contract of providers, and the registry of their kinds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import Tensor

from tempoquant.errors import FormatError, InputError
from tempoquant.extension import PROVIDERS
from tempoquant.intervals.clock import Clock
from tempoquant.intervals.gradients import fake_quantize
from tempoquant.intervals.precision import KeepsPrecision
from tempoquant.numerics import VALID_BITS, Granularity, PerTensor, QParams, QuantSpec, Registered, grid

ReadTensor = Callable[[str, int], Tensor]
"""``read(name, count)``: the next ``count`` values of a provider's tensor from a folder, (count,)."""


class ScalarQParams(NamedTuple):
    """A :class:`~tempoquant.numerics.QParams` of shape () as Python numbers."""

    scale: float
    zero_point: float
    q_min: float
    q_max: float
    output_scale: float

    @classmethod
    def of(cls, qparams: QParams) -> "ScalarQParams":
        """Those of parameters whose fields have shape ()."""
        ends = float(qparams.q_min), float(qparams.q_max)
        return cls(float(qparams.scale), float(qparams.zero_point), *ends, float(qparams.output_scale))


def _check_bits(bits: int) -> int:
    if bits not in VALID_BITS:
        raise ValueError(f"bits = {bits} is not supported: valid are 2 to 8, and 16")
    return bits


class Form(BaseModel):
    """A provider's entry in a ``quantization_config``; kinds with further fields subclass it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str
    bits: Annotated[int, AfterValidator(_check_bits)]


@dataclass(frozen=True)
class ObservedActivation:
    """What calibration has found out about one activation.

    Attributes:
        spec: how it is to be quantized.
        clock: whose rows are the observed time steps.
        train_timesteps: T, the length of the training schedule.
        qparams: ``qparams(groups, count)``: scale and zero point of each of ``count`` groups of rows, on an unsigned
            grid, (count,), or (count, P) per token; ``groups`` has the group of every row.
    """

    spec: QuantSpec
    clock: Clock
    train_timesteps: int
    qparams: Callable[[Sequence[int], int], QParams]


class IntervalProvider(KeepsPrecision):
    """Gives an input's quantization parameters at the clock's current time step: ``provider(x) -> QParams``.

    A kind is a subclass in a file of its own. It implements :meth:`at`, a pure function of the row (or, where scales
    come from the input, :meth:`forward`), and is registered with its form on disk by :func:`register_provider`.

    Args:
        bits: width that reports show.
        q_min, q_max: the integer grid's ends.

    Attributes:
        kind: its name on disk; None: it has no form there.
        form: the model of its entry.
        granularity: what shares a scale.
        dynamic: whether scales are computed from the input.
        by_row: whether it has an entry for every row of its clock, and so is of one schedule.
        keeps_networks: whether it can refer to the networks that made it (``networks``, ``number``).
        span: no integer of the grid is further from its zero point, at any time step; read once, not at every call.
    """

    kind: ClassVar[str | None] = None
    form: ClassVar[type[Form]] = Form
    granularity: Granularity = PerTensor()
    dynamic: bool = False
    by_row: bool = False
    keeps_networks: ClassVar[bool] = False
    q_min: Tensor
    q_max: Tensor
    _cached_scalars: "tuple[list[Tensor], list[int], list[ScalarQParams]] | None" = None

    def __init__(self, bits: int, q_min: int, q_max: int):
        super().__init__()
        self.bits = bits
        self.span = float(q_max - q_min)
        self.register_buffer("q_min", torch.tensor(float(q_min)), persistent=False)
        self.register_buffer("q_max", torch.tensor(float(q_max)), persistent=False)

    def at(self, row: Tensor | None) -> QParams:
        """The parameters of ``row``, int64 of shape () or (B,); their fields have shape () or (B,), or (..., P)."""
        raise NotImplementedError(f"{type(self).__name__} must define at(row)")

    def current(self) -> QParams:
        """The parameters at the current time step, before they are shaped for an input.

        Raises:
            TempoquantError: there is no current time step, or scales are computed from the input.
        """
        return self.at(None)

    def forward(self, x: Tensor) -> QParams:
        """The parameters at the current time step, shaped to broadcast against ``x``, (B, ...) or (k B, ...)."""
        return self.current().over(x)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """``x`` quantized at the current time step, float32 of its shape, with gradients for whatever learns."""
        return fake_quantize(x, self(x))

    def scalar_qparams(self) -> ScalarQParams | None:
        """The current parameters in Python numbers; None where there is more than one scale."""
        if self.dynamic:
            return None
        qparams = self.current()
        return ScalarQParams.of(qparams) if qparams.scale.dim() == 0 else None

    @classmethod
    def serves(cls, spec: QuantSpec) -> bool:
        """Whether this kind is what a spec asks for: one of a user's own is asked for by its name."""
        return spec.schedule == Registered(cls.kind or "")

    @classmethod
    def from_observed(cls, observed: ObservedActivation) -> "IntervalProvider":
        """The provider of an activation that calibration has observed."""
        raise NotImplementedError(f"{cls.__name__} must define from_observed")

    def to_entry(self) -> dict[str, Any]:
        """Its entry in a ``quantization_config``: plain JSON data, what :attr:`form` describes.

        Raises:
            FormatError: its kind has no form on disk.
        """
        if self.kind is None:
            raise FormatError(f"a {type(self).__name__} has no form on disk")
        return {"kind": self.kind, "bits": self.bits}

    def tensors(self) -> dict[str, Tensor]:
        """What a folder stores beside the entry, as ``tempoquant.interval_<name>``: float32 but for zero points."""
        return {}

    @classmethod
    def from_entry(cls, form: Any, read: ReadTensor, clock: Clock) -> "IntervalProvider":
        """The inverse of :meth:`to_entry` and :meth:`tensors`.

        Raises:
            FormatError: a tensor is missing, too short, or does not fit the entry.
        """
        raise NotImplementedError(f"{cls.__name__} must define from_entry")

    def _scalars_by_row(self) -> list[ScalarQParams]:
        """The parameters of all rows, read off their buffers once while these stay as they are."""
        buffers = [buffer for buffer in self._buffers.values() if buffer is not None]
        if any(buffer.is_inference() for buffer in buffers):
            # They do not tell when they change.
            return self._read_scalars()
        versions = [buffer._version for buffer in buffers]
        cached = self._cached_scalars
        if cached is None or versions != cached[1] or any(a is not b for a, b in zip(buffers, cached[0], strict=True)):
            cached = self._cached_scalars = (buffers, versions, self._read_scalars())
        return cached[2]

    def _read_scalars(self) -> list[ScalarQParams]:
        rows = torch.arange(self.get_buffer("scale").numel())
        return [ScalarQParams.of(self.at(row)) for row in rows]


Kind = TypeVar("Kind", bound=type[IntervalProvider])


def register_provider(kind: str) -> Callable[[Kind], Kind]:
    """Decorator: let ``kind`` name a subclass of :class:`IntervalProvider` on disk, and in ``activations.steps``.

    Raises:
        InputError: another one has that name.
    """

    def add(provider: Kind) -> Kind:
        if kind in PROVIDERS:
            raise InputError(f"provider kind {kind!r} exists already: choose another name")
        provider.kind = kind
        PROVIDERS[kind] = provider
        return provider

    return add


def entry_of(table: Tensor, row: Tensor) -> Tensor:
    """``table[row]``, (R, ...) at int64 () or (B,), without a device synchronization.

    A scalar index on another device than the CPU is one: torch's indexing reads it.
    """
    if row.dim() or row.device.type == "cpu":
        return table[row]
    return table.index_select(0, row.view(1)).squeeze(0)


def has_static_scale(provider: IntervalProvider) -> bool:
    """Whether all of an input at one time step shares one stored scale: what integer kernels take."""
    return provider.granularity == PerTensor() and not provider.dynamic


def calibrated_provider(observed: ObservedActivation) -> IntervalProvider:
    """The provider that an activation's spec asks for.

    Raises:
        InputError: no kind serves it: that of a plugin which is not loaded.
    """
    kind = next((kind for kind in PROVIDERS.values() if kind.serves(observed.spec)), None)
    if kind is None:
        raise InputError(f"no kind of interval serves {observed.spec}: load the plugin that registers it")
    return kind.from_observed(observed)


def stored_qparams(bits: int, read: ReadTensor, count: int) -> QParams:
    """Scales and zero points (count,) of a folder, on the unsigned grid of ``bits`` bits.

    Raises:
        FormatError: a zero point is not on the grid.
    """
    qparams = QParams(read("scale", count), read("zero", count), *grid(bits))
    check_grid(qparams.zero_point, qparams.q_max)
    return qparams


def check_grid(zero_point: Tensor, q_max: Tensor | int) -> None:
    """Raise FormatError for a zero point beyond the end of its grid."""
    if bool((zero_point > q_max).any()):
        raise FormatError("the tensor 'tempoquant.interval_zero' has a zero point that is no integer of its grid")
