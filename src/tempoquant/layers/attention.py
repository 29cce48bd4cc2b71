"""Attention products with quantized operands: q, k, v and the softmax output.

The products are functions, not modules, so they are caught by watching torch functions while their owner runs: the
owner is the module that :mod:`tempoquant.graph` found to execute them, the innermost one that runs. Its ``forward`` is
surrounded, whatever its class; a diffusers attention processor stays the object it was.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tempoquant.graph import MATRIX_PRODUCTS, AttentionProduct
from tempoquant.layers.simulation import EXACT, quantized_input
from tempoquant.numerics import PerTensor, PerToken, QParams
from tempoquant.patching import GraphRole, in_graph, opaque, surround
from tempoquant.sharing import PerThread

OPERANDS = ("q", "k", "v", "p")
AT_ONCE = 2**19
"""Scores that attention holds at a time: some passes go over them, which should find them in the processor's cache."""
FEWEST_TERMS = 64
"""Of a float32 sum that is exact: where no more are, one float64 product is faster than many float32 ones."""


ProductKernel = Callable[["QuantizedProduct", str, Tensor, Tensor], Tensor]
CenteredInput = Callable[[Tensor, QParams], Tensor]
AttentionKernel = Callable[["QuantizedProduct", Tensor, Tensor, Tensor, float], Tensor]


