"""Running a diffusers pipeline's own call, with what its denoiser is called with shown step by step."""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError, unknown
from tempoquant.modes import evaluating
from tempoquant.patching import Patched, surround
from tempoquant.pipelines.call import Arguments, DenoiserCall, joined, read_call
from tempoquant.predictions import call_denoiser
from tempoquant.sampling import (
    check_finite,
    pipeline_generators,
    sampling_step,
    step_generators,
    unwrapped,
)
from tempoquant.sharing import PerThread

OnPrediction = Callable[[DenoiserCall, Tensor], None]
"""Called with every step's denoiser call and its prediction, (R, ...)."""


class Enough(Exception):
    """Ends a run of which the first denoiser calls are all that is needed."""


class _Run(PerThread):
    """What watches the denoiser's calls in a thread's innermost run."""

    watch: Any = None


RUN = _Run()


@dataclass(frozen=True)
class OwnCall:
    """A pipeline that is drawn by its own call.

    Attributes:
        pipe: the pipeline; it is never changed.
        component: the name of its denoiser.
        arguments: names of the denoiser's arguments.
    """

    pipe: Any
    component: str
    arguments: Arguments

    @property
    def module(self) -> nn.Module:
        """The denoiser."""
        return getattr(self.pipe, self.component)

    def with_stand_in(self) -> "OwnCall":
        """The same around a copy of the denoiser that shares all but its ``forward``.

        What is put around the copy is seen by no other run of the pipeline.
        """
        module = copy.copy(self.module)
        module.forward = Patched(module.forward, "forward" in vars(module))
        return replace(self, pipe=replaced(self.pipe, **{self.component: module}))

    def run(
        self,
        batch: Sequence[int],
        scheduler: Any,
        seed: int,
        options: Mapping[str, Any],
        on_prediction: OnPrediction,
        advance: Callable[[int], None] = lambda steps: None,
    ) -> Tensor:
        """Draw one batch, with one random generator a sample.

        Args:
            batch: (B,) which samples.
            scheduler: of the run; it is copied.
            seed: of the noise.
            options: keyword arguments of the pipeline's call.
            on_prediction: called once a step.
            advance: called with 1 after every step.

        Returns:
            What the call returns first, (B, ...) float32 on the CPU.
        """
        calls = _Calls(self, batch, on_prediction, advance)
        fresh = _seeded(copy.deepcopy(scheduler), step_generators(seed, batch), calls.finish_step)
        pipe = replaced(self.pipe, **_tokenizers(self.pipe), scheduler=fresh)
        pipe.set_progress_bar_config(disable=True)
        taken = inspect.signature(type(pipe).__call__).parameters
        generators = {"generator": pipeline_generators(seed, batch)} if "generator" in taken else {}
        with torch.inference_mode(), evaluating(self.module), _watching(self.module, calls):
            drawn = pipe(**options, **generators)[0]
        return torch.as_tensor(drawn).float().cpu()


