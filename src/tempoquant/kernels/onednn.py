"""Integer execution on the processor: torch's oneDNN operators, the step's scale and zero point given at each call.

The operators accumulate in int32 and finish with ``(acc * s_x) * s_w + b`` in float32, which is what a quantized layer
means, so their results are simulation's bit for bit. Where kernels apply scales in another order, the last two steps
are a pass of their own.
"""

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tempoquant.graph import KINDS
from tempoquant.intervals import ScalarQParams, has_static_scale
from tempoquant.kernels.check import scales_apply_in_order
from tempoquant.kernels.norm_fusion import fused_quantize_to_uint8
from tempoquant.kernels.operators import NO_POST_OP, apply_scale_and_bias, ops, packed_convolution
from tempoquant.kernels.packed_weight import keep_packed
from tempoquant.layers import QuantizedLayer, simulate

LARGEST_SUM = 2.0**31
OPERATORS = tuple(KINDS[stock] for stock in (nn.Linear, nn.Conv1d, nn.Conv2d))
"""Kinds of layers that the operators compute."""


class Packed(NamedTuple):
    """What a layer gives its operator at every call: all but the input.

    ``finish``: weight scale and bias, where the operator would not apply them in the order of a layer's meaning.
    ``geometry``: of a convolution; that of a Conv1d is one of height 1.
    """

    weight: Tensor
    scale: Tensor | None
    zeros: Tensor
    bias: Tensor | None
    geometry: tuple[Any, ...] | None
    finish: tuple[Tensor, Tensor | None] | None = None


