"""Temporal information aware reconstruction (TFMQ-DM, CVPR 2024, section 4.2).

The layers that see only the time step are reconstructed together against their own outputs, the temporal features
``emb_{t,i} = g_i(h(t))``, over every recorded time step: no image is needed, and no block output pulls at them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tempoquant.layers import stock_product
from tempoquant.numerics import QParams
from tempoquant.progress import Progress
from tempoquant.reconstruction.effort import Effort
from tempoquant.reconstruction.rounding import SoftRounding
from tempoquant.reconstruction.unit import LayerRounding, compensate, penalty
from tempoquant.temporal import TemporalProgram


def tiar(
    program: TemporalProgram,
    externals: Mapping[str, Tensor],
    layers: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    grids: Mapping[str, QParams],
    effort: Effort,
    seed: int,
    progress: Progress,
) -> None:
    """Round the temporal layers in place.

    Args:
        program: the temporal information block as a function of its externals.
        externals: recorded values, R rows each.
        layers: temporal layers by name; those without a grid stay float.
        weights: full-precision weights of all of them.
        grids: of those that are rounded, (C_out, G).
        effort: iterations and step size.
        seed: keys the random draws.
    """
    inputs: dict[str, Tensor] = {}

    def exact(name: str, x: Tensor) -> Tensor:
        inputs[name] = x
        return stock_product(layers[name], x, weights[name], layers[name].bias)

    targets = program.run(externals, exact)
    fitted = dict(grids)

    def rounded(name: str, x: Tensor) -> Tensor:
        layer = layers[name]
        if name in grids and effort.compensate:
            key = (seed, "tiar", name)
            job = LayerRounding(layer, weights[name], grids[name], x, inputs[name], effort.vectors, key)
            rounded = compensate(job)
            fitted[name] = rounded.qparams
            layer.set_weight(rounded.integers, rounded.qparams, _bits(rounded.qparams))
        return layer(x)

    program.run(externals, rounded)
    _learn(program, externals, layers, weights, fitted, targets, effort, progress)


def _learn(
    program: TemporalProgram,
    externals: Mapping[str, Tensor],
    layers: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    grids: Mapping[str, QParams],
    targets: Mapping[str, Tensor],
    effort: Effort,
    progress: Progress,
) -> None:
    starts = {n: layers[n].weight.float() if effort.compensate else None for n in grids}
    roundings = {n: SoftRounding(weights[n], layers[n].layout.grid(grids[n]), starts[n]) for n in grids}

    def soft(name: str, x: Tensor) -> Tensor:
        weight = roundings[name].weight() if name in roundings else weights[name]
        return stock_product(layers[name], x, weight, layers[name].bias)

    def hard(name: str, x: Tensor) -> Tensor:
        rounding = roundings.get(name)
        weight = weights[name] if rounding is None else rounding.integers() * rounding.scale
        return stock_product(layers[name], x, weight, layers[name].bias)

    optimizer = torch.optim.Adam([r.alpha for r in roundings.values()], lr=effort.lr)
    before = (
        feature_loss(program.run(externals, lambda name, x: layers[name](x)), targets)
        if effort.compensate
        else torch.inf
    )
    with torch.enable_grad(), progress.stage("temporal features (TIAR)", effort.temporal_iterations) as advance:
        for iteration in range(effort.temporal_iterations):
            loss = feature_loss(program.run(externals, soft), targets)
            loss = loss + penalty(roundings.values(), iteration, effort.temporal_iterations)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance(1)
    if feature_loss(program.run(externals, hard), targets) <= before:
        for name, rounding in roundings.items():
            layers[name].set_weight(rounding.integers(), grids[name], _bits(grids[name]))


def feature_loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """``sum_i mean_t ||emb_{t,i} - emb^q_{t,i}||^2`` over all temporal layers' outputs (section 4.2)."""
    return torch.stack([(outputs[n] - targets[n]).square().sum(-1).mean() for n in targets]).sum()


def _bits(grid: QParams) -> int:
    return int(grid.q_max + 1).bit_length() - 1
