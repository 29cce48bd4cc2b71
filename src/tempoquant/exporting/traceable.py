"""A quantized denoiser as one plain graph of fake quantizations, which other runtimes turn into integer kernels.

Runtimes recognize a fake quantization with a constant range before a convolution or matrix product, and weights that
are int8 numbers times a scale. A scale that moves with the step stands outside of it, around a constant grid:
``x / s_t + z_t -> [0, 255] -> product - z_t sum(w) -> * s_t + b``.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tempoquant.arguments import nested
from tempoquant.intervals import Clock, IntervalProvider, has_static_scale
from tempoquant.kernels import OFFSET, Reason, enable_norm_fusion, padding_of, unsupported
from tempoquant.layers import QuantizedLayer, QuantizedProduct, operand_qparams, quantized_layers
from tempoquant.numerics import QParams
from tempoquant.sampling import Denoiser

LARGEST_UINT8 = 255
INPUTS = ("sample", "timestep")
OUTPUT = "out_sample"


def port_of(condition: str) -> str:
    """What a runtime's graph calls an input: the name of its argument, where that nests the innermost."""
    return condition.rpartition(".")[2]


@contextmanager
def tracing() -> Iterator[None]:
    """For the time of a trace: no gradients, and no warning of every Python number that it keeps."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class PlainGraph(nn.Module):
    """A copy of a quantized denoiser that can be traced: ``(sample, timestep, *conditions) -> prediction``.

    The sample is (B, *sample_shape), the time step (B,) or (1,), conditions have B rows each.

    Args:
        denoiser: quantized; left as it is. conditions: names of the further inputs, dotted where arguments nest.
    """

    def __init__(self, denoiser: Denoiser, clock: Clock, conditions: tuple[str, ...] = ()):
        super().__init__()
        # One copy of both: the intervals of the module hold this very clock.
        self.module, self.clock = copy.deepcopy((denoiser.module, clock))
        self.call, self.conditions = denoiser.call, conditions
        self.inputs = (*INPUTS, *map(port_of, conditions))
        for key, hook in list(self.module._forward_pre_hooks.items()):
            if getattr(hook, "__self__", None) is self.clock:
                del self.module._forward_pre_hooks[key]
        enable_norm_fusion(self.module, False)
        for part in self.module.modules():
            if isinstance(part, QuantizedLayer):
                part.kernel = plain_layer
            elif isinstance(part, QuantizedProduct):
                part.compute_with(plain_product)

    def forward(self, sample: Tensor, timestep: Tensor, *conditions: Tensor) -> Tensor:
        steps = timestep.expand(sample.shape[0])
        # Edges are compared, not searched: every runtime can compare.
        row = (steps.float()[:, None] > self.clock.edges).sum(1)
        arguments = dict(zip(self.conditions, conditions, strict=True))
        frozen_to = self.clock.conditions
        at_conditions = nullcontext() if frozen_to is None else frozen_to.at(frozen_to.locate(arguments)[0])
        with self.clock.at(steps.float(), row), at_conditions:
            return self.call(self.module, sample, steps, **nested(arguments))


def int8_names(module: nn.Module) -> list[str]:
    """Layers of a quantized module whose product the exported graph leaves to int8 kernels."""
    return [name for name, layer in quantized_layers(module).items() if _fits_uint8_int8(layer)]


def plain_layer(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """A layer's output: exact for constant intervals up to the order of float32 sums."""
    if layer.input_interval is None or not _fits_uint8_int8(layer):
        return _in_float(layer, x)
    interval = layer.input_interval.current()
    weight = layer.dequantized_weight()
    if interval.scale.dim() == 0:
        return layer.product(_on_grid(x, interval), weight, layer.bias)
    qparams = _over(interval, x)
    low, high = _ends(qparams)
    if layer.kind.spatial:
        x = pad(x, [end for side in reversed(padding_of(layer)) for end in (side, side)])
    units = (x * (1 / qparams.scale) + qparams.zero_point).clamp(low, high)
    q = torch.fake_quantize_per_tensor_affine(units, 1.0, 0, 0, LARGEST_UINT8)
    acc = _unpadded(layer, q, weight)
    shape = (-1,) + (1,) * (layer.weight.dim() - 2)
    sums = weight.detach().flatten(1).sum(1).view(shape)
    out = (acc - qparams.zero_point * sums) * qparams.output_scale
    return out if layer.bias is None else out + layer.bias.view(shape)


