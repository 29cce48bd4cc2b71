"""Finite set calibration (TFMQ-DM, CVPR 2024, section 4.3): temporal activations are one finite set a time step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tempoquant.intervals import Clock, ConstantInterval, IntervalProvider, TableInterval
from tempoquant.numerics import affine_qparams
from tempoquant.temporal.program import TemporalProgram


def finite_set_calibration(
    program: TemporalProgram,
    externals: Mapping[str, Tensor],
    rows: Tensor,
    clock: Clock,
    layers: Mapping[str, Any],
    bits: Mapping[str, int],
    per_step: bool,
) -> None:
    """Set the exact min-max range of every temporal layer's input, in order, each after its quantized predecessors.

    Layers with bit-identical inputs and equal bits share one provider, so the whole block needs few tables.

    Args:
        program: the temporal information block.
        externals: its recorded inputs by key, (N, ...) each.
        rows: (N,) int64, the clock's row of every recorded input.
        clock: of the denoiser.
        layers: of the block, by name; changed in place.
        bits: activation bits of the layers to calibrate; others stay float.
        per_step: one range a row of the clock, or one for all.

    Raises:
        TempoquantError: the block cannot be replayed on N rows.
    """
    calibrated: list[tuple[Tensor, int, IntervalProvider]] = []

    def apply(name: str, x: Tensor) -> Tensor:
        layer = layers[name]
        if name in bits:
            same = (p for earlier, b, p in calibrated if b == bits[name] and torch.equal(earlier, x))
            layer.input_interval = next(same, None) or _interval(x, rows, clock, bits[name], per_step)
            calibrated.append((x, bits[name], layer.input_interval))
        return layer(x)

    with clock.at(clock.timesteps[rows]):
        program.run(externals, apply)


def _interval(x: Tensor, rows: Tensor, clock: Clock, bits: int, per_step: bool) -> IntervalProvider:
    low, high = x.flatten(1).amin(1), x.flatten(1).amax(1)
    if not per_step:
        return ConstantInterval(affine_qparams(low.min(), high.max(), bits), bits)
    lows = torch.zeros(len(clock)).scatter_reduce(0, rows, low, "amin", include_self=False)
    highs = torch.zeros(len(clock)).scatter_reduce(0, rows, high, "amax", include_self=False)
    return TableInterval(affine_qparams(lows, highs, bits), bits, clock)
