"""Paired comparison of a quantized denoiser with full precision: images, predicted noise and temporal features."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import samples_of
from tempoquant.errors import InputError
from tempoquant.evaluation.paired import (
    cosine,
    psnr,
    relative_error,
    sqnr_db,
    ssim,
    temporal_mismatch_of,
)
from tempoquant.evaluation.ranges import data_range, warn_of_range
from tempoquant.evaluation.result import PairedMetrics
from tempoquant.evaluation.shapes import has_psnr, has_ssim
from tempoquant.modes import evaluating
from tempoquant.pipelines import BareModel, DenoiserCall, Model, check_samples
from tempoquant.progress import Progress, Silent
from tempoquant.sampling import Denoiser, Unbatched, check_finite


@dataclass(frozen=True)
class Reference:
    """Images, predictions and temporal features of full precision, for any number of comparisons.

    Attributes:
        run: samples, steps, seed, sampler, eta, batch_size and conditioning of ``Model.generate``.
        images: (N, C, H, W) pixels in [-1, 1], or (N, *sample_shape) of a model that draws no images.
        calls: K, the denoiser's inputs at every step of the first ``noise_samples`` trajectories.
        predictions: K tensors (R, *sample_shape) float32, its output at each of them.
        features: by projection, its output along the first trajectory, (K, d) float32.
    """

    run: dict[str, Any]
    images: Tensor
    calls: list[DenoiserCall]
    predictions: list[Tensor]
    features: dict[str, Tensor]

    @property
    def data_range(self) -> float | None:
        """Range of pixel values for PSNR and SSIM, see :func:`data_range`; None if samples are no images."""
        return data_range(self.images) if has_psnr(self.images.shape[1:]) else None


def reference(
    full: Model | Denoiser,
    *,
    projections: Sequence[str],
    samples: int,
    steps: int,
    seed: int,
    sampler: str | None = None,
    eta: float = 0.0,
    noise_samples: int = 8,
    batch_size: int = 16,
    conditioning: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Reference:
    """Sample with full precision, and keep what :func:`compare` compares with.

    Args:
        full: the full-precision model.
        projections: names of the modules whose outputs are temporal features: all that will be compared.
        samples: images.
        steps: sampling steps.
        seed: of the noise.
        sampler: a name of ``SAMPLERS``; None for the model's own.
        eta: DDIM's noise scale, 0 to 1.
        noise_samples: trajectories kept in memory as float32 for the predicted noise, at most ``samples``.
        batch_size: samples a denoiser call.
        conditioning: as ``Model.generate`` takes it.
        progress: shows the stages.

    Raises:
        InputError: a value is out of range, or a projection is no module of the denoiser.
        NumericsError: a prediction or a sample is not finite.

    Warns:
        UserWarning: images leave [-1, 1], so that PSNR and SSIM are relative to their own range.
    """
    model = _as_model(full)
    _check_projections(model.denoiser, projections)
    if not 1 <= noise_samples <= samples:
        raise InputError(f"noise samples {noise_samples} is out of range: 1 to {samples}, the samples")
    run: dict[str, Any] = {"steps": steps, "seed": seed, "sampler": sampler, "eta": eta, "batch_size": batch_size}
    images = model.generate(samples, conditioning=conditioning, progress=progress, **run)
    check_samples(model.name, images)
    if has_psnr(images.shape[1:]):
        warn_of_range(model.name, images)
    calls: list[DenoiserCall] = []
    first = samples_of(conditioning, slice(noise_samples)) or None
    one_batch = {**run, "batch_size": noise_samples}
    model.run_trajectories(noise_samples, lambda call: calls.append(_to_cpu(call)), conditioning=first, **one_batch)
    predictions, features = _run_calls(model.denoiser, calls, projections, progress)
    return Reference({"samples": samples, "conditioning": conditioning, **run}, images, calls, predictions, features)


def compare(
    reference: Reference,
    quantized: Model | Denoiser,
    *,
    projections: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> PairedMetrics:
    """Compare a quantized denoiser with full precision on the same noise and the same inputs.

    Images are each model's own from equal noise; predicted noise and temporal features are those of both models at the
    full-precision trajectory's samples, so that errors of earlier steps do not add up in them.

    Args:
        reference: of the full-precision model.
        quantized: the model to compare, which draws the same samples.
        projections: some of the reference's; None for all.
        progress: shows the stages.

    Raises:
        InputError: a projection is not in the reference, or no module of the denoiser.
        NumericsError: a prediction or a sample is not finite.
    """
    model = _as_model(quantized)
    names = list(reference.features) if projections is None else list(projections)
    missing = [name for name in names if name not in reference.features]
    if missing:
        raise InputError(f"the reference has no projection {missing[0]!r}: name it when the reference is made")
    _check_projections(model.denoiser, names)
    images = model.generate(**reference.run, progress=progress)
    check_samples(model.name, images)
    predictions, features = _run_calls(model.denoiser, reference.calls, names, progress)
    full = {name: reference.features[name] for name in names}
    timesteps = [call.t[0].item() for call in reference.calls]
    # Tables have one row a unique time step, so a repeated one must not count twice.
    first = [timesteps.index(t) for t in sorted(set(timesteps))]
    rows = {name: value[first] for name, value in full.items()}
    value_range = reference.data_range
    with_ssim = has_ssim(images.shape[1:])
    return PairedMetrics(
        psnr=psnr(reference.images, images, value_range).tolist() if value_range else None,
        ssim=ssim(reference.images, images, value_range).tolist() if value_range and with_ssim else None,
        data_range=value_range,
        relative_error=relative_error(reference.images, images).tolist(),
        timesteps=timesteps,
        sqnr_steps=[sqnr_db(a, b) for a, b in zip(reference.predictions, predictions, strict=True)],
        sqnr=sqnr_db(torch.cat(reference.predictions), torch.cat(predictions)),
        cosine={name: cosine(full[name], features[name]).tolist() for name in names},
        temporal_mismatch=temporal_mismatch_of(rows, {n: features[n][first] for n in names}) if names else None,
        images=images,
    )


def evaluate_pair(
    full: Model | Denoiser, quantized: Model | Denoiser, *, progress: Progress | None = None, **options: Any
) -> dict[str, Any]:
    """Compute :func:`reference` and :func:`compare` in one call, as JSON data.

    Args:
        full: the full-precision model.
        quantized: the quantized model.
        progress: shows the stages.
        options: keyword arguments of :func:`reference`.
    """
    return compare(reference(full, progress=progress, **options), quantized, progress=progress).to_dict()


def _as_model(model: Model | Denoiser) -> Model:
    return BareModel(model) if isinstance(model, Denoiser) else model


def _to_cpu(call: DenoiserCall) -> DenoiserCall:
    """A copy of the call on the CPU: the next step may reuse the buffers of its tensors."""
    return DenoiserCall(call.k, *_copy_to_cpu(list(call[1:])))


def _copy_to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {name: _copy_to_cpu(part) for name, part in value.items()}
    if isinstance(value, Unbatched):
        return Unbatched(_copy_to_cpu(value.value))
    return [_copy_to_cpu(part) for part in value] if isinstance(value, list) else value


@torch.inference_mode()
def _run_calls(
    denoiser: Denoiser, calls: Sequence[DenoiserCall], projections: Sequence[str], progress: Progress | None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The denoiser's outputs at these inputs, and its projections' outputs for the first row of each: (K, d)."""
    predictions: list[Tensor] = []
    features: dict[str, list[Tensor]] = {name: [] for name in projections}
    with evaluating(denoiser.module), (progress or Silent()).stage("predicted noise", len(calls)) as advance:
        for call in calls:
            with _first_rows(denoiser.module, projections) as rows:
                prediction = denoiser(call.sample, call.t, **call.conditioning)
            check_finite(prediction, call.k, call.t[0])
            predictions.append(prediction.float().cpu())
            for name in projections:
                if name not in rows:
                    raise InputError(f"projection {name!r} was not called by the denoiser: it has no temporal feature")
                features[name].append(rows[name])
            advance(1)
    return predictions, {name: torch.stack(steps) for name, steps in features.items()}


@contextmanager
def _first_rows(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the first row of these submodules' latest outputs, (d,) float32 each, by name, in a ``with`` block."""
    rows: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def store_row(_: nn.Module, args: tuple, output: Tensor) -> None:
            rows[name] = (output[0] if output.ndim > 1 else output).detach().float().cpu().flatten().clone()

        return store_row

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def _check_projections(denoiser: Denoiser, names: Sequence[str]) -> None:
    modules = dict(denoiser.module.named_modules())
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=2) or ["none is near"]
            raise InputError(f"no module {name!r} in {denoiser.name}; nearest: {', '.join(near)}")
