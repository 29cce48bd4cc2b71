"""Both denoisers on the same inputs, step by step along the recorded full-precision trajectories."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tempoquant.calibration import observed
from tempoquant.diagnosis.activation_quantiles import Distributions, outputs_of
from tempoquant.diagnosis.pair import Pair
from tempoquant.diagnosis.sums import PairSums
from tempoquant.evaluation import nearest_rows
from tempoquant.graph import map_kind
from tempoquant.layers import QuantizedLayer
from tempoquant.modes import evaluating
from tempoquant.progress import Progress
from tempoquant.quantized import QuantizedPipeline
from tempoquant.recording import Store
from tempoquant.sampling import Denoiser, check_finite, device_of

NOISE = "predicted noise"


@dataclass(frozen=True)
class Along:
    """What was found, K steps in step order.

    Attributes:
        features, units, noise: sums over pairs of temporal features, of units' outputs and of predictions.
        nearest: (P, R) for every projection, by ascending time step, the row whose full-precision feature is nearest.
        activations: (L, K, Q) quantiles of the full-precision layers' inputs.
    """

    features: PairSums
    units: PairSums
    noise: PairSums
    nearest: Tensor
    activations: Tensor


@torch.inference_mode()
def measure_along(
    pair: Pair,
    store: Store,
    projections: Sequence[str],
    units: Sequence[str],
    layers: Sequence[str],
    batch_size: int,
    progress: Progress,
) -> Along:
    """Run both denoisers on every recorded input; what a batch put out is forgotten with the batch.

    Args:
        projections: modules whose outputs are temporal features. units: modules whose outputs are compared.
        layers: Linear and Conv2d whose inputs' distributions are told.
    """
    batches = torch.arange(store.samples).split(batch_size)
    steps = store.steps
    features, compared = PairSums(projections, steps), PairSums(units, steps)
    noise, seen = PairSums([NOISE], steps), Distributions(layers, steps, len(batches))
    rows: tuple[dict[str, list[Tensor]], ...] = ({name: [] for name in projections}, {name: [] for name in projections})
    with progress.stage("both on the same inputs", steps * len(batches)) as advance:
        for k in range(steps):
            for batch in batches:
                given = store.read(torch.full_like(batch, k), batch)
                a = call_watched(pair.full.denoiser, given, k, [*projections, *units], layers, seen)
                b = call_watched(pair.quantized.denoiser, given, k, [*projections, *units])
                for sums in (features, compared, noise):
                    # Another tool may compute a module's work elsewhere.
                    for name in sums.row.keys() & a.keys() & b.keys():
                        sums.add(name, k, a[name], b[name])
                if batch[0] == 0:
                    for kept, side in zip(rows, (a, b), strict=True):
                        for name in projections:
                            kept[name].append(side[name][0].flatten().float().cpu())
                advance(1)
            seen.end_step(k)
    return Along(features, compared, noise, _nearest(store, projections, *rows), seen.quantiles)


def call_watched(
    denoiser: Denoiser,
    given: tuple[Tensor, Tensor, dict[str, Any]],
    k: int,
    names: Sequence[str],
    layers: Sequence[str] = (),
    seen: Distributions | None = None,
) -> dict[str, Tensor]:
    """Call a denoiser on recorded inputs of step index ``k``: outputs of the named modules, and of itself.

    Args:
        given: of ``Store.read``. seen: is shown the inputs of ``layers``.
    """
    module = denoiser.module
    sample, t, conditioning = map_kind(given, Tensor, lambda x: x.to(device_of(module)))
    watched: dict[str, Any] = {name: module.get_submodule(name) for name in layers}
    see = seen.see if seen is not None else lambda name, x: None
    with evaluating(module), outputs_of(module, names) as caught, observed(watched, {}, see):
        prediction = denoiser(sample, t, **conditioning)
    check_finite(prediction, k, t[0])
    return {**caught, NOISE: prediction}


def _nearest(
    store: Store, projections: Sequence[str], full: dict[str, list[Tensor]], quantized: dict[str, list[Tensor]]
) -> Tensor:
    """Rows are unique time steps: a repeated one has one feature."""
    timesteps = store.timesteps.tolist()
    first = [timesteps.index(t) for t in sorted(set(timesteps))]
    pairs = ((torch.stack(full[n])[first], torch.stack(quantized[n])[first]) for n in projections)
    found = [nearest_rows(a, b) for a, b in pairs]
    return torch.stack(found) if found else torch.zeros(0, len(first), dtype=torch.int64)


def intervals_in_use(own: QuantizedPipeline | None, layers: Sequence[str], timesteps: Tensor) -> Tensor:
    """Least and greatest value that each layer's input can take, (L, K, 2).

    Of a layer in two parts, both parts' together; NaN where nothing is quantized, or scales come from the input.

    Args:
        own: the quantized model; of another tool's, None, nothing is known.
        layers: names.
        timesteps: (K,) in step order.
    """
    found = torch.full((len(layers), len(timesteps), 2), torch.nan)
    if own is None:
        return found
    module, clock = own.denoiser.module, own.clock
    for k, t in enumerate(timesteps):
        with clock.at(t.to(device_of(module))):
            for i, name in enumerate(layers):
                parts = [p for p in module.get_submodule(name).modules() if isinstance(p, QuantizedLayer)]
                providers = [p.input_interval for p in parts if p.input_interval is not None]
                intervals = [provider.current() for provider in providers if not provider.dynamic]
                if intervals:
                    found[i, k, 0] = min(float(((v.q_min - v.zero_point) * v.scale).min()) for v in intervals)
                    found[i, k, 1] = max(float(((v.q_max - v.zero_point) * v.scale).max()) for v in intervals)
    return found
