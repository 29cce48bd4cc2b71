"""The arithmetic of one denoiser call, counted by watching the operators that torch runs, and who runs them."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, ops
from torch._ops import OpOverload
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from tempoquant.graph.products import MATRIX_PRODUCTS
from tempoquant.graph.types import Probe, Source
from tempoquant.graph.watch import Frame, Watch, run_watched

aten: Any = ops.aten


def count_arithmetic(probe: Probe) -> dict[Source, int]:
    """Count the multiply-accumulates of one call at batch 1: those of convolutions and matrix products.

    Functional calls and attention count too; elementwise functions, normalization and embeddings do not.

    Returns:
        Multiply-accumulates by the module, and by the attention product in it, that runs them.
    """
    watch = _SourceWatch()
    with _Operators(watch):
        run_watched(probe, watch, batch=1)
    return dict(watch.counts)


class _SourceWatch(Watch):
    """Attributes every operator to the module that runs it, and to the matrix product, by its position in the call.

    Attributes:
        source: of the torch function that is running.
        counts: multiply-accumulates.
    """

    def __init__(self) -> None:
        super().__init__(lambda *_: None)
        self.source: Source | None = None
        self.counts: Counter[Source] = Counter()
        self.positions: Counter[tuple[Frame, str]] = Counter()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.running:
            frame, product = self.running[-1], _product_kind(func)
            self.source = Source(frame.name, product, self.positions[frame, product] if product else 0)
            self.positions[frame, product] += 1
        try:
            return super().__torch_function__(func, types, args, kwargs)
        finally:
            self.source = None

    def count(self, macs: int) -> None:
        """Add to the running function, or else to the running module."""
        if self.running:
            self.counts[self.source or Source(self.running[-1].name)] += macs


class _Operators(TorchDispatchMode):
    # Flexible attention is one.
    supports_higher_order_operators = True

    def __init__(self, watch: _SourceWatch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if packet not in flop_registry and packet not in MACS and isinstance(func, OpOverload):
            # A composite operator: the operators that it decomposes into are counted in its place.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if packet in MACS:
            self.watch.count(MACS[packet](*args))
        elif packet in flop_registry:
            self.watch.count(flop_registry[packet](*args, **kwargs, out_val=out) // 2)
        return out


def _product_kind(func: Callable) -> str:
    if func is F.scaled_dot_product_attention:
        return "sdpa"
    return "explicit" if func in MATRIX_PRODUCTS else ""


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape) // 2


def _recurrent(x: Tensor, *rest: Any) -> int:
    """A recurrent layer: every weight once a token."""
    weights = rest[0] if isinstance(rest[0], list | tuple) else rest[:2]
    return math.prod(x.shape[:-1]) * sum(weight.numel() for weight in weights if weight.dim() > 1)


MACS: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, vector: matrix.numel(),
    aten.addmv: lambda bias, matrix, vector: matrix.numel(),
    aten.dot: lambda left, right: left.numel(),
    aten._trilinear: lambda left, weight, right, *_: left.shape[0] * weight.numel(),
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.mkldnn_rnn_layer: _recurrent,
    aten._cudnn_rnn: _recurrent,
}
"""Multiply-accumulates, from an operator's positional arguments, of those that torch's own registry leaves out."""
