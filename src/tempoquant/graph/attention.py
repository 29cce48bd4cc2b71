"""Attention products: matrix products around a softmax, found by watching one forward."""

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from tempoquant.graph.nested import tensors_in
from tempoquant.graph.products import MATRIX_PRODUCTS, UNREACHABLE_PRODUCTS, operands
from tempoquant.graph.types import AttentionProduct, Probe
from tempoquant.graph.watch import Frame, watch_forward

SOFTMAXES = (torch.softmax, torch.Tensor.softmax, torch.special.softmax, F.softmax)
SEALED = (torch._native_multi_head_attention, torch._transformer_encoder_layer_fwd, F.multi_head_attention_forward)
# Past these, scores are no longer scores: a softmax that comes later belongs to something else.
MIXING = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.layer_norm, F.group_norm, F.scaled_dot_product_attention)


class Origin(NamedTuple):
    """The matrix product that scores come from; ``call`` is its position among those of its frame."""

    frame: Frame
    call: int


class _Finder:
    """Follows tensors from a matrix product through a softmax into another one."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[Frame, str]] = Counter()
        self.scores: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.probabilities: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.paired: set[Origin] = set()
        self.found: dict[AttentionProduct, None] = {}
        self.unreached: dict[str, None] = {}

    def see(self, func: Any, args: tuple, kwargs: dict, out: Any, frame: Frame) -> None:
        """Take note of one torch function."""
        if func in SEALED:
            self.miss(frame.name, "attention in one native call")
        elif func is F.scaled_dot_product_attention:
            self._add(frame, "sdpa")
        elif func in MATRIX_PRODUCTS or func in UNREACHABLE_PRODUCTS:
            self._product(operands(func, args, kwargs), tensors_in((args, kwargs)), out, frame)
            self.counts[frame, "matrix"] += func in MATRIX_PRODUCTS
        elif func in SOFTMAXES:
            self.probabilities[out] = next(
                (self.scores[t] for t in tensors_in((args, kwargs)) if t in self.scores), None
            )
        elif func not in MIXING:
            self._pass_on(tensors_in((args, kwargs)), tensors_in(out))

    def _product(self, sides: tuple[Tensor, Tensor] | None, given: list[Tensor], out: Tensor, frame: Frame) -> None:
        call = self.counts[frame, "matrix"]
        probabilities = next((t for t in given if t in self.probabilities), None)
        if probabilities is None:
            self.scores[out] = None if sides is None else Origin(frame, call)
            return
        origin = self.probabilities[probabilities]
        if origin is None:
            self.miss(frame.name, "its softmax is fed by no matrix product that can be reached")
        elif sides is None or origin.frame != frame:
            self.miss(frame.name, "its two matrix products are not both reachable")
        elif origin in self.paired:
            self.miss(frame.name, "one softmax takes part in several matrix products")
        else:
            self.paired.add(origin)
            self._add(frame, "explicit", (origin.call, call), flipped=sides[0] is not probabilities)

    def _pass_on(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for known in (self.scores, self.probabilities):
            tag = [known[t] for t in inputs if t in known]
            for out in outputs if tag else ():
                known[out] = tag[0]

    def _add(self, frame: Frame, kind: str, calls: tuple[int, int] = (0, 0), flipped: bool = False) -> None:
        index = self.counts[frame, kind]
        self.counts[frame, kind] += 1
        self.found[AttentionProduct(frame.name, index, kind, calls, flipped)] = None

    def miss(self, owner: str, why: str) -> None:
        """Say what cannot be reached."""
        self.unreached[f"{owner or 'the denoiser'}: {why}"] = None


def attention_products(probe: Probe) -> tuple[tuple[AttentionProduct, ...], tuple[str, ...]]:
    """The attention products of a denoiser, and in words those that cannot be reached.

    The owner of a product is the innermost module that runs it. Products are scaled-dot-product attention calls, or a
    softmax between two matrix products within one call of the owner. They are found again by their position, so an
    owner whose products are other ones in another batch (it computes slice after slice, say) is not reached.
    """
    alone, finder = _Finder(), _Finder()
    watch_forward(probe, alone.see, batch=1)
    watch_forward(probe, finder.see)
    moving = {product.owner for product in alone.found.keys() ^ finder.found.keys()}
    for owner in sorted(moving):
        finder.miss(owner, "its matrix products depend on the size of the batch")
    return tuple(product for product in finder.found if product.owner not in moving), tuple(finder.unreached)
