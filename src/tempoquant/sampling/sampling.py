"""The plain sampling loop of a bare denoiser over a diffusers scheduler."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError, NumericsError
from tempoquant.modes import evaluating
from tempoquant.predictions import call_denoiser
from tempoquant.progress import Progress, Silent
from tempoquant.sampling.denoiser import Conditioning, Denoiser, Unbatched
from tempoquant.sampling.noise import noise_batch, sample_indices, step_generators
from tempoquant.sampling.recorded import tables_for
from tempoquant.sampling.schedulers import build_scheduler, check_eta, set_steps, settings_of, step_options

StepCallback = Callable[[int, Tensor, Tensor, Tensor, Tensor], None]
"""``step_callback(k, t, indices, sample, prediction)`` at every denoiser call of a batch of B rows.

k: step index, 0 the noisiest. t: (B,) time steps as the denoiser's argument saw them. indices: (B,) which samples.
sample: (B, *sample_shape), the denoiser's input. prediction: its output.
"""


def sample(
    denoiser: Denoiser,
    *,
    samples: int | Sequence[int],
    steps: int,
    seed: int,
    eta: float = 0.0,
    sampler: str | None = None,
    batch_size: int = 16,
    conditioning: Conditioning | None = None,
    step_callback: StepCallback | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draw samples: noise of (seed, index) down the schedule, (N, *sample_shape) float32 on the CPU.

    Args:
        denoiser: the network, wrapped.
        samples: how many, or the indices of which.
        steps: sampling steps, 1 to the schedule's ``num_train_timesteps``.
        seed: of the noise; with a sample's index it decides the sample, whatever the batch.
        eta: DDIM's noise scale, 0 (deterministic) to 1.
        sampler: a name of ``SAMPLERS``; None keeps the model's own.
        batch_size: samples that are drawn together.
        conditioning: keyword tensors of the denoiser, N rows each, or ``Unbatched``.
        step_callback: called with every denoiser call.
        progress: shows how far it is.

    Raises:
        InputError: a value is out of range; or the denoiser raises or returns no prediction, which names the step.
        NumericsError: a prediction is not finite; names the step.
    """
    indices = sample_indices(samples)
    scheduler = build_scheduler(denoiser.scheduler, sampler)
    set_steps(scheduler, steps, device_of(denoiser.module))
    check_run(scheduler, indices, eta, batch_size, conditioning)
    drawn = []
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    total = len(batches) * len(scheduler.timesteps)
    with (
        torch.inference_mode(),
        tables_for(denoiser, scheduler.timesteps),
        (progress or Silent()).stage("sampling", total) as advance,
    ):
        for number, batch in enumerate(batches):
            rows = slice(number * batch_size, number * batch_size + len(batch))
            conditions = rows_of(conditioning or {}, rows)
            # PLMS and DPM++ keep state between steps, so every batch has a scheduler of its own.
            fresh = build_scheduler(scheduler)
            part = _sample_batch(denoiser, fresh, batch, seed, eta, conditions, step_callback, advance)
            drawn.append(part.float().cpu())
    # Outside of inference mode, so that the result is a plain tensor that may be trained on.
    return torch.cat(drawn)


def _sample_batch(
    denoiser: Denoiser,
    scheduler: Any,
    indices: list[int],
    seed: int,
    eta: float,
    conditioning: Mapping[str, Any],
    step_callback: StepCallback | None,
    advance: Callable[[int], None],
) -> Tensor:
    device = device_of(denoiser.module)
    options = step_options(scheduler, eta, step_generators(seed, indices))
    conditions = {n: value.to(device) if isinstance(value, Tensor) else value for n, value in conditioning.items()}
    channels = prediction_channels(scheduler, denoiser.sample_shape[0])
    x = noise_batch(denoiser.sample_shape, seed, indices).to(device) * getattr(scheduler, "init_noise_sigma", 1.0)
    with evaluating(denoiser.module):
        for k, t in enumerate(scheduler.timesteps):
            with settings_of(scheduler):
                model_input = scale_model_input(scheduler, x, t)
            call = functools.partial(denoiser, model_input, t, **conditions)
            prediction = call_denoiser(call, model_input, sampling_step(k, t), channels)
            check_finite(prediction, k, t)
            if step_callback is not None:
                step_callback(k, t.expand(len(indices)), torch.tensor(indices), model_input, prediction)
            with settings_of(scheduler):
                x = scheduler.step(prediction, t, x, **options).prev_sample
            advance(1)
    return x


def scale_model_input(scheduler: Any, x: Tensor, t: Tensor) -> Tensor:
    """The denoiser's input at sample ``x`` (B, ...); flow-matching schedulers scale none and have no such method."""
    scale = getattr(scheduler, "scale_model_input", None)
    return x if scale is None else scale(x, t)


def rows_of(conditioning: Conditioning, rows: slice | list[int]) -> dict[str, Any]:
    """These rows of a bare denoiser's keyword tensors; what has no batch stays as it is."""
    return {name: v if isinstance(v, Unbatched) else v[rows] for name, v in conditioning.items()}


def check_run(
    scheduler: Any, indices: Sequence[int], eta: float, batch_size: int, conditioning: Conditioning | None
) -> None:
    """Raise InputError if a run of these values cannot work."""
    check_eta(scheduler, eta)
    if not indices:
        raise InputError("samples 0 is out of range: at least 1")
    if min(indices) < 0:
        raise InputError(f"sample index {min(indices)} is out of range: 0 or more")
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is out of range: at least 1")
    check_rows(conditioning, len(indices))


def check_rows(conditioning: Conditioning | None, samples: int) -> None:
    """Raise InputError unless every conditioning argument of a bare denoiser is a tensor of ``samples`` rows."""
    for name, value in (conditioning or {}).items():
        if isinstance(value, Unbatched):
            continue
        if not isinstance(value, Tensor) or value.shape[:1] != (samples,):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"conditioning {name!r} is {found}: a tensor with {samples} rows is needed, one a sample")


def check_finite(prediction: Tensor, k: int, t: Tensor | float) -> None:
    """Raise NumericsError if the denoiser's output at step index ``k`` holds NaN or infinity."""
    if not torch.isfinite(prediction).all():
        raise NumericsError(f"the denoiser's output is not finite at {sampling_step(k, t)}")


def sampling_step(k: int, t: Tensor | float) -> str:
    """A step of a run in words: its index and its time step."""
    return f"step {k} (t = {float(t):g})"


def prediction_channels(scheduler: Any, channels: int) -> tuple[int, ...]:
    """Numbers of channels that a scheduler takes: the sample's, and with a learned variance twice as many."""
    learned = str(scheduler.config.get("variance_type", "")).startswith("learned")
    return (channels, 2 * channels) if learned else (channels,)


def device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU for a module without any."""
    first = next(module.parameters(), next(module.buffers(), None))
    return torch.device("cpu") if first is None else first.device
