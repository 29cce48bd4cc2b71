"""Running a diffusers pipeline's own call, with what its denoiser sees shown call by call."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import named_arguments
from tempoquant.errors import InputError, unknown
from tempoquant.patching import surround
from tempoquant.pipelines.model import DenoiserCall
from tempoquant.predictions import call_denoiser
from tempoquant.progress import Progress, Silent
from tempoquant.sampling import (
    build_scheduler,
    check_finite,
    check_run,
    evaluating,
    pipeline_generators,
    sample_indices,
    sampling_step,
    set_steps,
    step_generators,
    tables_for,
    unwrapped,
)
from tempoquant.sharing import PerThread

if TYPE_CHECKING:
    from tempoquant.pipelines.diffusers_model import DiffusersModel

Tell = Callable[[DenoiserCall, Tensor], None]
SAMPLE_NAMES = ("sample", "hidden_states")
TIME_NAME = "timestep"
NOT_CONDITIONING = ("return_dict",)


class _Run(PerThread):
    """What watches the denoiser's calls in a thread's innermost run."""

    watch: Any = None


RUN = _Run()


def run_pipeline(
    target: "DiffusersModel",
    samples: int | Sequence[int],
    tell: Tell,
    *,
    conditioning: Mapping[str, Any],
    steps: int,
    seed: int,
    decode: bool,
    eta: float = 0.0,
    sampler: str | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Tensor:
    """Call a conditional pipeline batch by batch with one random generator a sample.

    Args:
        tell: told of every denoiser call and its output.
        conditioning: keyword arguments of the pipeline's call; a list or tensor has one entry a sample.
        decode: False skips the image decoder where the pipeline allows it; the result is then latents.

    Returns:
        (N, C, H, W) pixels in [-1, 1], float32 on the CPU.
    """
    indices = sample_indices(samples)
    tokenizers = own_tokenizers(target.pipe)
    scheduler = build_scheduler(target.pipe.scheduler, sampler)
    set_steps(scheduler, steps)
    check_run(scheduler, indices, eta, batch_size, None)
    per_sample = _per_sample(conditioning, len(indices))
    options = {"num_inference_steps": steps, **_pipeline_options(target, conditioning, eta, decode)}
    drawn = []
    starts = range(0, len(indices), batch_size)
    total = len(starts) * len(scheduler.timesteps)
    with tables_for(target.denoiser, scheduler), (progress or Silent()).stage("sampling", total) as advance:
        for start in starts:
            batch = indices[start : start + batch_size]
            given = {n: v[start : start + batch_size] if n in per_sample else v for n, v in conditioning.items()}
            own = {**tokenizers, "scheduler": seeded(copy.deepcopy(scheduler), step_generators(seed, batch))}
            given = {**given, **options, "generator": pipeline_generators(seed, batch)}
            drawn.append(_run_batch(target, own, batch, given, tell, advance))
    pixels = torch.cat(drawn)
    return pixels * 2 - 1 if options["output_type"] == "pt" else pixels


def check_arguments(target: "DiffusersModel", conditioning: Mapping[str, Any], samples: int) -> None:
    """Raise InputError unless the pipeline's call takes these arguments, and the condition has one entry a sample."""
    _pipeline_options(target, conditioning, 0.0, decode=False)
    if target.condition not in _per_sample(conditioning, samples):
        raise InputError(f"{target.condition} is one value: a list of {samples}, one a sample, is needed")


def _pipeline_options(
    target: "DiffusersModel", conditioning: Mapping[str, Any], eta: float, decode: bool
) -> dict[str, Any]:
    """What this pipeline's call takes of our settings; refuses arguments that it does not take."""
    accepted = inspect.signature(type(target.pipe).__call__).parameters
    for name in conditioning:
        if name not in accepted:
            raise unknown("conditioning", name, set(accepted) - {"self"})
    if eta and "eta" not in accepted:
        raise InputError(f"eta {eta} cannot be given to {target.name}: its call takes none")
    # DiTPipeline knows no latent output; it then decodes although nobody looks.
    latent = not decode and "latents" in accepted
    options: dict[str, Any] = {"output_type": "latent" if latent else "pt"}
    return {**options, "eta": eta} if "eta" in accepted else options


