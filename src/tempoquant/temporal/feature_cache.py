"""Temporal features computed ahead, and the choice between them and the quantized layers that would compute them.

Huang et al., Temporal Feature Matters (TPAMI 2025; arXiv 2407.19547): cache-based maintenance, and disturbance-aware
selection.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock
from tempoquant.recipe import Temporal
from tempoquant.temporal.replacements import drop_dead_layers, replace_with_tables
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
    """Replace temporal layers of ``module`` by what they put out at every row, as the recipe says; h if all g_i are.

    Args:
        module: the denoiser, its temporal layers calibrated (or float, where they are never to run).
        externals: recorded inputs of the temporal block, one a row of ``clock``.
        run: one call of the denoiser.
    """
    if temporal.cache is None:
        return
    full = _features(program, externals, program.modules)
    own = full if temporal.never_runs else _quantized(module, program, externals, clock)
    source = own if temporal.cache_features == "quantized" else full
    made = {n: TemporalTable.of(source[n], temporal.cache, clock) for n in program.projections}
    rows = torch.arange(len(clock))
    if temporal.cache_choice == "least-error":
        made = {n: table for n, table in made.items() if cache_is_nearer(full[n], own[n], table.at(rows))}
    replace_with_tables(module, made)
    if len(made) == len(program.projections):
        replace_with_tables(module, {n: TemporalTable.of(source[n], temporal.cache, clock) for n in program.shared})
        drop_dead_layers(module, program.shared, run)


def cache_is_nearer(full: Tensor, own: Tensor, cached: Tensor) -> bool:
    """Whether the cached features (R, d) have no larger error over all rows than the quantized layers' own.

    The error is ``sum_t ||emb_t - emb^q_t||^2`` of one projection (disturbance-aware selection).
    """
    errors = [(found.double() - full.double()).square().sum() for found in (cached, own)]
    return bool(errors[0] <= errors[1])


def _quantized(
    module: nn.Module, program: TemporalProgram, externals: Mapping[str, Tensor], clock: Clock
) -> dict[str, Tensor]:
    with clock.at(clock.timesteps):
        return _features(program, externals, {name: module.get_submodule(name) for name in program.layers})


def _features(
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
