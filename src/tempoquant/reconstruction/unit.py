"""Reconstructing one unit: closed-form rounding of its layers in order, then learned rounding of all together."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.extension import WEIGHT_ROUNDINGS
from tempoquant.layers import QuantizedLayer, temporary_kernels
from tempoquant.numerics import QParams, nearest
from tempoquant.randomness import generator
from tempoquant.reconstruction.effort import Effort
from tempoquant.reconstruction.gptq import Moments, compensated_rounding, fitted_scale
from tempoquant.reconstruction.inputs import input_vectors
from tempoquant.reconstruction.lockstep import take_rows
from tempoquant.reconstruction.rounding import SoftRounding, beta_at, reconstruction_loss

MOST_VECTORS = 32_768
CHUNK = 32


def compensate(
    layer: QuantizedLayer,
    weight: Tensor,
    qparams: QParams,
    quantized: Tensor,
    full: Tensor,
    effort: Effort,
    key: tuple,
    rounding: str = "reconstruct",
) -> tuple[Tensor, QParams]:
    """Integers and scale of one layer from its inputs in both streams.

    Args:
        weight: full precision. qparams: its grid.
        quantized, full: the layer's input in the quantized and the full-precision stream, same shape.
        key: names the random draw of input vectors.
        rounding: a name of :data:`WEIGHT_ROUNDINGS`; grouped convolutions are rounded to nearest whatever it is.

    Returns:
        ``q - z`` of the weight's shape, and the grid with the scale fitted to them.
    """
    if _is_grouped(layer):
        return nearest(weight, qparams), qparams
    x, y = _vectors(layer, quantized, full, effort, key)
    integers, fitted = WEIGHT_ROUNDINGS[rounding](weight.flatten(1), qparams, x, y)
    return integers.view_as(weight), fitted


def compensate_about_mean(
    layer: QuantizedLayer,
    weight: Tensor,
    qparams: QParams,
    quantized: Tensor,
    full: Tensor,
    effort: Effort,
    key: tuple,
    rounding: str = "reconstruct",
) -> tuple[Tensor, QParams, Tensor]:
    """As :func:`compensate`, for a layer whose bias may change with its weight.

    What the bias can take off need not be rounded for: the least error of ``W x + b`` over both is that of the
    deviations of x from its mean, with ``b' = b + W E[x_f] - W_q E[x_q]``.

    Returns:
        ``q - z``, the grid, and what to add to the bias, (C_out,).
    """
    if _is_grouped(layer):
        return nearest(weight, qparams), qparams, weight.new_zeros(weight.shape[0])
    x, y = _vectors(layer, quantized, full, effort, key)
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    full_centred = centred if y is x else y - mean_y
    integers, fitted = WEIGHT_ROUNDINGS[rounding](weight.flatten(1), qparams, centred, full_centred)
    shift = weight.flatten(1) @ mean_y - (integers @ mean_x) * fitted.scale
    return integers.view_as(weight), fitted, shift


def _is_grouped(layer: QuantizedLayer) -> bool:
    return getattr(layer, "groups", 1) != 1


def _vectors(
    layer: QuantizedLayer, quantized: Tensor, full: Tensor, effort: Effort, key: tuple
) -> tuple[Tensor, Tensor]:
    """The layer's input vectors at the same places of both streams, (M, K) each; one tensor where these are one."""
    most = min(MOST_VECTORS, effort.vectors * max(layer.weight[0].numel(), 256))
    x = input_vectors(layer, quantized, most, generator(*key))
    return x, x if full is quantized else input_vectors(layer, full, most, generator(*key))


@WEIGHT_ROUNDINGS.register("reconstruct")
def _error_compensated(weight: Tensor, qparams: QParams, quantized: Tensor, full: Tensor) -> tuple[Tensor, QParams]:
    """See :mod:`tempoquant.reconstruction.gptq`."""
    moments = Moments.of(weight, quantized, None if full is quantized else full)
    integers = compensated_rounding(weight, moments, qparams)
    return integers, qparams.with_scale(fitted_scale(weight, integers, moments, qparams.scale))


