"""The backend of torch's oneDNN operators: uint8 x int8 on the CPU, with the step's scale and zero point at each call.

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
from tempoquant.kernels.backends import Backend, Fusion, ProductKernels, Reason, Unsupported, backend
from tempoquant.kernels.check import integers_are_exact, scales_apply_in_order
from tempoquant.kernels.norm_fusion import fused_quantize_to_uint8
from tempoquant.kernels.operators import NO_POST_OP, apply_scale_and_bias, ops, packed_convolution
from tempoquant.kernels.packed_weight import keep_packed
from tempoquant.kernels.products import integer_attention, integer_product
from tempoquant.kernels.quantize import dequantize_centered
from tempoquant.layers import LayerKernel, QuantizedLayer, simulate

LARGEST_SUM = 2.0**31
OPERATORS = tuple(KINDS[stock] for stock in (nn.Linear, nn.Conv1d, nn.Conv2d))
"""Kinds of layers that the operators compute."""


class PackedArguments(NamedTuple):
    """What a layer's operator is called with beside its input.

    Attributes:
        weight: int8, in the operators' own layout.
        scale: (C_out,) float32, of the weight.
        zeros: (C_out,) int32, the weight's zero points: none.
        bias: (C_out,) float32, or None.
        geometry: stride, padding, dilation and groups of a convolution (of a Conv1d as one of height 1); None of a
            linear layer.
        finish: weight scale and bias, if a pass of our own applies them.
    """

    weight: Tensor
    scale: Tensor | None
    zeros: Tensor
    bias: Tensor | None
    geometry: tuple[Any, ...] | None
    finish: tuple[Tensor, Tensor | None] | None = None


class IntegerKernel:
    """Computes one layer in uint8 x int8, in the input's dtype.

    The weight is packed into the operators' own layout at the first call, on whatever machine that is, and kept in that
    layout alone; a copy of the kernel packs again, because the layout cannot be copied.
    """

    def __init__(self) -> None:
        self.packed: PackedArguments | None = None
        self._packing = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "IntegerKernel":
        return IntegerKernel()

    def __reduce__(self) -> tuple[type["IntegerKernel"], tuple[()]]:
        return IntegerKernel, ()

    def __call__(self, layer: QuantizedLayer, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._outside_of_compiled(layer, x)
        # No mode has to see the operators, and every mode of torch functions costs more than a small one of them.
        with torch._C.DisableTorchFunction():
            return self._compute(layer, x)

    @torch.compiler.disable
    def _outside_of_compiled(self, layer: QuantizedLayer, x: Tensor) -> Tensor:
        return self._compute(layer, x)

    def _compute(self, layer: QuantizedLayer, x: Tensor) -> Tensor:
        assert layer.input_interval is not None
        if x.device.type != "cpu":
            # Moved since the engine was chosen.
            return simulate(layer, x)
        qparams = layer.input_interval.scalar_qparams()
        packed = self.packed or self._pack(layer, x.shape)
        if qparams is not None:
            return self._run(packed, x, qparams)
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

    def _pack(self, layer: QuantizedLayer, shape: torch.Size) -> PackedArguments:
        # By one thread, while others that call the layer for the first time wait.
        with self._packing:
            if self.packed is None:
                packed = packed_layer(layer, shape)
                keep_packed(layer, packed.weight)
                self.packed = packed
            return self.packed

    def _run(self, packed: PackedArguments, x: Tensor, qparams: ScalarQParams) -> Tensor:
        q = fused_quantize_to_uint8(x, qparams)
        operands = (
            qparams.output_scale,
            int(qparams.zero_point),
            packed.weight,
            packed.scale,
            packed.zeros,
            packed.bias,
        )
        if packed.geometry is not None:
            q = (q.unsqueeze(2) if x.dim() == 3 else q).contiguous(memory_format=torch.channels_last)
            out = ops.qconv2d_pointwise(q, *operands, *packed.geometry, 1.0, 0, torch.float32, *NO_POST_OP)
            out = out.squeeze(2) if x.dim() == 3 else out
        else:
            flat = q.reshape(-1, q.shape[-1])
            out = ops.qlinear_pointwise(flat, *operands, 1.0, 0, torch.float32, *NO_POST_OP)
        if packed.finish is not None:
            out = apply_scale_and_bias(out, *packed.finish)
        if packed.geometry is None:
            out = out.reshape(*x.shape[:-1], -1)
        return out if x.dtype == torch.float32 else out.to(x.dtype)


def packed_layer(layer: Any, shape: torch.Size) -> PackedArguments:
    """A layer's arguments in the layout that the operators want for inputs of ``shape``."""
    assert layer.weight_scale is not None
    weight, scale, finish = layer.weight.detach(), layer.weight_scale.flatten(), None
    zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
    bias = None if layer.bias is None else layer.bias.detach().float()
    if not scales_apply_in_order():
        # By a weight scale of one the operator gives acc * s_x, whichever its order is.
        scale, bias, finish = torch.ones_like(scale), None, (scale, bias)
    if layer.kind.spatial == 0:
        return PackedArguments(ops.qlinear_prepack(weight, None), scale, zeros, bias, None, finish)
    geometry = [list(layer.stride), padding_of(layer), list(layer.dilation), layer.groups]
    if layer.kind.spatial == 1:
        weight, shape = weight.unsqueeze(2), torch.Size([*shape[:2], 1, *shape[2:]])
        geometry = [[1, *geometry[0]], [0, *geometry[1]], [1, *geometry[2]], layer.groups]
    packed = packed_convolution(weight, scale, tuple(geometry), shape)
    return PackedArguments(packed, scale, zeros, bias, tuple(geometry), finish)