def plain_product(product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` with both operands on their grids, shifted to signed bytes about zero.

    Runtimes multiply bytes without zero points alone, so with ``q - z = a + c`` the product is
    ``a b + c_a sum(b) + c_b sum(a) + K c_a c_b``, K the length of the sums.
    """
    providers: list[Any] = [product.intervals[name] for name in names]
    if not all(map(has_static_scale, providers)):
        first, second = operand_qparams(product, names, left, right)
        return torch.matmul(_on_grid(left, first), _on_grid(right, second))
    if any(provider.bits > 8 for provider in providers):
        x, y = (_on_grid(v, _qparams(p, v)) for p, v in zip(providers, (left, right), strict=True))
        return torch.matmul(x, y)
    a, shift_a, scale_a = _signed(left, providers[0], unsigned_is_fine=True)
    b, shift_b, scale_b = _signed(right, providers[1], unsigned_is_fine=False)
    acc = torch.matmul(a, b)
    if shift_a is not None:
        acc = acc + shift_a * b.sum(-2, keepdim=True)
    if shift_b is not None:
        acc = acc + shift_b * a.sum(-1, keepdim=True)
    if shift_a is not None and shift_b is not None:
        acc = acc + shift_a * shift_b * a.shape[-1]
    return acc * (scale_a * scale_b)


def _signed(x: Tensor, provider: Any, unsigned_is_fine: bool) -> tuple[Tensor, Any, Any]:
    """``(a, c, s)`` with ``x_hat = s (a + c)``, ``a`` in bytes; c is None where it is zero at every step."""
    interval = _qparams(provider, x)
    low, high = _ends(interval)
    units = x / interval.scale
    if unsigned_is_fine and not provider.zero_point.any():
        q = torch.fake_quantize_per_tensor_affine(units.clamp(low, high), 1.0, 0, 0, LARGEST_UINT8)
        return q, None, interval.output_scale
    shift = interval.zero_point - OFFSET
    grid = (units + shift).clamp(low - OFFSET, high - OFFSET)
    q = torch.fake_quantize_per_tensor_affine(grid, 1.0, 0, -OFFSET, OFFSET - 1)
    return q, None if (provider.zero_point == OFFSET).all() else -shift, interval.output_scale


def _fits_uint8_int8(layer: QuantizedLayer) -> bool:
    why = unsupported("onednn", layer)
    # Other runtimes sum in float32 or in int32: either is theirs to know.
    return why is None or why.reason is Reason.SUM_RANGE


def _in_float(layer: QuantizedLayer, x: Tensor) -> Tensor:
    if layer.input_interval is not None:
        x = _on_grid(x, _qparams(layer.input_interval, x))
    return layer.product(x, layer.dequantized_weight(), layer.bias)


def _qparams(provider: IntervalProvider, x: Tensor) -> QParams:
    return _over(provider.current(), x) if has_static_scale(provider) else provider(x)


def _over(interval: QParams, x: Tensor) -> QParams:
    """:meth:`QParams.over`, by a mere view where every item of the batch has a time step of its own."""
    if interval.scale.dim() == 0 or x.shape[0] != interval.scale.shape[0]:
        return interval.over(x)
    return interval.map(lambda f: f if f.dim() == 0 else f.view(-1, *(1,) * (x.dim() - 1)))


def _ends(interval: QParams) -> tuple[Any, Any]:
    """The grid's ends: numbers where they are the same at every step."""
    return tuple(float(end) if end.dim() == 0 else end for end in (interval.q_min, interval.q_max))  # type: ignore[return-value]


def _on_grid(x: Tensor, interval: QParams) -> Tensor:
    """``s_out (clamp(round(x / s_in) + z) - z)``, a fake quantization of 256 levels where the scale is one number."""
    low, high = _ends(interval)
    if interval.scale.dim() or isinstance(high, Tensor) or high > LARGEST_UINT8:
        q = (torch.round(x / interval.scale) + interval.zero_point).clamp(low, high)
        return (q - interval.zero_point) * interval.output_scale
    scale, zero = float(interval.scale), int(interval.zero_point)
    if (low, high) != (0, LARGEST_UINT8):
        # Runtimes know grids of 256 levels alone; a narrower one is a part of it.
        x = x.clamp((low - zero) * scale, (high - zero) * scale)
    on_grid = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, LARGEST_UINT8)
    return on_grid if interval.output_scale is interval.scale else on_grid * (float(interval.output_scale) / scale)


def _unpadded(layer: Any, q: Tensor, weight: Tensor) -> Tensor:
    if not layer.kind.spatial:
        return layer.product(q, weight)
    convolution = nn.functional.conv1d if layer.kind.spatial == 1 else nn.functional.conv2d
    return convolution(q, weight, None, layer.stride, 0, layer.dilation, layer.groups)
