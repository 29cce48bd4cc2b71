"""Temporal features computed ahead by the block's program, and the choice between them and the quantized layers.

Huang et al., Temporal Feature Matters (TPAMI 2025; arXiv 2407.19547): cache-based maintenance, and disturbance-aware
selection.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock
from tempoquant.recipe import Temporal
from tempoquant.temporal.feature_tables import install_feature_tables
from tempoquant.temporal.program import TemporalProgram
from tempoquant.temporal.table import TemporalTable


def cache_features(
    module: nn.Module,
    program: TemporalProgram,
    externals: Mapping[str, Tensor],
    clock: Clock,
    temporal: Temporal,
    run: Callable[[], Tensor],
) -> None:
    """Replace the projections g_i of ``module`` that the recipe chooses by tables; h too, if all of them are.

    Args:
        module: the denoiser, its temporal layers calibrated (or float, where they are never to run).
        program: its temporal information block, of the full-precision denoiser.
        externals: recorded inputs of the block, one a row of ``clock``.
        clock: of ``module``.
        temporal: the recipe's part; without ``cache`` nothing is replaced.
        run: one call of the denoiser.

    Raises:
        TempoquantError: a layer puts out several features a call, or one beyond float16's range.
    """
    if temporal.cache is None:
        return
    full = _program_features(program, externals, program.modules)
    quantized = full
    if not temporal.never_runs:
        with clock.at(clock.timesteps):
            layers = {name: module.get_submodule(name) for name in program.layers}
            quantized = _program_features(program, externals, layers)
    source = quantized if temporal.cache_features == "quantized" else full
    chosen = list(program.projections)
    if temporal.cache_choice == "least-error":
        rows = torch.arange(len(clock))
        stored = {name: TemporalTable.of(source[name], temporal.cache, clock).at(rows) for name in chosen}
        chosen = [name for name in chosen if cache_is_nearer(full[name], quantized[name], stored[name])]
    feeding = program.shared if len(chosen) == len(program.projections) else ()
    features = {name: source[name] for name in (*chosen, *feeding)}
    install_feature_tables(module, features, temporal.cache, clock, feeding, run)


def cache_is_nearer(full: Tensor, quantized: Tensor, cached: Tensor) -> bool:
    """Whether cached features have no larger error over all rows than those that the quantized layers compute.

    The error is ``sum_t ||emb_t - emb^q_t||^2`` of one projection (disturbance-aware selection).

    Args:
        full: (R, ...) in full precision.
        quantized: likewise, computed by the quantized layers.
        cached: likewise, as they are stored.
    """
    errors = [(features.double() - full.double()).square().sum() for features in (cached, quantized)]
    return bool(errors[0] <= errors[1])


def _program_features(
    program: TemporalProgram, externals: Mapping[str, Tensor], layers: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Every temporal layer's output at every row, (R, ...) float32."""
    with torch.no_grad():
        outputs = program.run(externals, lambda name, x: layers[name](x))
    for key, value in outputs.items():
        name, _, call = key.partition("#")
        if call and not torch.equal(value, outputs[name]):
            raise TempoquantError(f"{name} is called more than once with different results: it cannot be cached")
    return {name: outputs[name].float() for name in program.layers}
