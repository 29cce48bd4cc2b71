"""Two denoisers that take the same inputs, and mixtures of them: some layers, or some steps, of one in the other."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.api import load
from tempoquant.checkpoint import is_quantized
from tempoquant.errors import InputError
from tempoquant.graph import map_kind
from tempoquant.intervals import Clock
from tempoquant.layers import places_of
from tempoquant.modes import evaluating
from tempoquant.patching import surround
from tempoquant.pipelines import Model, in_float32, resolve
from tempoquant.quantized import QuantizedPipeline
from tempoquant.temporal import DeadLayer


@dataclass(frozen=True)
class Pair:
    """A full-precision model and a quantized one.

    The context managers change one of the models for the time of a block and put everything back.

    Attributes:
        full, quantized: the models. own: the quantized one as this package knows it; None for other tools' models.
    """

    full: Model
    quantized: Model
    own: QuantizedPipeline | None

    def common(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that both denoisers have a module of."""
        there = {name for name, _ in self.quantized.denoiser.module.named_modules()}
        return [name for name in names if name in there]

    def differing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` whose layers are not the same in kind and value.

        Layers that the quantized model never reads, because a table stands behind them, have nothing to compare.
        """
        full, quantized = self.full.denoiser.module, self.quantized.denoiser.module
        read = [name for name in names if not isinstance(quantized.get_submodule(name), DeadLayer)]
        return [name for name in read if not _same(full.get_submodule(name), quantized.get_submodule(name))]

    @contextmanager
    def only(self, names: Collection[str]) -> Iterator[Model]:
        """The full-precision model with these layers of the quantized one."""
        module = self.full.denoiser.module
        with ExitStack() as stack:
            if self.own is not None:
                stack.callback(self.own.clock.attach(module).remove)
            stack.enter_context(_exchanged(module, self.quantized.denoiser.module, names))
            yield self.full

    @contextmanager
    def without(self, names: Collection[str]) -> Iterator[Model]:
        """The quantized model with these layers in full precision."""
        with _exchanged(self.quantized.denoiser.module, self.full.denoiser.module, names):
            yield self.quantized

    @contextmanager
    def at(self, timesteps: Collection[float], clock: Clock) -> Iterator[Model]:
        """The full-precision model, whose calls at these time steps the quantized one answers.

        Args:
            clock: knows the time argument of the full-precision denoiser.
        """
        host, guest = self.full.denoiser.module, self.quantized.denoiser.module
        answers = _adapted(guest, host)

        def answered(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            chosen = answers if float(clock.timestep) in timesteps else forward  # type: ignore[arg-type]
            return chosen(*args, **kwargs)

        with ExitStack() as stack:
            stack.callback(clock.attach(host).remove)
            stack.callback(surround(host, answered))
            stack.enter_context(evaluating(guest))
            yield self.full


def open_pair(quantized: Any, reference: Any) -> Pair:
    """The two models, checked to take the same inputs.

    Args:
        quantized: a quantized folder or :class:`QuantizedPipeline`, or whatever else ``quantize`` takes as a model.
        reference: the full-precision model, likewise; in half precision it is compared as a float32 copy.

    Raises:
        InputError: they differ in sample shape, schedule or conditioning, or are one and the same.
    """
    full = in_float32(resolve(reference))
    if isinstance(quantized, str | Path) and is_quantized(Path(quantized)):
        bare = full.denoiser if (Path(quantized) / "denoiser").is_dir() else None
        quantized = load(quantized, denoiser=bare)
    own = quantized if isinstance(quantized, QuantizedPipeline) else None
    pair = Pair(full, resolve(quantized) if own is None else own.model, own)
    _check_fit(pair)
    return pair


def _check_fit(pair: Pair) -> None:
    full, quantized = pair.full.denoiser, pair.quantized.denoiser
    if full.module is quantized.module:
        raise InputError(f"both models are {pair.full.name}, one and the same object: there is nothing to compare")
    if tuple(full.sample_shape) != tuple(quantized.sample_shape):
        raise InputError(
            f"samples are {tuple(quantized.sample_shape)} in {pair.quantized.name} and {tuple(full.sample_shape)} in "
            f"the reference {pair.full.name}: models of equal shapes are needed"
        )
    if pair.full.conditional != pair.quantized.conditional:
        kind = {True: "conditional", False: "unconditional"}
        raise InputError(
            f"{pair.quantized.name} is {kind[pair.quantized.conditional]} and the reference {pair.full.name} "
            f"{kind[pair.full.conditional]}: models that take the same inputs are needed"
        )
    here, there = (_schedule(model.scheduler) for model in (quantized, full))
    for key in sorted(here.keys() & there.keys()):
        if here[key] != there[key]:
            raise InputError(
                f"the schedules differ: {key} is {here[key]!r} in {pair.quantized.name} and {there[key]!r} in the "
                f"reference {pair.full.name}"
            )


def _schedule(scheduler: Any) -> dict[str, Any]:
    """A scheduler's settings; lists and tuples alike, since JSON knows only one of them."""
    settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _same(a: nn.Module, b: nn.Module) -> bool:
    if type(a) is not type(b):
        return False
    here, there = (dict(part.state_dict()) for part in (a, b))
    return here.keys() == there.keys() and all(_equal(here[name], there[name]) for name in here)


def _equal(a: Tensor, b: Tensor) -> bool:
    # Quantized tensors of other tools are of classes of their own, which need not compare.
    return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)


@contextmanager
def _exchanged(module: nn.Module, donor: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Within the block, these layers of ``module`` are the donor's."""
    places = places_of(module)
    moved = [(*place, module.get_submodule(name), name) for name in names for place in _of(places, module, name)]
    try:
        for parent, child, own, name in moved:
            setattr(parent, child, _adapted(donor.get_submodule(name), own))
        yield
    finally:
        for parent, child, own, _ in moved:
            setattr(parent, child, own)


def _of(places: dict[int, list[tuple[nn.Module, str]]], module: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    return places[id(module.get_submodule(name))]


def _adapted(part: nn.Module, host: nn.Module) -> nn.Module:
    """``part``, made to take and give the host's floating type."""
    return part if _float_type(part) in (None, _float_type(host)) else _Adapter(part)


def _float_type(part: nn.Module) -> torch.dtype | None:
    tensors = (*part.parameters(), *part.buffers())
    return next((t.dtype for t in tensors if t.dtype in (torch.float32, torch.float16, torch.bfloat16)), None)


class _Adapter(nn.Module):
    """A module that computes in a floating type of its own.

    It is no registered part: networks take the type of their first parameter for that of all.
    """

    def __init__(self, part: nn.Module):
        super().__init__()
        self.parts = (part,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (part,) = self.parts
        own = _float_type(part)
        given: list[torch.dtype] = []

        def enter(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            given.append(x.dtype)
            return x.to(own)

        args, kwargs = map_kind((args, kwargs), Tensor, enter)
        return map_kind(part(*args, **kwargs), Tensor, lambda x: x.to(given[0]) if x.is_floating_point() else x)