def padding_of(layer: Any) -> list[int]:
    """The padding of both sides as numbers: ``padding="same"`` is spelled out."""
    if not isinstance(layer.padding, str):
        return list(layer.padding)
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [span // 2 for span in spans] if layer.padding == "same" else [0, 0]


@backend("onednn")
class OneDNN(Backend):
    """Layers in uint8 x int8 and attention products in int8, on the CPU."""

    label = "onednn int8"
    fusions = frozenset({Fusion.GROUP_NORM})

    def available(self) -> bool:
        return integers_are_exact()

    def supports(self, layer: QuantizedLayer) -> Unsupported | None:
        # Sums come last: the export takes layers that nothing else speaks against.
        checks = (_unsupported_input, _unsupported_weight, _unsupported_geometry, _unsupported_sums)
        return next((reason for check in checks if (reason := check(layer)) is not None), None)

    def layer_kernel(self) -> LayerKernel:
        return IntegerKernel()

    def product_kernels(self) -> ProductKernels:
        return ProductKernels(integer_product, integer_attention, dequantize_centered)


def _unsupported_input(layer: QuantizedLayer) -> Unsupported | None:
    interval = layer.input_interval
    if layer.weight_scale is None:
        return Unsupported(Reason.FLOAT_WEIGHT)
    if interval is None:
        return Unsupported(Reason.FLOAT_INPUT)
    if interval.dynamic:
        return Unsupported(Reason.DYNAMIC_INPUT)
    if not has_static_scale(interval):
        return Unsupported(Reason.PER_TOKEN_INPUT)
    return Unsupported(Reason.INPUT_BITS, interval.bits) if interval.bits > 8 else None


def _unsupported_weight(layer: QuantizedLayer) -> Unsupported | None:
    if layer.weight_groups > 1:
        return Unsupported(Reason.GROUPED_WEIGHT)
    if layer.weight.dtype != torch.int8:
        return Unsupported(Reason.WEIGHT_RANGE)
    if layer.weight.device.type != "cpu":
        return Unsupported(Reason.DEVICE, layer.weight.device.type)
    return None


def _unsupported_geometry(layer: Any) -> Unsupported | None:
    if layer.kind not in OPERATORS:
        return Unsupported(Reason.NO_OPERATOR, layer.kind.name)
    if not layer.kind.spatial:
        return None
    if layer.padding_mode != "zeros":
        return Unsupported(Reason.PADDING_MODE, layer.padding_mode)
    spans = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    uneven = layer.padding == "same" and any(span % 2 for span in spans)
    return Unsupported(Reason.UNEVEN_PADDING) if uneven else None


def _unsupported_sums(layer: QuantizedLayer) -> Unsupported | None:
    return Unsupported(Reason.SUM_RANGE) if _largest_sum(layer.weight.detach()) >= LARGEST_SUM else None


def _largest_sum(weight: Tensor) -> int:
    """A bound of every sum of products of a weight (C_out, ...) with uint8 inputs."""
    bound = 128 * 255 * (weight.numel() // weight.shape[0])
    # The sums themselves take eight times the weight's memory, and no layer of today's denoisers needs them.
    return bound if bound < LARGEST_SUM else 255 * int(weight.long().abs().flatten(1).sum(1).max())
