"""Attention products with quantized operands: q, k, v and the softmax output.

The products are functions, not modules, so they are caught by watching torch functions while their owner runs: the
owner is the module that :mod:`tempoquant.graph` found to execute them. A diffusers ``Attention`` gets a processor that
watches around its own; any other owner gets hooks that do the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tempoquant.graph import MATRIX_PRODUCTS, AttentionProduct
from tempoquant.intervals import Interval
from tempoquant.layers.simulation import EXACT, quantized_input

OPERANDS = ("q", "k", "v", "p")


class QuantizedProduct(nn.Module):
    """The two matrix products of one attention: softmax(q k^T) v.

    Attributes:
        intervals: a provider for each of "q", "k", "v" and "p" (the softmax output), or empty while float.
        watch: called with (operand name, tensor) before use: how calibration sees the operands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.intervals = nn.ModuleDict()
        self.watch: Callable[[str, Tensor], None] | None = None

    def product(self, names: str, left: Tensor, right: Tensor, multiply: Callable = torch.matmul) -> Tensor:
        """``left @ right`` of the operands called ``names`` ("qk" or "pv"): exact integers, then ``(acc * s) * s``."""
        if self.watch is not None:
            self.watch(names[0], left)
            self.watch(names[1], right)
        if not self.intervals:
            return multiply(left, right)
        a, b = (self.intervals[name]().over(x) for name, x in zip(names, (left, right), strict=True))
        wide = _largest_sum(names, left.shape[-1], a, b) >= EXACT
        x, y = (quantized_input(v, i) for v, i in ((left, a), (right, b)))
        acc = multiply(x.double(), y.double()).float() if wide else multiply(x, y)
        return ((acc * _aligned(a.s_out, acc)) * _aligned(b.s_out, acc)).to(left.dtype)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """``scaled_dot_product_attention`` by way of :meth:`product`; dropout is that of evaluation (none)."""
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = self.product("qk", query, key.transpose(-2, -1)).float()
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~causal, float("-inf"))
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, float("-inf")) if masked else scores + attn_mask
        return self.product("pv", scores.softmax(-1).to(query.dtype), value)


def _largest_sum(names: str, length: int, a: Interval, b: Interval) -> float:
    """A bound on the integer sums: rows of "p" add up to one, so their integers to at most 1/s + length/2."""
    left, right = (float((i.q_max - i.q_min).max()) for i in (a, b))
    row = 1 / float(a.s_in.min()) + length / 2 if names == "pv" else left * length
    return min(row, left * length) * right


def _aligned(scale: Tensor, acc: Tensor) -> Tensor:
    return scale if scale.dim() == 0 else scale.reshape(-1, *(1,) * (acc.dim() - 1))


class AttentionProducts(nn.Module):
    """All attention products that one module executes, and the watch that finds them at each of its calls."""

    def __init__(self, found: list[AttentionProduct]):
        super().__init__()
        self.found = found
        self.products = nn.ModuleList(QuantizedProduct() for _ in found)
        self._open: list[_Watch] = []

    def attach(self, owner: nn.Module) -> None:
        """Watch ``owner`` from now on; the intervals become part of it as ``owner.attention_products``."""
        from diffusers.models.attention_processor import Attention

        owner.add_module("attention_products", self)
        if isinstance(owner, Attention):
            owner.processor = watched_processor(owner.processor, self)
            return
        owner.register_forward_pre_hook(self._enter)
        owner.register_forward_hook(self._leave, always_call=True)

    def _enter(self, *_: Any) -> None:
        self._open.append(_Watch(self))
        self._open[-1].__enter__()

    def _leave(self, *_: Any) -> None:
        self._open.pop().__exit__(None, None, None)


class WatchedProcessor:
    """A diffusers attention processor that runs another one under watch."""

    def __init__(self, inner: Any, products: AttentionProducts):
        self.inner, self.products = inner, products

    def run(self, *args: Any, **kwargs: Any) -> Any:
        with _Watch(self.products):
            return self.inner(*args, **kwargs)


def watched_processor(inner: Any, products: AttentionProducts) -> WatchedProcessor:
    """Wrap ``inner``, keeping the signature of its call: diffusers drops arguments that the signature lacks."""
    call = functools.wraps(type(inner).__call__)(lambda self, *args, **kwargs: self.run(*args, **kwargs))
    return type(f"Watched{type(inner).__name__}", (WatchedProcessor,), {"__call__": call})(inner, products)


class _Watch(TorchFunctionMode):
    """Sends the owner's attention products through their :class:`QuantizedProduct`, by order of call."""

    def __init__(self, products: AttentionProducts):
        super().__init__()
        found = list(zip(products.found, products.products, strict=True))
        self.attends = [product for spec, product in found if spec.kind == "sdpa"]
        self.halves = {
            call: (names, product)
            for spec, product in found
            if spec.kind == "explicit"
            for call, names in zip(spec.calls, ("qk", "pv"), strict=True)
        }
        self.attend_calls = self.matrix_calls = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            if func is scaled_dot_product_attention:
                self.attend_calls += 1
                if self.attend_calls <= len(self.attends):
                    return self.attends[self.attend_calls - 1].attend(*args, **kwargs)
            if func in MATRIX_PRODUCTS:
                self.matrix_calls += 1
                if self.matrix_calls - 1 in self.halves:
                    names, product = self.halves[self.matrix_calls - 1]
                    return MATRIX_PRODUCTS[func](functools.partial(product.product, names), *args, **kwargs)
            return func(*args, **kwargs)