@WEIGHT_ROUNDINGS.register("nearest")
def _nearest(weight: Tensor, qparams: QParams, quantized: Tensor, full: Tensor) -> tuple[Tensor, QParams]:
    return nearest(weight, qparams), qparams


def learn_rounding(
    module: nn.Module,
    layers: Mapping[str, QuantizedLayer],
    weights: Mapping[str, Tensor],
    grids: Mapping[str, QParams],
    call: tuple[tuple, dict[str, Any]],
    target: Tensor,
    effort: Effort,
    key: tuple,
) -> dict[str, Tensor]:
    """AdaRound over all layers of a unit against its full-precision output; integers by layer name.

    Layers that already hold integers start from them, and keep them if the learned ones have no lower hard loss.

    Args:
        module: the unit. layers: those of its layers that learn. weights, grids: full precision and grid by name.
        call: (args, kwargs) of the unit in the quantized stream, N rows. target: its full-precision output.
        key: names the random draws.
    """
    starts = {n: l.weight.float() if l.weight_scale is not None else None for n, l in layers.items()}
    roundings = {n: SoftRounding(weights[n], grids[n], starts[n]) for n in layers}
    known = all(start is not None for start in starts.values())
    before = hard_loss(module, call, target) if known else float("inf")
    soft: Any = {layer: partial(_soft, roundings[name]) for name, layer in layers.items()}
    with torch.enable_grad(), temporary_kernels(soft):
        _optimize(module, roundings, call, target, effort, key)
    learned = {n: r.integers() for n, r in roundings.items()}
    with temporary_kernels({layer: _fixed(learned[n] * roundings[n].scale) for n, layer in layers.items()}):
        after = hard_loss(module, call, target)
    return learned if after <= before else {n: s for n, s in starts.items() if s is not None}


def _optimize(
    module: nn.Module,
    roundings: Mapping[str, SoftRounding],
    call: tuple[tuple, dict[str, Any]],
    target: Tensor,
    effort: Effort,
    key: tuple,
) -> None:
    optimizer = torch.optim.Adam([r.alpha for r in roundings.values()], lr=effort.lr)
    draws, rows = generator(*key), target.shape[0]
    for iteration in range(effort.iterations):
        chosen = torch.randint(rows, (min(effort.batch, rows),), generator=draws)
        args, kwargs = take_rows(call, chosen, rows)
        loss = reconstruction_loss(first_tensor(module.forward(*args, **kwargs)), target[chosen])
        loss = loss + penalty(roundings.values(), iteration, effort.iterations)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def penalty(roundings: Any, iteration: int, iterations: int) -> Tensor | float:
    """The weighted rounding regularizer of all ``roundings`` at an iteration; 0 during warm-up."""
    beta = beta_at(iteration, iterations)
    return 0.0 if beta is None else 0.01 * sum(r.penalty(beta) for r in roundings)


def _soft(rounding: SoftRounding, layer: QuantizedLayer, x: Tensor) -> Tensor:
    """The layer's output with the weight that is being rounded."""
    return layer.product(x, rounding.weight(), layer.bias)


def _fixed(weight: Tensor) -> Any:
    return lambda layer, x: layer.product(x, weight, layer.bias)


def hard_loss(
    module: nn.Module,
    call: tuple[tuple, dict[str, Any]],
    target: Tensor,
    p: float = 2.0,
    prepare: Callable[[slice], None] = lambda rows: None,
) -> float:
    """The reconstruction loss of a unit as it is, over all rows.

    Args:
        prepare: called with the rows that come next.
    """
    total, rows = 0.0, target.shape[0]
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        prepare(part)
        args, kwargs = take_rows(call, part, rows)
        output = first_tensor(module.forward(*args, **kwargs))
        total += float(reconstruction_loss(output, target[part], p)) * output.shape[0]
    return total / rows


def first_tensor(output: Any) -> Tensor:
    """The tensor a unit returns, or the first of several."""
    if isinstance(output, Tensor):
        return output
    return output[0]
