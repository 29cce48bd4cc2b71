"""Both denoisers called on the same inputs: those of the recorded full-precision trajectories, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tempoquant.calibration import observed
from tempoquant.diagnosis.activation_quantiles import ActivationQuantiles, outputs_of
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
DenoiserInputs = tuple[Tensor, Tensor, dict[str, Any]]
"""What ``Store.read`` returns: sample (B, ...), time steps (B,), and further keyword arguments."""


@dataclass(frozen=True)
class SameInputComparison:
    """Outputs of both denoisers, compared at K steps in step order.

    Attributes:
        features: sums over pairs of temporal features (outputs of projections).
        units: sums over pairs of units' outputs.
        noise: sums over pairs of predictions.
        nearest: (P, R) int64, for every projection, by ascending time step, the row whose full-precision feature is
            nearest to the quantized one.
        activations: (L, K, Q) float32 quantiles of the full-precision layers' inputs, at ``LEVELS``.
    """

    features: PairSums
    units: PairSums
    noise: PairSums
    nearest: Tensor
    activations: Tensor


@torch.inference_mode()
def compare_on_same_inputs(
    pair: Pair,
    store: Store,
    projections: Sequence[str],
    units: Sequence[str],
    layers: Sequence[str],
    batch_size: int,
    progress: Progress,
) -> SameInputComparison:
    """Run both denoisers on every recorded input and compare the outputs of their modules.

    Memory does not grow with the recording: the outputs of a batch are reduced to sums.

    Args:
        pair: the two models.
        store: the full-precision recording.
        projections: names of modules whose outputs are temporal features.
        units: names of modules whose outputs are compared.
        layers: names of layers whose inputs' quantiles are computed.
        batch_size: recorded rows a denoiser call.
        progress: advanced by one a batch.

    Raises:
        NumericsError: a prediction is NaN or infinite.
    """
    batches = torch.arange(store.samples).split(batch_size)
    steps = store.steps
    feature_sums, unit_sums = PairSums(projections, steps), PairSums(units, steps)
    noise_sums, quantiles = PairSums([NOISE], steps), ActivationQuantiles(layers, steps, len(batches))
    full_features: dict[str, list[Tensor]] = {name: [] for name in projections}
    quantized_features: dict[str, list[Tensor]] = {name: [] for name in projections}
    with progress.stage("both on the same inputs", steps * len(batches)) as advance:
        for k in range(steps):
            for batch in batches:
                inputs = store.read(torch.full_like(batch, k), batch)
                full = call_and_observe(pair.full.denoiser, inputs, k, [*projections, *units], layers, quantiles)
                quantized = call_and_observe(pair.quantized.denoiser, inputs, k, [*projections, *units])
                for sums in (feature_sums, unit_sums, noise_sums):
                    # Another tool may compute a module's work elsewhere.
                    for name in sums.row.keys() & full.keys() & quantized.keys():
                        sums.add(name, k, full[name], quantized[name])
                if batch[0] == 0:
                    for name in projections:
                        full_features[name].append(_first_row(full[name]))
                        quantized_features[name].append(_first_row(quantized[name]))
                advance(1)
            quantiles.end_step(k)
    nearest = _nearest(store, projections, full_features, quantized_features)
    return SameInputComparison(feature_sums, unit_sums, noise_sums, nearest, quantiles.quantiles)


def call_and_observe(
    denoiser: Denoiser,
    inputs: DenoiserInputs,
    k: int,
    names: Sequence[str],
    layers: Sequence[str] = (),
    quantiles: ActivationQuantiles | None = None,
) -> dict[str, Tensor]:
    """Call a denoiser on recorded inputs: the outputs of the named modules and, as ``NOISE``, the prediction.

    Args:
        denoiser: called in evaluation mode, on its own device.
        inputs: of ``Store.read``.
        k: step index of the inputs.
        names: modules whose outputs are returned; one that is not called has none.
        layers: modules whose inputs ``quantiles`` observes.
        quantiles: observes the inputs of ``layers``; None to observe nothing.

    Raises:
        NumericsError: the prediction is NaN or infinite.
    """
    module = denoiser.module
    sample, t, conditioning = map_kind(inputs, Tensor, lambda x: x.to(device_of(module)))
    modules: dict[str, Any] = {name: module.get_submodule(name) for name in layers}
    observe = quantiles.observe if quantiles is not None else lambda name, x: None
    with evaluating(module), outputs_of(module, names) as outputs, observed(modules, {}, observe):
        prediction = denoiser(sample, t, **conditioning)
    check_finite(prediction, k, t[0])
    return {**outputs, NOISE: prediction}


def _first_row(output: Tensor) -> Tensor:
    return output[0].flatten().float().cpu()


def _nearest(
    store: Store, projections: Sequence[str], full: dict[str, list[Tensor]], quantized: dict[str, list[Tensor]]
) -> Tensor:
    """Nearest rows (P, R) of features, K a projection; rows are unique time steps: a repeated one has one feature."""
    timesteps = store.timesteps.tolist()
    first = [timesteps.index(t) for t in sorted(set(timesteps))]
    pairs = ((torch.stack(full[n])[first], torch.stack(quantized[n])[first]) for n in projections)
    nearest = [nearest_rows(a, b) for a, b in pairs]
    return torch.stack(nearest) if nearest else torch.zeros(0, len(first), dtype=torch.int64)


def intervals_in_use(pipeline: QuantizedPipeline | None, layers: Sequence[str], timesteps: Tensor) -> Tensor:
    """Least and greatest value on the grid of each layer's quantized input, (L, K, 2) float32.

    Of a split layer the least and greatest of both parts. NaN where the input is not quantized, or where its scale is
    dynamic (comes from the input).

    Args:
        pipeline: the quantized model; None for another tool's, whose intervals are not known: all NaN.
        layers: L names.
        timesteps: (K,) in step order.
    """
    bounds = torch.full((len(layers), len(timesteps), 2), torch.nan)
    if pipeline is None:
        return bounds
    module, clock = pipeline.denoiser.module, pipeline.clock
    for k, t in enumerate(timesteps):
        with clock.at(t.to(device_of(module))):
            for i, name in enumerate(layers):
                parts = [p for p in module.get_submodule(name).modules() if isinstance(p, QuantizedLayer)]
                providers = [p.input_interval for p in parts if p.input_interval is not None]
                qparams = [provider.current() for provider in providers if not provider.dynamic]
                if qparams:
                    bounds[i, k, 0] = min(float(((q.q_min - q.zero_point) * q.scale).min()) for q in qparams)
                    bounds[i, k, 1] = max(float(((q.q_max - q.zero_point) * q.scale).max()) for q in qparams)
    return bounds