def seeded(scheduler: Any, generators: list[torch.Generator]) -> Any:
    """``scheduler`` whose steps draw from these generators where a pipeline names none, as DiTPipeline does not.

    Guidance branches share their sample's generator, so what a sample draws does not depend on the batch.
    """
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return scheduler

    def seeded_step(step: Callable[..., Any], model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None:
            kwargs["generator"] = generators * (model_output.shape[0] // len(generators))
        return step(model_output, *args, **kwargs)

    surround(scheduler, seeded_step, "step")
    return scheduler


def own_tokenizers(pipe: Any) -> dict[str, Any]:
    """Copies of a pipeline's tokenizers, by name: these keep padding and truncation from call to call."""
    found = {name: vars(pipe).get(name) for name in pipe.config}
    return {name: copy.deepcopy(part) for name, part in found.items() if hasattr(part, "backend_tokenizer")}


def _run_batch(
    target: "DiffusersModel",
    own: Mapping[str, Any],
    batch: list[int],
    given: Mapping[str, Any],
    tell: Tell,
    advance: Callable[[int], None],
) -> Tensor:
    from tempoquant.pipelines.diffusers_model import replaced

    pipe = replaced(target.pipe, **own)
    pipe.set_progress_bar_config(disable=True)
    module = target.denoiser.module
    with torch.inference_mode(), evaluating(module), _watching_calls(module, batch, tell, advance):
        images = pipe(**given).images
    return torch.as_tensor(images).float().cpu()


@contextmanager
def _watching_calls(
    module: nn.Module, batch: Sequence[int], tell: Tell, advance: Callable[[int], None]
) -> Iterator[None]:
    """Within the block ``tell`` sees every call of a denoiser that its run makes.

    Raises:
        InputError: the denoiser raises or returns no prediction; names the step.
        NumericsError: a prediction is not finite.
    """
    calls = 0

    def called(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if RUN.watch is not called:
            # Another thread's, or one within this call.
            return forward(*args, **kwargs)
        output: Any = None

        def predict() -> Any:
            nonlocal output
            output = forward(*args, **kwargs)
            return unwrapped(output)

        seen = read_call(calls, batch, module, args, kwargs)
        prediction = call_denoiser(predict, seen.sample, sampling_step(calls, seen.t[0]))
        check_finite(prediction, calls, seen.t[0])
        tell(seen, prediction)
        calls += 1
        advance(1)
        return output

    outer, RUN.watch, undo = RUN.watch, called, surround(module, called)
    try:
        yield
    finally:
        undo()
        RUN.watch = outer


def read_call(k: int, batch: Sequence[int], module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> DenoiserCall:
    """What one call of a diffusers denoiser was given, by its arguments' names."""
    named = named_arguments(module.forward, args, kwargs)
    x = next(named.pop(name) for name in SAMPLE_NAMES if name in named)
    t = torch.as_tensor(named.pop(TIME_NAME), device=x.device).expand(x.shape[0])
    branches = x.shape[0] // len(batch)
    conditioning = {n: v for n, v in named.items() if n not in NOT_CONDITIONING and v is not None}
    return DenoiserCall(k, t, torch.tensor(list(batch)).repeat(branches), x, conditioning)


def _per_sample(conditioning: Mapping[str, Any], count: int) -> set[str]:
    """Names of the arguments with one entry a sample, which lists and tensors have; checks their lengths."""
    many = {name for name, value in conditioning.items() if isinstance(value, (list, tuple, Tensor))}
    for name in sorted(many):
        if len(conditioning[name]) != count:
            raise InputError(
                f"{name} has {len(conditioning[name])} entries for {count} samples: one a sample is needed"
            )
    return many
