"""Group norms that wait for their reader: a convolution in integers takes norm, SiLU and rounding in one pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tempoquant.runtime.bytes import Numbers, norm_silu_bytes, quantized_bytes

aten: Any = torch.ops.aten


class Awaited(Tensor):
    """What a group norm puts out, maybe through SiLU, not computed yet; whatever else is done with it computes it.

    Attributes:
        source: the norm's input, (B, C, H, W). norm: the module. silu: whether SiLU follows.
    """

    source: Tensor
    norm: nn.GroupNorm
    silu: bool
    known: Tensor | None

    @staticmethod
    def __new__(cls, source: Tensor, norm: nn.GroupNorm, silu: bool) -> "Awaited":
        make: Any = torch.Tensor._make_wrapper_subclass
        made = make(cls, source.shape, strides=source.stride(), dtype=source.dtype, device=source.device)
        made.source, made.norm, made.silu, made.known = source, norm, silu, None
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is aten.silu.default and not args[0].silu:
            return cls(args[0].source, args[0].norm, True)
        if func is aten.dropout.default and not args[2]:
            return args[0]
        args, kwargs = tree_map_only(cls, cls.computed, (args, kwargs or {}))
        return func(*args, **kwargs)

    def computed(self) -> Tensor:
        """The values, by torch's own calls."""
        if self.known is None:
            y = type(self.norm).forward(self.norm, self.source)
            self.known = nn.functional.silu(y) if self.silu else y
        return self.known


def bytes_of(x: Tensor, numbers: Numbers) -> Tensor:
    """:func:`~tempoquant.runtime.bytes.quantized_bytes` of an input that may be awaited."""
    if not isinstance(x, Awaited):
        return quantized_bytes(x, numbers)
    q = norm_silu_bytes(x.source, x.norm, numbers) if x.silu else None
    return quantized_bytes(x.computed(), numbers) if q is None else q


class Waiting:
    """A group norm's ``forward`` that puts the work off where an integer layer may take it over.

    A class: copying the module must give the copy its own.
    """

    def __init__(self, norm: nn.GroupNorm):
        self.norm = norm

    def __call__(self, input: Tensor) -> Tensor:
        norm = self.norm
        plain = input.dim() == 4 and input.dtype == torch.float32 == norm.weight.dtype and input.device.type == "cpu"
        if not plain or torch.is_grad_enabled() or torch.compiler.is_compiling() or type(input) is not Tensor:
            return type(norm).forward(norm, input)
        return Awaited(input, norm, False)


def let_norms_wait(module: nn.Module, wait: bool) -> None:
    """Whether group norms of ``module`` wait for their reader from now on."""
    for part in module.modules():
        if isinstance(part, nn.GroupNorm) and part.affine:
            if wait and "forward" not in vars(part):
                vars(part)["forward"] = Waiting(part)
            elif not wait and isinstance(vars(part).get("forward"), Waiting):
                del part.forward