class IntegerKernel:
    """Computes one layer in uint8 x int8.

    The weight is packed into the operators' own layout at the first call, on whatever machine that is, and kept in that
    layout alone; a copy of the kernel packs again, because the layout cannot be copied.
    """

    name = "onednn int8"

    def __init__(self) -> None:
        self.packed: Packed | None = None
        self._packing = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "IntegerKernel":
        return IntegerKernel()

    def __reduce__(self) -> tuple[type["IntegerKernel"], tuple[()]]:
        return IntegerKernel, ()

    def __call__(self, layer: QuantizedLayer, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._apart(layer, x)
        # Nobody watches the operators, and every watch of torch functions costs more than a small one of them.
        with torch._C.DisableTorchFunction():
            return self._compute(layer, x)

    @torch.compiler.disable
    def _apart(self, layer: QuantizedLayer, x: Tensor) -> Tensor:
        return self._compute(layer, x)

    def _compute(self, layer: QuantizedLayer, x: Tensor) -> Tensor:
        assert layer.input_interval is not None
        if x.device.type != "cpu":
            # Moved since the engine was chosen.
            return simulate(layer, x)
        numbers = layer.input_interval.scalar_qparams()
        packed = self.packed or self._pack(layer, x.shape)
        if numbers is not None:
            return self._run(packed, x, numbers)
        interval = layer.input_interval.current()
        # A batch of mixed time steps: the operators take one scale a call.
        fields = (interval.scale, interval.zero_point, interval.q_min, interval.q_max, interval.output_scale)
        groups, which = torch.unique(torch.stack(torch.broadcast_tensors(*fields)), dim=1, return_inverse=True)
        which = which.repeat_interleave(x.shape[0] // which.numel())
        out: Tensor | None = None
        for number, values in enumerate(groups.T.tolist()):
            rows = (which == number).nonzero()[:, 0]
            part = self._run(packed, x[rows], ScalarQParams(*values))
            out = part.new_empty((x.shape[0], *part.shape[1:])) if out is None else out
            out[rows] = part
        assert out is not None
        return out

    def _pack(self, layer: QuantizedLayer, shape: torch.Size) -> Packed:
        # By one thread, while those that call the layer for the first time too wait.
        with self._packing:
            if self.packed is None:
                packed = packed_layer(layer, shape)
                keep_packed(layer, packed.weight)
                self.packed = packed
            return self.packed

    def _run(self, packed: Packed, x: Tensor, numbers: ScalarQParams) -> Tensor:
        q = fused_quantize_to_uint8(x, numbers)
        given = (numbers.output_scale, int(numbers.zero_point), packed.weight, packed.scale, packed.zeros, packed.bias)
        if packed.geometry is not None:
            q = (q.unsqueeze(2) if x.dim() == 3 else q).contiguous(memory_format=torch.channels_last)
            out = ops.qconv2d_pointwise(q, *given, *packed.geometry, 1.0, 0, torch.float32, *NO_POST_OP)
            out = out.squeeze(2) if x.dim() == 3 else out
        else:
            flat = q.reshape(-1, q.shape[-1])
            out = ops.qlinear_pointwise(flat, *given, 1.0, 0, torch.float32, *NO_POST_OP)
        if packed.finish is not None:
            out = apply_scale_and_bias(out, *packed.finish)
        if packed.geometry is None:
            out = out.reshape(*x.shape[:-1], -1)
        return out if x.dtype == torch.float32 else out.to(x.dtype)


def packed_layer(layer: Any, shape: torch.Size) -> Packed:
    """A layer in the layout that the operators want for inputs of ``shape``."""
    assert layer.weight_scale is not None
    weight, scale, finish = layer.weight.detach(), layer.weight_scale.flatten(), None
    zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
    bias = None if layer.bias is None else layer.bias.detach().float()
    if not scales_apply_in_order():
        # By a weight scale of one the operator gives acc * s_x, whichever its order is.
        scale, bias, finish = torch.ones_like(scale), None, (scale, bias)
    if layer.kind.spatial == 0:
        return Packed(ops.qlinear_prepack(weight, None), scale, zeros, bias, None, finish)
    geometry = [list(layer.stride), padding_of(layer), list(layer.dilation), layer.groups]
    if layer.kind.spatial == 1:
        weight, shape = weight.unsqueeze(2), torch.Size([*shape[:2], 1, *shape[2:]])
        geometry = [[1, *geometry[0]], [0, *geometry[1]], [1, *geometry[2]], layer.groups]
    packed = packed_convolution(weight, scale, tuple(geometry), shape)
    return Packed(packed, scale, zeros, bias, tuple(geometry), finish)


def padding_of(layer: Any) -> list[int]:
    """The padding of both sides as numbers: ``padding="same"`` is spelled out."""
    if not isinstance(layer.padding, str):
        return list(layer.padding)
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [span // 2 for span in spans] if layer.padding == "same" else [0, 0]


def unsuitable(layer: Any) -> str | None:
    """Why a layer cannot run in uint8 x int8; None if it can."""
    interval = layer.input_interval
    if layer.weight_scale is None:
        return "float weight"
    if interval is None:
        return "float input"
    if interval.dynamic:
        return "dynamic input"
    if not has_static_scale(interval):
        return "per-token input"
    if layer.weight_groups > 1:
        return "grouped weight"
    if interval.bits > 8:
        return f"{interval.bits}-bit input"
    if layer.weight.dtype != torch.int8:
        return "weight differences beyond int8"
    if layer.weight.device.type != "cpu":
        return f"on {layer.weight.device.type}"
    if layer.kind not in OPERATORS:
        return f"no operator for {layer.kind.name}"
    if layer.kind.spatial:
        if layer.padding_mode != "zeros":
            return f"{layer.padding_mode} padding"
        if layer.padding == "same" and any(
            d * (k - 1) % 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ):
            return "uneven padding"
    return "sums beyond int32" if _largest_sum(layer.weight.detach()) >= LARGEST_SUM else None


def _largest_sum(weight: Tensor) -> int:
    """No sum of products with bytes is larger."""
    bound = 128 * 255 * (weight.numel() // weight.shape[0])
    # The sums themselves take eight times the weight's memory, and no layer of today's denoisers needs them.
    return bound if bound < LARGEST_SUM else 255 * int(weight.long().abs().flatten(1).sum(1).max())
