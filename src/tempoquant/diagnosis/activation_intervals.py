"""Quantization intervals of one or several quantized models with the activations that they quantize, by step."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tempoquant.api import load
from tempoquant.diagnosis.activation_quantiles import ActivationSamples
from tempoquant.diagnosis.patterns import matching
from tempoquant.diagnosis.same_inputs import call_and_observe, intervals_in_use
from tempoquant.errors import InputError
from tempoquant.layers import QuantizedLayer
from tempoquant.pipelines import Model, conditioning_in_float32, in_float32, resolve, state_hash
from tempoquant.progress import Progress, Silent
from tempoquant.quantized import QuantizedPipeline
from tempoquant.recording import Store, record

BINS = 48
SHOWN = 6
MOST = 12
MARGIN = 0.03
RARE = 0.0005
"""Histograms leave out this share of an activation's values at either end; of all steps together."""


@dataclass(frozen=True)
class ActivationIntervals:
    """Intervals and activations of L layers at K steps in step order, the noisiest first.

    Attributes:
        timesteps: (K,).
        layers: L names.
        quantiles: (L, K, 7) float32 of the full-precision layers' inputs, at ``LEVELS``.
        edges: (L, B + 1) float32, bin edges of histograms of these inputs.
        shares: (L, K, B) float32, each bin's share of a step's values.
        intervals: by recipe name, (S, L, K, 2) float32 of S models: least and greatest value on the grid of the
            quantized input.
    """

    timesteps: Tensor
    layers: tuple[str, ...]
    quantiles: Tensor
    edges: Tensor
    shares: Tensor
    intervals: dict[str, Tensor]


