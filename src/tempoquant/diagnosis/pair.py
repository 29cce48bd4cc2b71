"""A full-precision and a quantized model of the same inputs, and mixtures of their layers or of their steps."""

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

    The context managers change one of the models in a ``with`` block and put everything back afterwards.

    Attributes:
        full: the full-precision model.
        quantized: the quantized model.
        pipeline: the quantized model as a :class:`QuantizedPipeline`; None for another tool's.
    """

    full: Model
    quantized: Model
    pipeline: QuantizedPipeline | None

    def common(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that are module names of the quantized denoiser too."""
        modules = {name for name, _ in self.quantized.denoiser.module.named_modules()}
        return [name for name in names if name in modules]

    def differing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` whose layers differ between the models in class or in a value of their state.

        Layers whose output a table replaces in the quantized model are left out: that model never reads them.
        """
        full, quantized = self.full.denoiser.module, self.quantized.denoiser.module
        live = [name for name in names if not isinstance(quantized.get_submodule(name), DeadLayer)]
        return [name for name in live if not _same(full.get_submodule(name), quantized.get_submodule(name))]

    @contextmanager
    def with_quantized_layers(self, names: Collection[str]) -> Iterator[Model]:
        """The full-precision model with layers ``names`` of the quantized one."""
        module = self.full.denoiser.module
        with ExitStack() as stack:
            if self.pipeline is not None:
                stack.callback(self.pipeline.clock.attach(module).remove)
            stack.enter_context(_replaced_layers(module, self.quantized.denoiser.module, names))
            yield self.full

    @contextmanager
    def with_full_layers(self, names: Collection[str]) -> Iterator[Model]:
        """The quantized model with layers ``names`` of the full-precision one."""
        with _replaced_layers(self.quantized.denoiser.module, self.full.denoiser.module, names):
            yield self.quantized

    @contextmanager
    def with_quantized_steps(self, timesteps: Collection[float], clock: Clock) -> Iterator[Model]:
        """The full-precision model with the quantized denoiser in its place at some time steps.

        Args:
            timesteps: values of the denoiser's argument at which the quantized denoiser computes the output.
            clock: reads the time argument of the full-precision denoiser.
        """
        full, quantized = self.full.denoiser.module, self.quantized.denoiser.module
        quantized_forward = _in_dtype_of(full, quantized)

        def forward_by_step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            at_step = quantized_forward if float(clock.timestep) in timesteps else forward  # type: ignore[arg-type]
            return at_step(*args, **kwargs)

        with ExitStack() as stack:
            stack.callback(clock.attach(full).remove)
            stack.callback(surround(full, forward_by_step))
            stack.enter_context(evaluating(quantized))
            yield self.full


def open_pair(quantized: Any, reference: Any) -> Pair:
    """Load both models and check that they take the same inputs.

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
    pipeline = quantized if isinstance(quantized, QuantizedPipeline) else None
    pair = Pair(full, resolve(quantized) if pipeline is None else pipeline.model, pipeline)
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
    settings, reference = (_schedule(model.scheduler) for model in (quantized, full))
    for key in sorted(settings.keys() & reference.keys()):
        if settings[key] != reference[key]:
            raise InputError(
                f"the schedules differ: {key} is {settings[key]!r} in {pair.quantized.name} and {reference[key]!r} in "
                f"the reference {pair.full.name}"
            )


def _schedule(scheduler: Any) -> dict[str, Any]:
    """A scheduler's settings; lists and tuples alike, since JSON knows only one of them."""
    settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _same(a: nn.Module, b: nn.Module) -> bool:
    if type(a) is not type(b):
        return False
    state_a, state_b = (dict(part.state_dict()) for part in (a, b))
    return state_a.keys() == state_b.keys() and all(_equal(state_a[name], state_b[name]) for name in state_a)


def _equal(a: Tensor, b: Tensor) -> bool:
    # Quantized tensors of other tools are of classes of their own, which need not compare.
    return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)


@contextmanager
def _replaced_layers(module: nn.Module, source: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Replace layers of ``module`` by those of the same names in ``source`` in a ``with`` block."""
    places = places_of(module)
    originals = [(name, module.get_submodule(name)) for name in names]
    replacements = [(*place, layer, name) for name, layer in originals for place in places[id(layer)]]
    try:
        for parent, attribute, layer, name in replacements:
            setattr(parent, attribute, _in_dtype_of(layer, source.get_submodule(name)))
        yield
    finally:
        for parent, attribute, layer, _ in replacements:
            setattr(parent, attribute, layer)


def _in_dtype_of(original: nn.Module, replacement: nn.Module) -> nn.Module:
    """``replacement``, with inputs and outputs of the original's float dtype."""
    same = _float_dtype(replacement) in (None, _float_dtype(original))
    return replacement if same else _DtypeAdapter(replacement)


def _float_dtype(part: nn.Module) -> torch.dtype | None:
    tensors = (*part.parameters(), *part.buffers())
    return next((t.dtype for t in tensors if t.dtype in (torch.float32, torch.float16, torch.bfloat16)), None)


class _DtypeAdapter(nn.Module):
    """Casts inputs to the float dtype of a module, and its outputs back to that of the inputs.

    The module is not registered as a submodule: networks take the dtype of their first parameter for that of all.
    """

    def __init__(self, part: nn.Module):
        super().__init__()
        self.parts = (part,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (part,) = self.parts
        dtype = _float_dtype(part)
        input_dtypes: list[torch.dtype] = []

        def cast(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x
            input_dtypes.append(x.dtype)
            return x.to(dtype)

        args, kwargs = map_kind((args, kwargs), Tensor, cast)
        return map_kind(part(*args, **kwargs), Tensor, lambda x: x.to(input_dtypes[0]) if x.is_floating_point() else x)