class QuantizedProduct(nn.Module):
    """The two matrix products of one attention: softmax(q k^T) v.

    Attributes:
        intervals: a provider for each of "q", "k", "v" and "p" (the softmax output), or empty while float.
        watch: called with (operand name, tensor) before use: how calibration sees the operands.
        kernel: computes a product whose operands are quantized; :func:`simulate_product` unless another is given.
        attention: computes softmax(q k^T * scale) v where nothing is masked; :func:`attention_in_pieces`, which goes by
            way of the kernel, unless another is given.
        centred: makes ``q - z`` of an operand in float32; a run-time may give a faster one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.intervals = nn.ModuleDict()
        self.watch: Callable[[str, Tensor], None] | None = None
        self.compute_with(simulate_product)

    def compute_with(
        self,
        kernel: ProductKernel,
        attention: AttentionKernel | None = None,
        centred: Callable[[Tensor, QParams], Tensor] = quantized_input,
    ) -> None:
        """Let these compute from now on: see the attributes of their names."""
        self.kernel, self.centred = kernel, centred
        self.attention: AttentionKernel = attention or attention_in_pieces

    @property
    def is_stock(self) -> bool:
        """Whether nothing is quantized or watched: the stock functions serve."""
        return not self.intervals and self.watch is None

    def product(self, names: str, left: Tensor, right: Tensor) -> Tensor:
        """``left @ right``, operands called by the two letters of ``names``."""
        if self.watch is not None:
            self.watch(names[0], left)
            self.watch(names[1], right)
        return opaque(self.kernel, self, names, left, right) if self.intervals else torch.matmul(left, right)

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
        """``scaled_dot_product_attention`` by way of :meth:`product`.

        While nothing is quantized or watched it is the stock function; else dropout is that of evaluation (none).
        """
        if self.is_stock:
            return scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        dtype = query.dtype
        # Unscaled scores would overflow half precision.
        query, key, value = query.float(), key.float(), value.float()
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        bare = attn_mask is None and not is_causal and self.watch is None
        if bare and not torch.jit.is_tracing():
            return opaque(self.attention, self, query, key, value, scale).to(dtype)
        scores = self.product("qk", query, key.transpose(-2, -1)) * scale
        if is_causal:
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~causal, float("-inf"))
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, float("-inf")) if masked else scores + attn_mask
        probabilities = scores.softmax(-1)
        if attn_mask is not None:
            # A query that may see nothing attends to nothing, as in the stock function.
            probabilities = probabilities.masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0)
        return self.product("pv", probabilities, value).to(dtype)


def attention_in_pieces(product: QuantizedProduct, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of all queries to all keys, a head and some queries at a time: sums are the same integers."""
    scores = _scores(query, key)
    if scores <= AT_ONCE or any(map(needs_all, product.intervals.values())):
        return _attention(product, query, key, value, scale)
    if query.dim() == 4 and query.shape[1] > 1:
        heads = zip(query.split(1, 1), key.split(1, 1), value.split(1, 1), strict=True)
        return torch.cat([attention_in_pieces(product, q, k, v, scale) for q, k, v in heads], 1)
    parts = query.split(max(1, AT_ONCE * query.shape[-2] // scores), -2)
    return torch.cat([_attention(product, part, key, value, scale) for part in parts], -2)


def _attention(product: QuantizedProduct, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    scores = product.product("qk", query, key.transpose(-2, -1)) * scale
    return product.product("pv", scores.softmax(-1), value)


def needs_all(provider: Any) -> bool:
    """Whether a part of a tensor would be quantized in another way than within the whole."""
    # One scale of the input itself follows all of it; a stored one a token follows the token's place.
    return provider.dynamic != (provider.granularity == PerToken())


def _scores(query: Tensor, key: Tensor) -> int:
    return query.shape[:-1].numel() * key.shape[-2]


def quantized_products(module: nn.Module) -> dict[str, QuantizedProduct]:
    """Attention products by name, in module order."""
    return {n: m for n, m in module.named_modules() if isinstance(m, QuantizedProduct)}


def simulate_product(product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` with both operands quantized: exact integers, then ``(acc * s) * s``, in left's dtype."""
    a, b = operand_qparams(product, names, left, right)
    x, y = product.centred(left, a), product.centred(right, b)
    providers: list[Any] = [product.intervals[name] for name in names]
    acc = _exact_product(x, y, math.prod(provider.span for provider in providers))
    return ((acc * _aligned(a.output_scale, acc)) * _aligned(b.output_scale, acc)).to(left.dtype)


def operand_qparams(product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> tuple[QParams, QParams]:
    """The parameters of both operands of ``left @ right``, shaped to broadcast against them.

    Tokens are rows of the left operand and columns of the right one, so that scales factor out of the sums.
    """
    first, second = (product.intervals[name] for name in names)
    if second.granularity == PerTensor():
        return first(left), second(right)
    return first(left), second(right.transpose(-2, -1)).map(lambda f: f if f.dim() < 2 else f.transpose(-2, -1))


def _exact_product(x: Tensor, y: Tensor, largest: float) -> Tensor:
    """``x @ y`` of integers, exact, rounded once to float32.

    Args:
        x: (..., M, K) integer-valued float32.
        y: (..., K, N), likewise.
        largest: no product of an entry of each is larger in magnitude.
    """
    terms, exact_terms = x.shape[-1], int((EXACT - 1) // largest)
    if terms <= exact_terms:
        return torch.matmul(x, y)
    if exact_terms < FEWEST_TERMS:
        return torch.matmul(x.double(), y.double()).float()
    parts = (torch.matmul(a, b) for a, b in zip(x.split(exact_terms, -1), y.split(exact_terms, -2), strict=True))
    total = next(parts).double()
    for part in parts:
        total += part
    return total.float()


def _aligned(scale: Tensor, acc: Tensor) -> Tensor:
    return scale if scale.dim() in (0, acc.dim()) else scale.reshape(-1, *(1,) * (acc.dim() - 1))


class AttentionProducts(nn.Module):
    """All attention products that one module executes, and the watch that finds them at each of its calls."""

    def __init__(self, found: list[AttentionProduct]):
        super().__init__()
        self.found = found
        self.products = nn.ModuleList([QuantizedProduct() for _ in found])
        self._running = _Running()

    def attach(self, owner: nn.Module) -> None:
        """Watch ``owner`` from now on; the intervals become part of it as ``owner.attention_products``."""
        for part in owner.modules():
            if part is not owner:
                part.register_forward_pre_hook(self._pause)
                part.register_forward_hook(self._resume, always_call=True)
        owner.add_module("attention_products", self)
        # Not hooks: a keyboard interrupt passes them by, and would leave the watch in place.
        surround(owner, self.watched, lasting=True)

    @in_graph(GraphRole.INLINE)
    @torch.compiler.disable
    def watched(self, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        """``forward(*args, **kwargs)``, a call of the owner, with its products quantized."""
        running = self._running
        before, watch = running.watch, _Watch(self)
        running.watch = watch
        try:
            with watch:
                return forward(*args, **kwargs)
        finally:
            running.watch = before

    def is_innermost(self, watch: "_Watch") -> bool:
        """Whether ``watch`` is that of the owner's latest call, if it calls itself."""
        return self._running.watch is watch

    # Products of the owner's parts are their own: while one runs, the owner counts nothing.
    @in_graph(GraphRole.INLINE)
    def _pause(self, *_: Any) -> None:
        watch = self._running.watch
        if watch is not None:
            watch.parts_running += 1

    @in_graph(GraphRole.INLINE)
    def _resume(self, *_: Any) -> None:
        watch = self._running.watch
        if watch is not None:
            watch.parts_running -= 1


class _Running(PerThread):
    """The watch of the owner's innermost call in a thread."""

    watch: "_Watch | None" = None


class _Watch(TorchFunctionMode):
    """Sends the owner's attention products through their :class:`QuantizedProduct`, by order of call."""

    def __init__(self, owned: AttentionProducts):
        super().__init__()
        self.owned = owned
        self.attends: dict[int, QuantizedProduct] = {}
        self.halves: dict[int, tuple[QuantizedProduct, str]] = {}
        for spec, product in zip(owned.found, owned.products, strict=True):
            if spec.kind == "sdpa":
                self.attends[spec.index] = product  # type: ignore[assignment]
            else:
                first, second = spec.calls
                self.halves[first] = (product, "qk")  # type: ignore[assignment]
                self.halves[second] = (product, "vp" if spec.flipped else "pv")  # type: ignore[assignment]
        self.attend_calls = self.matrix_calls = self.parts_running = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.parts_running or not self.owned.is_innermost(self):
            return func(*args, **kwargs)
        if func is scaled_dot_product_attention:
            self.attend_calls += 1
            if self.attend_calls - 1 in self.attends:
                return self.attends[self.attend_calls - 1].attend(*args, **kwargs)
        elif func in MATRIX_PRODUCTS:
            self.matrix_calls += 1
            if self.matrix_calls - 1 in self.halves:
                product, names = self.halves[self.matrix_calls - 1]
                if not product.is_stock:
                    return MATRIX_PRODUCTS[func](functools.partial(product.product, names), *args, **kwargs)
        return func(*args, **kwargs)
