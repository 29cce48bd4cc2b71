"""A pipeline of a family that nobody wrote: what its denoiser takes is read off first calls."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tempoquant.errors import InputError, TempoquantError, first_line
from tempoquant.patching import surround
from tempoquant.pipelines.call import Arguments, DenoiserCall
from tempoquant.pipelines.families.family import EXAMPLES, Family
from tempoquant.pipelines.running import OwnCall, call_options, first_arguments
from tempoquant.sampling import check_steps, unwrapped

TIMES = ("timestep", "timesteps", "time_step", "t", "time", "sigma")
"""Usual names of the time step's argument."""
STEPS = 2
"""Of a run whose first call alone is looked at."""


@dataclass(frozen=True)
class Observed(Family):
    """A denoiser whose arguments are told apart by their shapes in runs of one and of two samples.

    Attributes:
        component: its name in the pipeline.
        arguments: names of its arguments.
    """

    component: str
    arguments: Arguments
    name: str = "observed"

    def call(self, module: nn.Module, sample: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:
        """See :meth:`Family.call`; all goes by name."""
        named = {self.arguments.sample: sample, self.arguments.time: timestep}
        return unwrapped(module(**named, **conditioning)).to(sample.dtype)

    def sample_shape(self, pipe: Any, module: nn.Module) -> tuple[int, ...]:
        """(): a run shows it."""
        return ()

    def timesteps(self, pipe: Any, scheduler: Any, steps: int, conditioning: Mapping[str, Any]) -> Tensor:
        """See :meth:`Family.timesteps`: of a run whose denoiser computes once, and answers zeros from then on."""
        check_steps(scheduler, steps)
        timesteps: list[Tensor] = []
        self._dry_run(
            pipe, scheduler, steps, conditioning, lambda call: timesteps.append(call.t[0].cpu()), decode=False
        )
        return torch.stack(timesteps)

    def decode(self, pipe: Any, x: Tensor) -> Tensor:
        """
        Raises:
            InputError: how latents become pixels was not observed.
        """
        raise InputError(
            f"how samples of a {type(pipe).__name__} become pixels is not known: draw with generate, or write a model "
            "family with a decode of its own"
        )

    def encode(self, pipe: Any, pixels: Tensor) -> Tensor:
        """
        Raises:
            InputError: how pixels become latents was not observed.
        """
        return self.decode(pipe, pixels)

    def pixel_shape(self, pipe: Any, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what the pipeline's own call returns for one sample."""
        drawn = self._dry_run(pipe, pipe.scheduler, STEPS, {}, lambda call: None, decode=True)
        return tuple(drawn.shape[1:])

    def observe(self, pipe: Any, conditioning: Mapping[str, Any]) -> tuple["Observed", tuple[int, ...]]:
        """This family with the arguments that have no batch, and the shape of a sample in such a run.

        Raises:
            InputError: the pipeline cannot be run, or an argument's rows cannot be identified.
        """
        one, two = (self._first_call(pipe, conditioning, count) for count in (1, 2))
        unbatched = tuple(_unbatched(one.conditioning, two.conditioning))
        arguments = replace(self.arguments, unbatched=unbatched)
        return replace(self, arguments=arguments), tuple(one.sample.shape[1:])

    def _first_call(self, pipe: Any, conditioning: Mapping[str, Any], count: int) -> DenoiserCall:
        options = call_options(pipe, _entries(pipe, conditioning, count), steps=STEPS)
        with _explained(pipe, options):
            own = OwnCall(pipe, self.component, replace(self.arguments, unbatched=()))
            return first_arguments(own, pipe.scheduler, range(count), options)

    def _dry_run(
        self, pipe: Any, scheduler: Any, steps: int, conditioning: Mapping[str, Any], on_call: Any, *, decode: bool
    ) -> Tensor:
        """Draw one sample without computing: the denoiser's first output stands for the shape of all others."""
        options = call_options(pipe, _entries(pipe, conditioning, 1), steps=steps, decode=decode)
        outputs: list[Any] = []

        def answer(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if not outputs:
                outputs.append(forward(*args, **kwargs))
            return tree_map_only(Tensor, torch.zeros_like, outputs[0])

        own = OwnCall(pipe, self.component, self.arguments).with_stand_in()
        surround(own.module, answer)
        with _explained(pipe, options):
            return own.run([0], scheduler, 0, options, lambda call, prediction: on_call(call))


def observed(pipe: Any) -> Observed:
    """The denoiser of a pipeline: its one module that takes a time step, but for ControlNets.

    Raises:
        InputError: there is no such module, or there are several.
    """
    held = {name: getattr(pipe, name, None) for name in pipe.config if not name.startswith("_")}
    parts = {name: part for name, part in held.items() if isinstance(part, nn.Module)}
    found = {name: _time_argument(part) for name, part in parts.items()}
    times = {name: time for name, time in found.items() if time and "ControlNet" not in type(parts[name]).__name__}
    if len(times) != 1:
        several = f"{', '.join(sorted(times))} all take a time step" if times else "none of its parts takes a time step"
        raise InputError(
            f"{type(pipe).__name__} has no single unet or transformer to quantize ({several}); it holds: "
            f"{', '.join(sorted(held))}"
        )
    ((component, time),) = times.items()
    sample = next(iter(inspect.signature(parts[component].forward).parameters))
    return Observed(component, Arguments(sample, time))


def _time_argument(module: nn.Module) -> str:
    """The name of the time step among a module's arguments; "" if it takes none."""
    return next((name for name in inspect.signature(module.forward).parameters if name in TIMES), "")


def _entries(pipe: Any, conditioning: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Arguments of the pipeline's call for so many equal samples: the first of those given, or invented."""
    accepted = inspect.signature(type(pipe).__call__).parameters
    drawn_from = {name: value for name, value in EXAMPLES.items() if name in accepted and not conditioning}
    if not conditioning and not drawn_from and "batch_size" in accepted:
        return {"batch_size": count}
    return {name: _repeated(value, count) for name, value in (conditioning or drawn_from).items()}


def _repeated(value: Any, count: int) -> Any:
    if isinstance(value, Tensor):
        return torch.cat([value[:1]] * count)
    return [value[0]] * count if isinstance(value, list | tuple) else value


def _unbatched(one: Mapping[str, Any], two: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of the arguments that are of one shape in a run of one sample and in one of two.

    Raises:
        InputError: another number of rows than twice as many tells nothing.
    """
    for name, a in one.items():
        b = two.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _unbatched(a, b, f"{prefix}{name}.")
        elif isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.shape == b.shape:
                yield prefix + name
            elif (2 * a.shape[0], *a.shape[1:]) != tuple(b.shape):
                raise InputError(
                    f"argument {prefix + name!r} of the denoiser is of shape {tuple(a.shape)} for one sample and "
                    f"{tuple(b.shape)} for two: whose rows they are is not known; write a model family"
                )


@contextmanager
def _explained(pipe: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Say in one line that a pipeline of an unknown family cannot be run as its call is known here."""
    try:
        yield
    except TempoquantError:
        raise
    except Exception as error:
        raise InputError(
            f"{type(pipe).__name__} is of no known model family, and its call with {', '.join(sorted(options))} raises "
            f"{type(error).__name__}: {first_line(error)}; give what it draws from (conditioning), or wrap its "
            "denoiser in a Denoiser"
        ) from error
