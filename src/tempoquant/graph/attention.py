"""Attention products: matrix products around a softmax, found by watching one forward."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, softmax

from tempoquant.graph.temporal import tensors_in
from tempoquant.graph.types import AttentionProduct, Probe
from tempoquant.graph.watch import watch_forward

Product = Callable[..., Tensor]


def _plain(product: Product, left: Tensor, right: Tensor, **_: Any) -> Tensor:
    return product(left, right)


def _reversed(product: Product, right: Tensor, left: Tensor) -> Tensor:
    return product(left, right)


def _added(product: Product, bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    scaled = product(left, right) * alpha
    return scaled if beta == 0 else scaled + beta * bias


MATRIX_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    torch.matmul: _plain,
    torch.Tensor.matmul: _plain,
    torch.Tensor.__matmul__: _plain,
    torch.Tensor.__rmatmul__: _reversed,
    torch.bmm: _plain,
    torch.Tensor.bmm: _plain,
    torch.baddbmm: _added,
    torch.Tensor.baddbmm: _added,
}
"""Every matrix product that can be quantized, with how its arguments make one: f(product, *args) -> output."""

SOFTMAXES = (torch.softmax, torch.Tensor.softmax, softmax, torch._softmax)
SEALED = (torch._native_multi_head_attention, torch.nn.functional.multi_head_attention_forward)
UNCOUNTED = (torch.einsum,)


class _Finder:
    """Follows tensors from a matrix product through a softmax into another one."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.scores: dict[int, tuple[str, int]] = {}
        self.probabilities: dict[int, tuple[str, int] | None] = {}
        self.alive: list[Tensor] = []
        self.waiting: dict[int, str] = {}
        self.found: list[AttentionProduct] = []
        self.unreached: list[str] = []

    def see(self, func: Any, args: tuple, kwargs: dict, out: Any, running: str) -> None:
        if func in SEALED:
            self.unreached.append(f"{running or 'the denoiser'}: attention in one native call")
        elif func is scaled_dot_product_attention:
            self._add(running, "sdpa", (0, 0))
        elif func in MATRIX_PRODUCTS or func in UNCOUNTED:
            self._product(func, args, out, running)
        elif func in SOFTMAXES:
            self._softmax(tensors_in((args, kwargs)), out, running)
        elif isinstance(out, Tensor):
            self._pass_on(tensors_in((args, kwargs)), out)

    def _product(self, func: Any, args: tuple, out: Tensor, running: str) -> None:
        call = self.counts[running, "matrix"]
        self.counts[running, "matrix"] += func in MATRIX_PRODUCTS
        for operand in tensors_in(args):
            if id(operand) in self.probabilities:
                origin = self.probabilities[id(operand)]
                self.waiting.pop(id(operand), None)
                self._pair(origin if func in MATRIX_PRODUCTS else None, call, running)
                return
        self._keep(self.scores, out, (running if func in MATRIX_PRODUCTS else None, call))  # type: ignore[arg-type]

    def _pair(self, origin: tuple[str, int] | None, call: int, running: str) -> None:
        if origin is None or origin[0] != running:
            self.unreached.append(f"{running or 'the denoiser'}: its two matrix products are not both reachable")
        else:
            self._add(running, "explicit", (origin[1], call))

    def _softmax(self, inputs: list[Tensor], out: Tensor, running: str) -> None:
        origin = next((self.scores[id(t)] for t in inputs if id(t) in self.scores), None)
        if origin is not None:
            self._keep(self.probabilities, out, origin if origin[0] is not None else None)

    def _pass_on(self, inputs: list[Tensor], out: Tensor) -> None:
        for known in (self.scores, self.probabilities):
            for tensor in inputs:
                if id(tensor) in known and out.numel() >= tensor.numel():
                    self._keep(known, out, known[id(tensor)])

    def _keep(self, known: dict, tensor: Tensor, origin: Any) -> None:
        # Kept alive, so that no later tensor gets the same id.
        self.alive.append(tensor)
        known[id(tensor)] = origin

    def _add(self, owner: str, kind: str, calls: tuple[int, int]) -> None:
        index = self.counts[owner, kind]
        self.counts[owner, kind] += 1
        self.found.append(AttentionProduct(owner, index, kind, calls))


def attention_products(probe: Probe) -> tuple[tuple[AttentionProduct, ...], tuple[str, ...]]:
    """The attention products of a denoiser, and in words those that cannot be reached.

    The owner of a product is the innermost module that runs it. Products are scaled-dot-product attention calls, or a
    softmax between two matrix products of one owner.
    """
    finder = _Finder()
    watch_forward(probe, finder.see)
    return tuple(finder.found), tuple(dict.fromkeys(finder.unreached))
