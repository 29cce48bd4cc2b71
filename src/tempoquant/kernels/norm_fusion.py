"""Group norms that wait for their reader: a convolution in integers takes norm, SiLU and rounding in one pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tempoquant.intervals import ScalarQParams
from tempoquant.kernels.passes import GroupNorm, norm_silu_to_uint8, quantize_to_uint8

aten: Any = torch.ops.aten


class DeferredGroupNorm(Tensor):
    """What a group norm puts out, maybe through SiLU, not computed yet; whatever else is done with it computes it.

    Attributes:
        source: the norm's input, (B, C, H, W). owed: what it computes. silu: whether SiLU follows.
    """

    source: Tensor
    owed: GroupNorm
    silu: bool
    known: Tensor | None

    @staticmethod
    def __new__(cls, source: Tensor, norm: GroupNorm, silu: bool) -> "DeferredGroupNorm":
        make: Any = torch.Tensor._make_wrapper_subclass
        made = make(cls, source.shape, strides=source.stride(), dtype=source.dtype, device=source.device)
        made.source, made.owed, made.silu, made.known = source, norm, silu, None
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is aten.silu.default and not args[0].silu:
            return cls(args[0].source, args[0].owed, True)
        if func is aten.dropout.default and not args[2]:
            return args[0]
        args, kwargs = tree_map_only(cls, cls.computed, (args, kwargs or {}))
        return func(*args, **kwargs)

    def computed(self) -> Tensor:
        """The values, by torch's own calls."""
        if self.known is None:
            y = nn.functional.group_norm(self.source, *self.owed)
            self.known = nn.functional.silu(y) if self.silu else y
        return self.known


def fused_quantize_to_uint8(x: Tensor, numbers: ScalarQParams) -> Tensor:
    """:func:`~tempoquant.kernels.passes.quantize_to_uint8` of an input that may be awaited."""
    if not isinstance(x, DeferredGroupNorm):
        return quantize_to_uint8(x, numbers)
    q = norm_silu_to_uint8(x.source, x.owed, numbers) if x.silu else None
    return quantize_to_uint8(x.computed(), numbers) if q is None else q


class DeferringForward:
    """A group norm's ``forward`` that puts the work off where an integer layer may take it over.

    A class: copying the module must give the copy its own.
    """

    def __init__(self, norm: nn.GroupNorm):
        self.norm = norm

    def __call__(self, input: Tensor) -> Tensor:
        norm = self.norm
        followed = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        tensors = (input, norm.weight, norm.bias)
        if (
            followed
            or input.dim() != 4
            or not all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        ):
            return nn.GroupNorm.forward(norm, input)
        return DeferredGroupNorm(input, GroupNorm(norm.num_groups, norm.weight, norm.bias, norm.eps), False)


def enable_norm_fusion(module: nn.Module, wait: bool) -> None:
    """Whether group norms of ``module`` wait for their reader from now on."""
    for part in module.modules():
        if type(part) is nn.GroupNorm and part.affine:
            if wait and "forward" not in vars(part):
                vars(part)["forward"] = DeferringForward(part)
            elif not wait and isinstance(vars(part).get("forward"), DeferringForward):
                del part.forward
