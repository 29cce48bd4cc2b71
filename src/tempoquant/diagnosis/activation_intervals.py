"""Learned intervals of one or several quantized models on the activations that they are for, step by step."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tempoquant.api import load
from tempoquant.diagnosis.activation_quantiles import SampledDistributions
from tempoquant.diagnosis.patterns import matching
from tempoquant.diagnosis.same_inputs import call_watched, intervals_in_use
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
class Spreads:
    """K steps in step order, the noisiest first, of L layers.

    Attributes:
        timesteps: (K,). layers: names.
        quantiles: (L, K, 7) of the full-precision layers' inputs, at ``LEVELS``.
        edges: (L, B + 1) of histograms. shares: (L, K, B) of each step's values within.
        intervals: by recipe, (S, L, K, 2) of S models: least and greatest value that a quantized input can take.
    """

    timesteps: Tensor
    layers: tuple[str, ...]
    quantiles: Tensor
    edges: Tensor
    shares: Tensor
    intervals: dict[str, Tensor]


def interval_spreads(
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
) -> Spreads:
    """Read intervals of quantized folders, and what full precision puts into them.

    Args:
        folders: of one model. Those of one recipe, such as seeds, are told together.
        reference: that model, in full precision.
        layers: patterns of layer names; without any, the six layers whose intervals change most over the steps.
        recording: trajectories of the reference; None: ``samples`` are recorded on the first folder's schedule.
        samples: trajectories to read. conditioning: what they are drawn from, as ``Model.generate`` takes it.

    Raises:
        InputError: folders of different models or none with an interval a time step, a pattern without a layer, too
            many layers, or another model's recording.
    """
    if samples < 1 or batch_size < 1:
        raise InputError(f"samples = {samples}, batch size = {batch_size}: at least 1")
    full, shown = in_float32(resolve(reference)), progress or Silent()
    models = [_opened(Path(folder), full) for folder in folders]
    names = _matching(models, full, layers)
    temporary = TemporaryDirectory(prefix="tempoquant-") if recording is None else nullcontext(str(recording))
    with temporary as place:
        if recording is None:
            run = {**models[0].schedule, "seed": seed, "batch_size": batch_size}
            given = conditioning_in_float32(conditioning)
            record(full, place, samples=samples, dtype="float32", conditioning=given, progress=shown, **run)
        store = _recorded(place, full)
        found = [_intervals(model, names, store.timesteps) for model in models]
        names, found = _drawn(names, found, limit=None if layers else SHOWN)
        seen = _activations(full, store, names, min(samples * store.branches, store.samples), batch_size, shown)
    ends = torch.stack(found)
    limits = ends[..., 0].amin((0, 2)), ends[..., 1].amax((0, 2))
    edges, shares = _histograms([torch.stack(steps) for steps in seen.kept.values()], *limits)
    recipes = list(dict.fromkeys(model.recipe.name for model in models))
    by_recipe = {
        name: torch.stack([f for f, model in zip(found, models, strict=True) if model.recipe.name == name])
        for name in recipes
    }
    return Spreads(store.timesteps, tuple(names), seen.quantiles, edges, shares, by_recipe)


def _opened(folder: Path, full: Model) -> QuantizedPipeline:
    made = load(folder, denoiser=full.denoiser if (folder / "denoiser").is_dir() else None)
    own, wanted = made.facts.get("model_hash"), state_hash(full.denoiser.module)
    if own not in (None, wanted) or tuple(made.denoiser.sample_shape) != tuple(full.denoiser.sample_shape):
        raise InputError(f"{folder} was made from another model than {full.name} (its state is {own}, not {wanted})")
    return made


def _matching(models: list[QuantizedPipeline], full: Model, patterns: Sequence[str]) -> list[str]:
    """Layers whose inputs all models quantize, in module order."""
    parts = {name for name, _ in full.denoiser.module.named_modules()}
    names = [name for name in _quantized_inputs(models[0]) if name in parts]
    for other in models[1:]:
        there = set(_quantized_inputs(other))
        names = [name for name in names if name in there]
    chosen = matching(names, patterns, "layer with a quantized input")
    if patterns and len(chosen) > MOST:
        raise InputError(f"{len(chosen)} layers match: a figure shows at most {MOST}")
    return chosen


def _quantized_inputs(model: QuantizedPipeline) -> list[str]:
    """Names of layers; of one in two parts its own, which full precision knows too."""
    found = [
        name.removesuffix(".first").removesuffix(".second")
        for name, part in model.denoiser.module.named_modules()
        if isinstance(part, QuantizedLayer) and part.input_interval is not None and not part.input_interval.dynamic
    ]
    return list(dict.fromkeys(found))


def _recorded(place: Path | str, full: Model) -> Store:
    store = Store(place)
    if store.model_hash != state_hash(full.denoiser.module):
        raise InputError(f"{place} is a recording of another model than {full.name}")
    return store


def _intervals(model: QuantizedPipeline, names: Sequence[str], timesteps: Tensor) -> Tensor:
    if model.denoiser.bake is not None:
        model.denoiser.bake(timesteps)
    return intervals_in_use(model, names, timesteps)


def _drawn(names: list[str], found: list[Tensor], limit: int | None) -> tuple[list[str], list[Tensor]]:
    """All layers, or those whose widths change most in any model; InputError if none changes at all."""
    widths = torch.stack([one[..., 1] - one[..., 0] for one in found])
    change = (widths.amax(2) / widths.amin(2)).amax(0) if names else torch.zeros(0)
    if not bool((change > 1).any()):
        raise InputError("no interval of these folders changes with the time step: give one of a method with tables")
    rows = sorted(change.argsort(descending=True, stable=True)[:limit].tolist())
    return [names[i] for i in rows], [one[rows] for one in found]


@torch.inference_mode()
def _activations(
    full: Model, store: Store, names: Sequence[str], rows: int, batch_size: int, progress: Progress
) -> SampledDistributions:
    batches = torch.arange(rows).split(batch_size)
    seen = SampledDistributions(names, store.steps, len(batches))
    with progress.stage("activations", store.steps * len(batches)) as advance:
        for k in range(store.steps):
            for batch in batches:
                given = store.read(torch.full_like(batch, k), batch)
                call_watched(full.denoiser, given, k, (), names, seen)
                advance(1)
            seen.end_step(k)
    return seen


def _histograms(values: Sequence[Tensor], least: Tensor, greatest: Tensor) -> tuple[Tensor, Tensor]:
    """Edges (L, B + 1) that serve all steps of a layer, and shares (L, K, B), of values (K, M) a layer.

    Args:
        least, greatest: (L,) what histograms reach at least.
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
