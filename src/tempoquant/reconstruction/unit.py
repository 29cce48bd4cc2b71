"""Reconstructing one unit: closed-form rounding of its layers in order, then learned rounding of all together."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tempoquant.extension import WEIGHT_ROUNDINGS
from tempoquant.layers import QuantizedLayer, temporary_kernels
from tempoquant.numerics import QParams, RowLayout, nearest
from tempoquant.randomness import rng
from tempoquant.reconstruction.effort import Effort
from tempoquant.reconstruction.gptq import Moments, compensated_rounding, fitted_scale
from tempoquant.reconstruction.lockstep import take_rows
from tempoquant.reconstruction.rounding import SoftRounding, beta_at, reconstruction_loss

MOST_VECTORS = 32_768
CHUNK = 32


@dataclass(frozen=True)
class LayerRounding:
    """One layer that is rounded from its own inputs.

    Attributes:
        layer: whose inputs these are.
        weight: full precision, of the stock shape.
        qparams: its grid, (C_out, G).
        quantized: the layer's input in the quantized stream.
        full: in the full-precision stream, of the same shape; the same tensor where these do not differ.
        vectors: most input vectors that are drawn, as a multiple of their length K.
        key: names the random draw of input vectors.
        method: a name of :data:`WEIGHT_ROUNDINGS`. A layer without input vectors is rounded to nearest whatever it is.
    """

    layer: QuantizedLayer
    weight: Tensor
    qparams: QParams
    quantized: Tensor
    full: Tensor
    vectors: int
    key: tuple
    method: str = "reconstruct"

    @property
    def rows(self) -> Tensor:
        """The weight as (C_out, K)."""
        return self.layer.layout.to_rows(self.weight)

    def input_vectors(self) -> tuple[Tensor, Tensor]:
        """The layer's input vectors at the same places of both streams, (M, K) each; one tensor where these are one."""
        most = min(MOST_VECTORS, self.vectors * max(self.layer.layout.row_length, 256))
        x = self.layer.input_vectors(self.quantized, most, rng(*self.key))
        return x, x if self.full is self.quantized else self.layer.input_vectors(self.full, most, rng(*self.key))


@dataclass(frozen=True)
class Rounded:
    """What a layer's weight has become.

    Attributes:
        integers: ``q - z``, integer-valued float32 of the stock shape.
        qparams: the grid, its scale fitted to them, (C_out, G).
        bias_shift: what to add to the bias, (C_out,), or None.
    """

    integers: Tensor
    qparams: QParams
    bias_shift: Tensor | None = None


def round_nearest_in(layout: RowLayout, weight: Tensor, qparams: QParams) -> Tensor:
    """``q - z`` of rounding to nearest, of the weight's stock shape; ``qparams`` are (C_out, G)."""
    return layout.from_rows(nearest(layout.to_rows(weight), qparams))


def compensate(job: LayerRounding) -> Rounded:
    """Integers and scale of one layer from its inputs in both streams."""
    if not job.layer.has_input_vectors:
        return Rounded(round_nearest_in(job.layer.layout, job.weight, job.qparams), job.qparams)
    integers, fitted = WEIGHT_ROUNDINGS[job.method](job.rows, job.qparams, *job.input_vectors())
    return Rounded(job.layer.layout.from_rows(integers), fitted)


def compensate_about_mean(job: LayerRounding) -> Rounded:
    """As :func:`compensate`, for a layer whose bias may change with its weight.

    What the bias can take off need not be rounded for: the least error of ``W x + b`` over both is that of the
    deviations of x from its mean, with ``b' = b + W E[x_f] - W_q E[x_q]``.
    """
    if not job.layer.has_input_vectors:
        return replace(compensate(job), bias_shift=job.weight.new_zeros(job.layer.layout.output_channels))
    x, y = job.input_vectors()
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    full_centred = centred if y is x else y - mean_y
    rows = job.rows
    integers, fitted = WEIGHT_ROUNDINGS[job.method](rows, job.qparams, centred, full_centred)
    shift = rows @ mean_y - output_of_groups(integers, fitted.scale, mean_x)
    return Rounded(job.layer.layout.from_rows(integers), fitted, shift)


