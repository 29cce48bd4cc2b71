"""Registries of what a user can add by name and a recipe can name: functions used like the built-in ones.

The built-in ones register themselves where they are written. What a user's function raises, and a result
that does not fit, becomes an error of one line with its name.
"""

import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tempoquant.errors import InputError, TempoquantError, unknown

PACKAGE = __name__.partition(".")[0]
Function = Callable[..., Any]
T = TypeVar("T")


class Names(dict[str, T]):
    """Entries of one kind by name.

    This package's own are known by name before the modules that register them are imported: names are checked, and
    listed, without torch. An entry is imported when it is asked for.

    Args:
        what: the kind, for messages.
        built_in: this package's own names, each with the module that registers it.
    """

    def __init__(self, what: str, built_in: Mapping[str, str] | None = None):
        super().__init__()
        self.what, self.built_in = what, dict(built_in or {})

    def __missing__(self, name: str) -> T:
        self._import(name)
        if name not in self:
            raise KeyError(name)
        return self[name]

    @property
    def names(self) -> list[str]:
        """All names: this package's own, then those that were added."""
        return list(dict.fromkeys([*self.built_in, *self]))

    def _import(self, name: str) -> None:
        """Import the module that registers ``name``, if it is one of this package's own."""
        if name in self.built_in:
            importlib.import_module(self.built_in[name])

    def add(self, name: str, entry: T) -> None:
        """Put an entry under ``name``; InputError if the name is taken."""
        if self.built_in.get(name) not in sys.modules:
            self._import(name)
        if name in self:
            raise InputError(f"{self.what} {name!r} exists already: choose another name")
        self[name] = entry

    def check(self, name: str) -> str:
        """``name``, if an entry has it; InputError with the nearest valid names otherwise."""
        if name not in self.names:
            raise unknown(self.what, name, self.names)
        return name


class Registry(Names[Function]):
    """Functions of one kind by name.

    Args:
        what: the kind, for messages.
        returns: what a function must return, in words.
        fits: ``fits(result, *args)``, whether a user's function returned that.
        built_in: see :class:`Names`.
    """

    def __init__(self, what: str, returns: str, fits: Callable[..., bool], built_in: Mapping[str, str]):
        super().__init__(what, built_in)
        self.returns, self.fits = returns, fits

    def register(self, name: str) -> Callable[[Function], Function]:
        """Decorator: put a function under ``name``; InputError if the name is taken."""

        def put(function: Function) -> Function:
            self.add(name, self._checked(name, function) if is_foreign(function) else function)
            return function

        return put

    def _checked(self, name: str, function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            label = f"{self.what} {name!r}"
            result = guarded(label, function, *args)
            if not guarded(label, self.fits, result, *args):
                raise InputError(f"{label} must return {self.returns}")
            return result

        return call


def is_foreign(function: Function) -> bool:
    """Whether a function is a user's own and not this package's."""
    return function.__module__.partition(".")[0] != PACKAGE


def guarded(label: str, function: Function, *args: Any) -> Any:
    """Call a user's function; what it raises becomes one line that names it (the cause stays attached)."""
    try:
        return function(*args)
    except TempoquantError:
        raise
    except (Exception, SystemExit) as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        raise InputError(f"{label} failed: {type(error).__name__}: {first}") from error


def source_hash(function: Function) -> str | None:
    """blake2b (16 bytes, hex) of the file a user's function stands in; None for this package's own."""
    plain = inspect.unwrap(function)
    if not is_foreign(plain):
        return None
    file = inspect.getsourcefile(plain)
    return hashlib.blake2b(Path(file).read_bytes() if file else b"", digest_size=16).hexdigest()


def _range(result: Any, rows: Any, *_: Any) -> bool:
    return all(end.shape == rows.shape[:1] and bool(end.isfinite().all()) for end in _two(result))


def _rounding(result: Any, weight: Any, qparams: Any, *_: Any) -> bool:
    integers, grid = _two(result)
    q = integers + grid.zero_point.repeat_interleave(integers.shape[1] // grid.zero_point.shape[1], 1)
    whole = bool((integers == integers.round()).all() and (q >= grid.q_min).all() and (q <= grid.q_max).all())
    same = bool((grid.zero_point == qparams.zero_point).all()) and _ends(grid) == _ends(qparams)
    return whole and same and integers.shape == weight.shape and grid.scale.shape == qparams.scale.shape


def _ends(qparams: Any) -> tuple[int, int]:
    return qparams.q_min, qparams.q_max


def _two(result: Any) -> tuple[Any, Any]:
    first, second = result
    return first, second


PROVIDERS: dict[str, Any] = {}
"""Providers of activation quantization parameters: subclasses of :class:`tempoquant.intervals.IntervalProvider`, by the
name of their form on disk. ``activations.steps`` takes the name of a user's own."""

WEIGHT_RANGES = Registry(
    "weight range",
    "(low, high), finite and one value a row",
    _range,
    dict.fromkeys(("minmax", "mse"), "tempoquant.numerics.weights"),
)
"""``weights.range``: ``f(rows (C, K), bits, symmetric) -> low (C,), high (C,)``, float32; C output channels."""

ACTIVATION_RANGES = Registry(
    "activation range",
    "(low, high), finite and one value a row",
    _range,
    dict.fromkeys(("minmax", "ema", "percentile", "mse"), "tempoquant.calibration.range_observer"),
)
"""``activations.range``: ``f(values (R, K), bits, symmetric) -> low (R,), high (R,)``, float32. A row holds recorded
values, its extremes among them, of one time step, or of all of them together (R = 1)."""

WEIGHT_ROUNDINGS = Registry(
    "weight rounding",
    "(integers, qparams): whole q - z within the grid, and its scale",
    _rounding,
    dict.fromkeys(("reconstruct", "nearest"), "tempoquant.reconstruction.unit"),
)
"""``weights.rounding``: ``f(weight (C, K), qparams, quantized (M, K), full (M, K)) -> integers (C, K), qparams`` of one
layer. ``qparams`` is the grid: scale and zero (C, G), for G groups of K / G consecutive weights (1: per channel), q_min
and q_max. ``quantized`` and ``full`` are the same M of the layer's input vectors in the partly quantized and in the
full-precision network. ``integers`` are ``q - z``; the scale of the returned grid may be another."""


@dataclass(frozen=True)
class AddedStage:
    """A stage of a user's own.

    Attributes:
        make: its class, a :class:`tempoquant.stages.Stage`.
        after: the stage that it follows.
    """

    make: Callable[[], Any]
    after: str


STAGES: Names[AddedStage] = Names("stage")
"""``stages``: steps of a job beside the built-in ones, see :func:`tempoquant.stages.stage`."""
