"""Fusion of GroupNorm, SiLU and rounding into the int8 convolution that reads them: one pass over the activation."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tempoquant.intervals import ScalarQParams
from tempoquant.kernels.quantize import GroupNormParams, norm_silu_to_uint8, quantize_to_uint8
from tempoquant.patching import GraphRole, own_function, remove_patches, surround

aten: Any = torch.ops.aten


class DeferredGroupNorm(Tensor):
    """The output of GroupNorm, or of GroupNorm and SiLU, that is computed when it is first read.

    An int8 convolution reads ``source`` and fuses norm, SiLU and rounding; every other operator gets the stock values.

    Attributes:
        source: the norm's input, (B, C, H, W) float32.
        params: of the norm.
        silu: whether SiLU follows the norm.
        cached: the values once an operator asked for them, or None.
    """

    source: Tensor
    params: GroupNormParams
    silu: bool
    cached: Tensor | None

    @staticmethod
    def __new__(cls, source: Tensor, params: GroupNormParams, silu: bool) -> "DeferredGroupNorm":
        wrapper: Any = torch.Tensor._make_wrapper_subclass
        deferred = wrapper(cls, source.shape, strides=source.stride(), dtype=source.dtype, device=source.device)
        deferred.source, deferred.params, deferred.silu, deferred.cached = source, params, silu, None
        return deferred

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is aten.silu.default and not args[0].silu:
            return cls(args[0].source, args[0].params, True)
        if func is aten.dropout.default and not args[2]:
            return args[0]
        args, kwargs = tree_map_only(cls, cls.computed, (args, kwargs or {}))
        return func(*args, **kwargs)

    def computed(self) -> Tensor:
        """The values, (B, C, H, W) float32, by torch's own operators."""
        if self.cached is None:
            y = nn.functional.group_norm(self.source, *self.params)
            self.cached = nn.functional.silu(y) if self.silu else y
        return self.cached

    def deferred_source(self) -> tuple[Tensor, Callable[[Tensor], "DeferredGroupNorm"]]:
        """For a graph capture: the norm's input, and what makes the deferred norm of another input."""
        return self.source, functools.partial(DeferredGroupNorm, params=self.params, silu=self.silu)


def fused_quantize_to_uint8(x: Tensor, qparams: ScalarQParams) -> Tensor:
    """``clamp(round(x / s) + z, q_min, q_max)`` as uint8 of x's shape, fused with the GroupNorm that x may defer."""
    if not isinstance(x, DeferredGroupNorm):
        return quantize_to_uint8(x, qparams)
    q = norm_silu_to_uint8(x.source, x.params, qparams) if x.silu else None
    return quantize_to_uint8(x.computed(), qparams) if q is None else q


class DeferForward:
    """Around a GroupNorm's ``forward``: returns a :class:`DeferredGroupNorm` where an int8 convolution can fuse it.

    Only for float32 inputs (B, C, H, W) on the CPU, without gradients, compilation and tracing.
    """

    graph_role = GraphRole.INLINE

    def __init__(self, norm: nn.GroupNorm):
        self.norm = norm

    def __call__(self, forward: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        norm = self.norm
        traced = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        tensors = (input, norm.weight, norm.bias)
        suited = input.dim() == 4 and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        if traced or not suited:
            return forward(input)
        return DeferredGroupNorm(input, GroupNormParams(norm.num_groups, norm.weight, norm.bias, norm.eps), False)


def enable_norm_fusion(module: nn.Module, enable: bool = True) -> None:
    """Let int8 convolutions fuse the GroupNorms of ``module`` that they read, or let these compute themselves again."""
    for part in module.modules():
        if type(part) is nn.GroupNorm and part.affine:
            remove_patches(part, DeferForward)
            if enable and own_function(part) is None:
                surround(part, DeferForward(part), lasting=True)
