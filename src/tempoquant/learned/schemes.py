"""Quantizers that train: what each learns, the interval this makes, and how gradients pass.

Every scheme ends as the one interval of the contract, ``x_hat = s_out (clamp(round(x / s_in) + z, q_min, q_max) - z)``,
so a trained model folds into the layers and tables of any other. All values that activations learn are positive: a
network of the time step can give them (softplus) as well as parameters can.

What the papers leave open is decided here: a clip of signed inputs moves both ends of its range together, zero stays on
the grid, and weights are symmetric with one scale an output channel, from wherever the range search begins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tempoquant.intervals import fake_quantize
from tempoquant.learned.networks import softplus_inverse
from tempoquant.learned.rules import shown_as
from tempoquant.numerics import SMALLEST_SCALE, QParams

Values = tuple[Tensor, ...]


@dataclass(frozen=True)
class Reach:
    """How far a grid goes from its zero point, in steps; tensors of one shape, or numbers.

    Attributes:
        low: steps below zero, ``z - q_min``.
        high: steps above, ``q_max - z``.
    """

    low: Tensor
    high: Tensor

    @property
    def clip(self) -> Tensor:
        """Steps to the clip that schemes learn: the upper end, or the lower one of a grid without values above zero."""
        return torch.where(self.high > 0, self.high, self.low)

    @property
    def span(self) -> Tensor:
        """All steps of the grid."""
        return self.low + self.high


class Scheme:
    """LSQ: the step size s (Esser et al., ICLR 2020, section 2).

    Attributes:
        fields: what an activation's quantizer learns.
        summary: for lists.
        by_softplus: whether parameters are kept as ``softplus^-1`` of their values.
        moves_zero: whether z follows a fixed offset, ``z = round(-offset / s)`` straight-through, at inputs that never
            go below -0.2785, SiLU's minimum (TDQ).
        learns_offset: whether all inputs have one, and it learns.
        penalty: weight of the squared values in the loss.
    """

    fields: tuple[str, ...] = ("s",)
    summary = "learned step sizes"
    by_softplus = False
    moves_zero = True
    learns_offset = False
    penalty = 0.0

    def start(self, scale: Tensor, reach: Reach) -> Values:
        """Values of the fields that make the interval of ``scale``."""
        return (scale,)

    def scales(self, values: Values, reach: Reach) -> tuple[Tensor, Tensor]:
        """``s_in`` and ``s_out``, the same tensor where they are one."""
        return values[0], values[0]

    def zero(self, values: Values, s_in: Tensor) -> Tensor | None:
        """The real zero point ``-offset / s_in`` that the values decide; None where they do not."""
        return None

    def fake_quantize(self, x: Tensor, interval: QParams, draws: torch.Generator | None) -> Tensor:
        """``x`` quantized, float32, with this scheme's gradients.

        Args:
            x: of any shape.
            interval: shaped to broadcast over x.
            draws: random numbers, in training alone.
        """
        return fake_quantize(x, interval)

    def weight_start(self, scale: Tensor, reach: Reach) -> Values:
        """As :meth:`start`, of a weight: a value an output channel, unless said otherwise."""
        return self.start(scale, reach)

    def weight_scales(self, values: Values, reach: Reach) -> tuple[Tensor, Tensor]:
        """As :meth:`scales`, of a weight."""
        return self.scales(values, reach)

    def transformed(self, weight: Tensor, values: Values) -> Tensor:
        """What is rounded of a weight (C_out, ...), of its shape."""
        return weight

    def value(self, raw: Tensor) -> Tensor:
        """A positive value of its parameter."""
        return softplus(raw) if self.by_softplus else shown_as(raw, raw.clamp(min=SMALLEST_SCALE))

    def raw(self, value: Tensor) -> Tensor:
        """The parameter of a positive value."""
        positive = value.float().clamp(min=SMALLEST_SCALE)
        return softplus_inverse(positive) if self.by_softplus else positive


class LSQPlus(Scheme):
    """LSQ+: s and an offset (Bhalgat et al., CVPRW 2020, section 3.1); the generated value is s."""

    summary = "learned step sizes and offsets"
    learns_offset = True


class Clips(Scheme):
    """Base of schemes that learn a clip a of an input: its step size is ``a`` over the steps above zero."""

    fields = ("a",)
    moves_zero = False

    def start(self, scale: Tensor, reach: Reach) -> Values:
        return (scale * reach.clip,)

    def scales(self, values: Values, reach: Reach) -> tuple[Tensor, Tensor]:
        step = values[0] / reach.clip
        return step, step


class PACT(Clips):
    """PACT: the clip a, moved where inputs are clipped and by its own square (Choi et al., 2018, section 3).

    ``dx_hat/da`` is the derivative of the clip alone: rounding has none. Weights are LSQ's.
    """

    summary = "learned clips"
    penalty = 2e-4

    def fake_quantize(self, x: Tensor, interval: QParams, draws: torch.Generator | None) -> Tensor:
        with torch.no_grad():
            quantized = fake_quantize(x, interval)
        return shown_as(_clipped(x.float(), interval), quantized)

    def weight_start(self, scale: Tensor, reach: Reach) -> Values:
        return (scale,)

    def weight_scales(self, values: Values, reach: Reach) -> tuple[Tensor, Tensor]:
        return values[0], values[0]


class NIPQ(Clips):
    """NIPQ: the clip a, learned under noise in the place of rounding (Shin et al., CVPR 2023, section 4).

    In training an input within the grid becomes ``x + n s``, where n is one of the rounding errors, in steps, that
    quantizing this very input makes, drawn anew for every element. Otherwise it is quantized as usual.
    """

    summary = "learned clips, noise in the place of rounding"
    by_softplus = True

    def fake_quantize(self, x: Tensor, interval: QParams, draws: torch.Generator | None) -> Tensor:
        if draws is None:
            return fake_quantize(x, interval)
        x = x.float()
        clipped = _clipped(x, interval)
        with torch.no_grad():
            inside = clipped == x
            errors = ((fake_quantize(x, interval) - x) / interval.scale)[inside]
            if not len(errors):
                return clipped
            drawn = torch.randint(len(errors), x.shape, generator=draws).to(x.device)
        return torch.where(inside, x + errors[drawn] * interval.scale, clipped)


class DuQ(Scheme):
    """DuQ: an input clip a and an output scale c of its own (Park and Yoo, PROFIT, ECCV 2020, section 4)."""

    fields = ("a", "c")
    summary = "learned clips and output scales"
    by_softplus = True
    moves_zero = False

    def start(self, scale: Tensor, reach: Reach) -> Values:
        return scale * reach.clip, scale * reach.clip

    def scales(self, values: Values, reach: Reach) -> tuple[Tensor, Tensor]:
        return values[0] / reach.clip, values[1] / reach.clip


class QIL(Scheme):
    """QIL: where an interval begins and ends, and its output scale (Jung et al., CVPR 2019, section 3).

    Activations: the interval is ``[-l, h]`` (centre ``(h - l) / 2``, half-width ``(h + l) / 2``), with zero inside: one
    zero point cannot prune inputs near zero as the paper does. Weights are pruned and clipped as in the paper:
    ``sign(w) clamp((|w| - (c - d)) / 2 d, 0, 1)^gamma``, gamma one for all channels.
    """

    fields = ("l", "h", "c")
    summary = "learned intervals and output scales"
    by_softplus = True

    def start(self, scale: Tensor, reach: Reach) -> Values:
        return scale * reach.low, scale * reach.high, scale * reach.span

    def scales(self, values: Values, reach: Reach) -> tuple[Tensor, Tensor]:
        low, high, out = values
        return (low + high) / reach.span, out / reach.span

    def zero(self, values: Values, s_in: Tensor) -> Tensor | None:
        return values[0] / s_in

    def weight_start(self, scale: Tensor, reach: Reach) -> Values:
        half = scale * reach.high / 2
        return half, half, 2 * half, torch.ones(1, device=scale.device)

    def weight_scales(self, values: Values, reach: Reach) -> tuple[Tensor, Tensor]:
        out = values[2] / reach.high
        return torch.ones_like(out) / reach.high, out

    def transformed(self, weight: Tensor, values: Values) -> Tensor:
        shape = (-1,) + (1,) * (weight.dim() - 1)
        centre, half, gamma = values[0].view(shape), values[1].view(shape), values[3]
        part = ((weight.abs() - centre + half) / (2 * half)).clamp(0, 1)
        # A power of zero has no finite gradient.
        return weight.sign() * part.clamp(min=SMALLEST_SCALE).pow(gamma)


def _clipped(x: Tensor, interval: QParams) -> Tensor:
    """``x`` clipped to the grid's ends, which get the gradient of what is clipped."""
    low, high = ((q - interval.zero_point) * interval.scale for q in (interval.q_min, interval.q_max))
    return torch.clamp(x, low, high)


SCHEMES: dict[str, Scheme] = {
    "lsq": Scheme(),
    "lsq+": LSQPlus(),
    "pact": PACT(),
    "nipq": NIPQ(),
    "duq": DuQ(),
    "qil": QIL(),
}
"""Schemes by the names that recipes know."""


def name_of(scheme: Scheme) -> str:
    """What recipes call it."""
    return next(name for name, found in SCHEMES.items() if found is scheme)