def output_of_groups(integers: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """``sum over g of s_g q_g x_g`` for one input vector: (C_out,).

    Args:
        integers: (C_out, K), ``q - z``.
        scale: (C_out, G).
        x: (K,).
    """
    if scale.shape[1] == 1:
        return (integers @ x) * scale[:, 0]
    return ((integers * x).view(*scale.shape, -1).sum(2) * scale).sum(1)


@WEIGHT_ROUNDINGS.register("reconstruct")
def _error_compensated(weight: Tensor, qparams: QParams, quantized: Tensor, full: Tensor) -> tuple[Tensor, QParams]:
    """See :mod:`tempoquant.reconstruction.gptq`."""
    moments = Moments.of(weight, quantized, None if full is quantized else full)
    integers = compensated_rounding(weight, moments, qparams)
    return integers, qparams.with_scale(fitted_scale(weight, integers, moments, qparams.scale))


@WEIGHT_ROUNDINGS.register("nearest")
def _nearest(weight: Tensor, qparams: QParams, quantized: Tensor, full: Tensor) -> tuple[Tensor, QParams]:
    return nearest(weight, qparams), qparams


class LearnedLayer(NamedTuple):
    """A layer whose rounding learns: it, its full-precision weight (of the stock shape), and its grid (C_out, G)."""

    layer: QuantizedLayer
    weight: Tensor
    qparams: QParams

    def soft_rounding(self) -> SoftRounding:
        """Starts from the layer's integers, or from the weight while it has none."""
        start = self.layer.weight.float() if self.layer.weight_scale is not None else None
        return SoftRounding(self.weight, self.layer.layout.grid(self.qparams), start)


class UnitCall(NamedTuple):
    """N rows of a unit's call in the quantized stream, and its full-precision output."""

    args: tuple
    kwargs: dict[str, Any]
    target: Tensor


def learn_rounding(
    module: nn.Module, layers: Mapping[str, LearnedLayer], call: UnitCall, effort: Effort, key: tuple
) -> dict[str, Tensor]:
    """AdaRound over all layers of a unit against its full-precision output.

    Layers that already hold integers start from them, and keep them if the learned ones have no lower hard loss.

    Args:
        module: the unit.
        layers: those of its layers that learn, by name.
        call: of the unit.
        effort: iterations, batch and step size.
        key: names the random draws.

    Returns:
        Integers ``q - z`` of the stock shape by layer name; nothing for layers that had none and gained nothing.
    """
    starts = {n: l.layer.weight.float() for n, l in layers.items() if l.layer.weight_scale is not None}
    roundings = {name: learned.soft_rounding() for name, learned in layers.items()}
    before = hard_loss(module, call[:2], call.target) if len(starts) == len(layers) else float("inf")
    soft: Any = {learned.layer: partial(_soft, roundings[name]) for name, learned in layers.items()}
    with torch.enable_grad(), temporary_kernels(soft):
        _optimize(module, roundings, call, effort, key)
    integers = {n: r.integers() for n, r in roundings.items()}
    with temporary_kernels({l.layer: _fixed(integers[n] * roundings[n].scale) for n, l in layers.items()}):
        after = hard_loss(module, call[:2], call.target)
    return integers if after <= before else starts


def _optimize(
    module: nn.Module,
    roundings: Mapping[str, SoftRounding],
    call: UnitCall,
    effort: Effort,
    key: tuple,
) -> None:
    optimizer = torch.optim.Adam([r.alpha for r in roundings.values()], lr=effort.lr)
    draws, rows = rng(*key), call.target.shape[0]
    for iteration in range(effort.iterations):
        chosen = torch.randint(rows, (min(effort.batch, rows),), generator=draws)
        args, kwargs = take_rows(tuple(call[:2]), chosen, rows)
        loss = reconstruction_loss(first_tensor(module.forward(*args, **kwargs)), call.target[chosen])
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
    during: Callable[[slice], AbstractContextManager] = lambda rows: nullcontext(),
) -> float:
    """The reconstruction loss of a unit as it is, over all rows.

    Args:
        during: the context in which the unit runs on a slice of the rows.
    """
    total, rows = 0.0, target.shape[0]
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        args, kwargs = take_rows(call, part, rows)
        with during(part):
            output = first_tensor(module.forward(*args, **kwargs))
        total += float(reconstruction_loss(output, target[part], p)) * output.shape[0]
    return total / rows


def first_tensor(output: Any) -> Tensor:
    """The tensor a unit returns, or the first of several."""
    if isinstance(output, Tensor):
        return output
    return output[0]