def read_activation_intervals(
    folders: Sequence[Path | str],
    reference: Any,
    *,
    layers: Sequence[str] = (),
    recording: Path | str | None = None,
    samples: int = 8,
    seed: int = 1,
    batch_size: int = 16,
    conditioning: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ActivationIntervals:
    """Read the intervals of quantized folders, and compute the distributions of the inputs that they quantize.

    Args:
        folders: quantized folders of one model; those of one recipe, such as several seeds, stand in one entry.
        reference: that model, in full precision.
        layers: patterns of layer names; without any, the six layers whose intervals change most over the steps.
        recording: folder of full-precision trajectories; None to record ``samples`` on the first folder's schedule.
        samples: trajectories to read.
        seed: of the noise that is recorded.
        batch_size: recorded rows a denoiser call.
        conditioning: of the trajectories that are recorded, as ``Model.generate`` takes it.
        progress: shows the stages.

    Raises:
        InputError: folders of different models or none with an interval a time step, a pattern without a layer, too
            many layers, or another model's recording.
        FormatError: a folder is not quantized, or the recording is damaged.
    """
    if samples < 1 or batch_size < 1:
        raise InputError(f"samples = {samples}, batch size = {batch_size}: at least 1")
    full, progress = in_float32(resolve(reference)), progress or Silent()
    models = [_load(Path(folder), full) for folder in folders]
    names = _common_layers(models, full, layers)
    temporary = TemporaryDirectory(prefix="tempoquant-") if recording is None else nullcontext(str(recording))
    with temporary as folder:
        if recording is None:
            run = {**models[0].schedule, "seed": seed, "batch_size": batch_size}
            run["conditioning"] = conditioning_in_float32(conditioning)
            record(full, folder, samples=samples, dtype="float32", progress=progress, **run)
        store = _open_recording(folder, full)
        intervals = [_intervals(model, names, store.timesteps) for model in models]
        names, intervals = _moving(names, intervals, limit=None if layers else SHOWN)
        rows = min(samples * store.branches, store.samples)
        activations = _activations(full, store, names, rows, batch_size, progress)
    bounds = torch.stack(intervals)
    values = [torch.stack(steps) for steps in activations.samples.values()]
    edges, shares = _histograms(values, least=bounds[..., 0].amin((0, 2)), greatest=bounds[..., 1].amax((0, 2)))
    by_recipe: dict[str, list[Tensor]] = {}
    for model, interval in zip(models, intervals, strict=True):
        by_recipe.setdefault(model.recipe.name, []).append(interval)
    stacked = {name: torch.stack(tensors) for name, tensors in by_recipe.items()}
    return ActivationIntervals(store.timesteps, tuple(names), activations.quantiles, edges, shares, stacked)


def _load(folder: Path, full: Model) -> QuantizedPipeline:
    model = load(folder, denoiser=full.denoiser if (folder / "denoiser").is_dir() else None)
    stored, expected = model.facts.get("model_hash"), state_hash(full.denoiser.module)
    if stored not in (None, expected) or tuple(model.denoiser.sample_shape) != tuple(full.denoiser.sample_shape):
        raise InputError(
            f"{folder} was made from another model than {full.name}: the hash of its state is {stored}, not {expected}"
        )
    return model


def _common_layers(models: list[QuantizedPipeline], full: Model, patterns: Sequence[str]) -> list[str]:
    """Names of the layers that match and whose inputs all models quantize, in module order."""
    modules = {name for name, _ in full.denoiser.module.named_modules()}
    in_all = modules.intersection(*map(_quantized_inputs, models))
    names = [name for name in _quantized_inputs(models[0]) if name in in_all]
    matches = matching(names, patterns, "layer with a quantized input")
    if patterns and len(matches) > MOST:
        raise InputError(f"{len(matches)} layers match: a figure shows at most {MOST}")
    return matches


def _quantized_inputs(model: QuantizedPipeline) -> list[str]:
    """Names of layers with a static quantized input; of a split layer the name that it has in full precision."""
    names = [
        name.removesuffix(".first").removesuffix(".second")
        for name, part in model.denoiser.module.named_modules()
        if isinstance(part, QuantizedLayer) and part.input_interval is not None and not part.input_interval.dynamic
    ]
    return list(dict.fromkeys(names))


def _open_recording(folder: Path | str, full: Model) -> Store:
    store = Store(folder)
    if store.model_hash != state_hash(full.denoiser.module):
        raise InputError(f"{folder} is a recording of another model than {full.name}")
    return store


def _intervals(model: QuantizedPipeline, names: Sequence[str], timesteps: Tensor) -> Tensor:
    if model.denoiser.bake is not None:
        model.denoiser.bake(timesteps)
    return intervals_in_use(model, names, timesteps)


def _moving(names: list[str], intervals: list[Tensor], limit: int | None) -> tuple[list[str], list[Tensor]]:
    """The layers, and their intervals (L, K, 2) of each model, whose widths change most over the steps in any model.

    Args:
        names: of the layers.
        intervals: (L, K, 2) of each model.
        limit: layers at most; None for all.

    Raises:
        InputError: no interval changes with the step.
    """
    widths = torch.stack([interval[..., 1] - interval[..., 0] for interval in intervals])
    change = (widths.amax(2) / widths.amin(2)).amax(0) if names else torch.zeros(0)
    if not bool((change > 1).any()):
        raise InputError("no interval of these folders changes with the time step: give a folder quantized by step")
    rows = sorted(change.argsort(descending=True, stable=True)[:limit].tolist())
    return [names[i] for i in rows], [interval[rows] for interval in intervals]


@torch.inference_mode()
def _activations(
    full: Model, store: Store, names: Sequence[str], rows: int, batch_size: int, progress: Progress
) -> ActivationSamples:
    batches = torch.arange(rows).split(batch_size)
    activations = ActivationSamples(names, store.steps, len(batches))
    with progress.stage("activations", store.steps * len(batches)) as advance:
        for k in range(store.steps):
            for batch in batches:
                inputs = store.read(torch.full_like(batch, k), batch)
                call_and_observe(full.denoiser, inputs, k, (), names, activations)
                advance(1)
            activations.end_step(k)
    return activations


def _histograms(values: Sequence[Tensor], least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
    """Histograms of each layer's values by step: edges (L, B + 1), one set for all steps, and shares (L, K, B).

    Args:
        values: (K, M) float32 of each of the L layers.
        least: (L,) values that the first edges are not above.
        greatest: (L,) values that the last edges are not below.
    """
    edges, shares = [], []
    for i, steps in enumerate(values):
        # Sorted, because torch's quantiles take no more than 16 million.
        ordered = steps.flatten().sort().values
        rare = int(RARE * len(ordered))
        low = min(float(ordered[rare]), float(least[i]))
        high = max(float(ordered[-1 - rare]), float(greatest[i]))
        margin = MARGIN * (high - low)
        edges.append(torch.linspace(low - margin, high + margin, BINS + 1))
        counts = torch.stack([torch.histogram(row, edges[-1]).hist for row in steps])
        shares.append(counts / steps.shape[1])
    return torch.stack(edges), torch.stack(shares)