class _Calls:
    """The denoiser calls of a run, those of one step as one: guidance branches may come one after the other."""

    def __init__(self, own: OwnCall, batch: Sequence[int], on_prediction: OnPrediction, advance: Callable[[int], None]):
        self.own, self.batch, self.on_prediction, self.advance = own, batch, on_prediction, advance
        self.k = 0
        self.pending: list[tuple[DenoiserCall, Tensor]] = []

    def __call__(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser.

        Raises:
            InputError: it raises or returns no prediction; names the step.
            NumericsError: the prediction is not finite.
        """
        if RUN.watch is not self:
            # Another thread's, or one within this call.
            return forward(*args, **kwargs)
        output: Any = None

        def predict() -> Any:
            nonlocal output
            output = forward(*args, **kwargs)
            return unwrapped(output)

        call = read_call(self.own.arguments, self.k, self.batch, self.own.module, args, kwargs)
        if self.pending and call.t[0] != self.pending[0][0].t[0]:
            # Of a pipeline that takes its steps without the scheduler.
            self.finish_step()
            call = call._replace(k=self.k)
        prediction = call_denoiser(predict, call.sample, sampling_step(self.k, call.t[0]))
        check_finite(prediction, self.k, call.t[0])
        self.pending.append((call, prediction))
        return output

    def finish_step(self) -> None:
        """Show the step that was called for, before the scheduler takes it."""
        if not self.pending:
            return
        calls, predictions = zip(*self.pending, strict=True)
        self.pending = []
        self.on_prediction(joined(calls), torch.cat(predictions))
        self.k += 1
        self.advance(1)


@contextmanager
def _watching(module: nn.Module, calls: _Calls) -> Iterator[None]:
    """Within the block the denoiser's calls of this thread go through ``calls``."""
    outer, RUN.watch, undo = RUN.watch, calls, surround(module, calls)
    try:
        yield
        calls.finish_step()
    finally:
        undo()
        RUN.watch = outer


def _seeded(scheduler: Any, generators: list[torch.Generator], before: Callable[[], None]) -> Any:
    """``scheduler`` whose steps draw from these generators where a pipeline names none, as DiTPipeline does not.

    Guidance branches share their sample's generator, so what a sample draws does not depend on the batch.

    Args:
        scheduler: it is changed.
        generators: one a sample.
        before: called before every step.
    """
    draws = "generator" in inspect.signature(scheduler.step).parameters

    def seeded_step(step: Callable[..., Any], model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        before()
        if draws and kwargs.get("generator") is None:
            kwargs["generator"] = generators * (model_output.shape[0] // len(generators))
        return step(model_output, *args, **kwargs)

    surround(scheduler, seeded_step, "step")
    return scheduler


def _tokenizers(pipe: Any) -> dict[str, Any]:
    """Copies of a pipeline's tokenizers, by name: these keep padding and truncation from call to call."""
    found = {name: vars(pipe).get(name) for name in pipe.config}
    return {name: copy.deepcopy(part) for name, part in found.items() if hasattr(part, "backend_tokenizer")}


def replaced(pipe: Any, **components: Any) -> Any:
    """A copy of ``pipe`` that shares all components but these.

    They go around the pipeline's attribute setter: ``model_index.json`` must keep naming the diffusers classes that
    load the folder, whatever stands in for them here.
    """
    other = copy.copy(pipe)
    other.__dict__.update(components)
    return other


def call_options(
    pipe: Any, conditioning: Mapping[str, Any], *, steps: int, eta: float = 0.0, decode: bool = False
) -> dict[str, Any]:
    """Keyword arguments of a pipeline's call for a run.

    Args:
        pipe: the pipeline.
        conditioning: arguments of its call.
        steps: of the run.
        eta: DDIM's noise scale.
        decode: False skips the image decoder where the pipeline allows it; the result is then latents.

    Raises:
        InputError: the call does not take one of them.
    """
    accepted = inspect.signature(type(pipe).__call__).parameters
    for name in conditioning:
        if name not in accepted:
            raise unknown("conditioning", name, set(accepted) - {"self"})
    if eta and "eta" not in accepted:
        raise InputError(f"eta {eta} cannot be given to {type(pipe).__name__}: its call takes none")
    if "num_inference_steps" not in accepted:
        raise InputError(
            f"the call of {type(pipe).__name__} takes no num_inference_steps: wrap its denoiser in a Denoiser"
        )
    # DiTPipeline knows no latent output; it then decodes although nobody looks.
    latent = not decode and "latents" in accepted
    options: dict[str, Any] = {**conditioning, "num_inference_steps": steps}
    if "output_type" in accepted:
        options["output_type"] = "latent" if latent else "pt"
    return {**options, "eta": eta} if "eta" in accepted else options


def first_arguments(own: OwnCall, scheduler: Any, batch: Sequence[int], options: Mapping[str, Any]) -> DenoiserCall:
    """What a pipeline calls its denoiser with first; that call is not made.

    Args:
        own: the pipeline.
        scheduler: of the run.
        batch: (B,) which samples.
        options: keyword arguments of the pipeline's call.

    Raises:
        InputError: the pipeline calls its denoiser never, or with what :func:`read_call` does not know.
    """
    calls: list[DenoiserCall] = []

    def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append(read_call(own.arguments, 0, batch, module, args, kwargs))
        raise Enough

    watched = own.with_stand_in()
    # Without its own hooks: a denoiser that is frozen to certain conditions refuses the rest.
    watched.module._forward_pre_hooks, watched.module._forward_pre_hooks_with_kwargs = OrderedDict(), OrderedDict()
    watched.module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        watched.run(batch, scheduler, 0, options, lambda call, prediction: None)
    except Enough:
        return calls[0]
    raise InputError(f"{type(own.pipe).__name__} made no denoiser call")
