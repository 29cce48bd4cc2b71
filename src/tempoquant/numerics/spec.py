"""What a quantizer does, as data: number format, granularity and schedule of its scales. A closed vocabulary.

A scale has axes: tensor, channel, group, token, and time step. A :class:`QuantSpec` says which of them a quantizer has,
and whether its scales are stored (static) or computed from the input (dynamic). It is checked where it is made. Nothing
here needs torch.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from tempoquant.errors import InputError

VALID_BITS = (2, 3, 4, 5, 6, 7, 8, 16)
GROUP_SIZES = (16, 32, 64, 128)
NETWORKS = ("tdq", "thin")
"""Interval networks that give a scale for a time step."""


@dataclass(frozen=True)
class PerTensor:
    """One scale for a whole activation; a dynamic one is that of each item of the batch."""

    def __str__(self) -> str:
        return "per tensor"


@dataclass(frozen=True)
class PerChannel:
    """One scale an output channel of a weight."""

    def __str__(self) -> str:
        return "per channel"


@dataclass(frozen=True)
class PerGroup:
    """One scale an output channel and group of ``size`` consecutive inputs of a weight."""

    size: int

    def __str__(self) -> str:
        return f"per group of {self.size}"


@dataclass(frozen=True)
class PerToken:
    """One scale a token of an activation: a vector along its last axis."""

    def __str__(self) -> str:
        return "per token"


@dataclass(frozen=True)
class Constant:
    """The same scales at every time step."""

    def __str__(self) -> str:
        return "constant"


@dataclass(frozen=True)
class PerStep:
    """Scales for each recorded time step (finite set calibration: TFMQ-DM, CVPR 2024)."""

    def __str__(self) -> str:
        return "per step"


@dataclass(frozen=True)
class StepGroups:
    """Scales for each of ``count`` equal runs of training time steps (S_N: TDQ, NeurIPS 2023)."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} groups of steps"


@dataclass(frozen=True)
class Generated:
    """Scales that a network gives for a time step (TDQ, NeurIPS 2023); ``kind`` is one of :data:`NETWORKS`."""

    kind: str = "tdq"

    def __str__(self) -> str:
        return f"generated ({self.kind})"


@dataclass(frozen=True)
class Registered:
    """Scales of a provider kind of a user's own, by the name it is registered under."""

    kind: str

    def __str__(self) -> str:
        return self.kind


Granularity = PerTensor | PerChannel | PerGroup | PerToken
Schedule = Constant | PerStep | StepGroups | Generated | Registered


@dataclass(frozen=True)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        dtype: "int"; "float" (e4m3, e2m1) is reserved and refused.
        bits: width, one of :data:`VALID_BITS`.
        symmetric: the zero point is the middle of the grid.
        granularity: what shares a scale: :class:`PerChannel` or :class:`PerGroup` for weights, :class:`PerTensor` or
            :class:`PerToken` for activations.
        schedule: whether scales change with the time step (activations only).
        dynamic: whether scales are computed from the input (activations only), which makes a schedule void.

    Raises:
        InputError: the combination is not supported; the message has the reason and the nearest one that is.
    """

    dtype: Literal["int", "float"]
    bits: int
    symmetric: bool
    granularity: Granularity
    schedule: Schedule = Constant()
    dynamic: bool = False

    def __post_init__(self) -> None:
        nearest, reasons = SimpleNamespace(**vars(self)), []
        for reason, changes in RULES:
            needed = changes(nearest)
            if needed:
                reasons.append(reason)
                vars(nearest).update(needed)
        if reasons:
            raise InputError(f"{self} is not supported: {reasons[0]}; the nearest that is: {_words(nearest)}")

    def __str__(self) -> str:
        return _words(self)


def _words(spec: Any) -> str:
    grid = "symmetric" if spec.symmetric else "asymmetric"
    scales = "dynamic" if spec.dynamic else "static"
    steps = "" if spec.schedule == Constant() else f", {spec.schedule}"
    return f"{spec.dtype}{spec.bits} {grid}, {scales} scales {spec.granularity}{steps}"


def _of_weights(spec: Any) -> bool:
    return isinstance(spec.granularity, PerChannel | PerGroup)


def _integers(spec: Any) -> dict[str, Any]:
    return {} if spec.dtype == "int" else {"dtype": "int"}


def _width(spec: Any) -> dict[str, Any]:
    return {} if spec.bits in VALID_BITS else {"bits": min(VALID_BITS, key=lambda bits: abs(bits - spec.bits))}


def _group_size(spec: Any) -> dict[str, Any]:
    if not isinstance(spec.granularity, PerGroup) or spec.granularity.size in GROUP_SIZES:
        return {}
    return {"granularity": PerGroup(min(GROUP_SIZES, key=lambda size: abs(size - spec.granularity.size)))}


def _static_weights(spec: Any) -> dict[str, Any]:
    return {"dynamic": False} if _of_weights(spec) and spec.dynamic else {}


def _constant_weights(spec: Any) -> dict[str, Any]:
    return {"schedule": Constant()} if _of_weights(spec) and spec.schedule != Constant() else {}


def _dynamic_alone(spec: Any) -> dict[str, Any]:
    return {"schedule": Constant()} if spec.dynamic and spec.schedule != Constant() else {}


def _tokens_by_step(spec: Any) -> dict[str, Any]:
    wrong = spec.granularity == PerToken() and spec.schedule not in (Constant(), PerStep())
    return {"schedule": PerStep()} if wrong else {}


def _some_groups(spec: Any) -> dict[str, Any]:
    wrong = isinstance(spec.schedule, StepGroups) and spec.schedule.count < 1
    return {"schedule": StepGroups(1)} if wrong else {}


def _network(spec: Any) -> dict[str, Any]:
    if not isinstance(spec.schedule, Generated) or spec.schedule.kind in NETWORKS:
        return {}
    return {"schedule": Generated(*difflib.get_close_matches(spec.schedule.kind, NETWORKS, 1, 0) or NETWORKS[:1])}


RULES: tuple[tuple[str, Callable[[Any], dict[str, Any]]], ...] = (
    ("no backend computes with floating-point grids", _integers),
    ("widths are 2 to 8, and 16", _width),
    (f"groups are of {', '.join(map(str, GROUP_SIZES))}", _group_size),
    ("a weight does not change while the model runs", _static_weights),
    ("a weight does not change with the time step", _constant_weights),
    ("scales computed from the input need no schedule", _dynamic_alone),
    ("scales of tokens are constant or per step", _tokens_by_step),
    ("there is 1 group of steps or more", _some_groups),
    (f"interval networks are {' and '.join(NETWORKS)}", _network),
)
"""Why a combination is refused, and the changes that it needs (none: it is valid). Later ones keep earlier ones."""
