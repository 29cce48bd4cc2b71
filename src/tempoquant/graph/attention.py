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
        self.products: dict[AttentionProduct, None] = {}
        self.unreached: dict[str, None] = {}

    def on_function(self, func: Any, args: tuple, kwargs: dict, out: Any, frame: Frame) -> None:
        """Update scores, probabilities and products by one call of a torch function."""
        if func in SEALED:
            self.add_unreached(frame.name, "attention in one native call")
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

    def _product(self, sides: tuple[Tensor, Tensor] | None, inputs: list[Tensor], out: Tensor, frame: Frame) -> None:
        call = self.counts[frame, "matrix"]
        probabilities = next((t for t in inputs if t in self.probabilities), None)
        if probabilities is None:
            self.scores[out] = None if sides is None else Origin(frame, call)
            return
        origin = self.probabilities[probabilities]
        if origin is None:
            self.add_unreached(frame.name, "its softmax is fed by no matrix product that can be reached")
        elif sides is None or origin.frame != frame:
            self.add_unreached(frame.name, "its two matrix products are not both reachable")
        elif origin in self.paired:
            self.add_unreached(frame.name, "one softmax takes part in several matrix products")
        else:
            self.paired.add(origin)
            self._add(frame, "explicit", (origin.call, call), flipped=sides[0] is not probabilities)

    def _pass_on(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for origins in (self.scores, self.probabilities):
            of_inputs = [origins[t] for t in inputs if t in origins]
            for out in outputs if of_inputs else ():
                origins[out] = of_inputs[0]

    def _add(self, frame: Frame, kind: str, calls: tuple[int, int] = (0, 0), flipped: bool = False) -> None:
        index = self.counts[frame, kind]
        self.counts[frame, kind] += 1
        self.products[AttentionProduct(frame.name, index, kind, calls, flipped)] = None

    def add_unreached(self, owner: str, why: str) -> None:
        """Add an attention product that cannot be quantized, and the reason."""
        self.unreached[f"{owner or 'the denoiser'}: {why}"] = None


def attention_products(probe: Probe) -> tuple[tuple[AttentionProduct, ...], tuple[str, ...]]:
    """Find the attention products of a denoiser, and those that cannot be quantized, each with its reason in words.

    The owner of a product is the innermost module that runs it. Products are scaled-dot-product attention calls, or a
    softmax between two matrix products within one call of the owner. They are found again by their position, so an
    owner whose products are other ones in another batch (it computes slice after slice, say) is not reached.
    """
    at_batch_1, finder = _Finder(), _Finder()
    watch_forward(probe, at_batch_1.on_function, batch=1)
    watch_forward(probe, finder.on_function)
    batch_dependent = {product.owner for product in at_batch_1.products.keys() ^ finder.products.keys()}
    for owner in sorted(batch_dependent):
        finder.add_unreached(owner, "its matrix products depend on the size of the batch")
    products = tuple(product for product in finder.products if product.owner not in batch_dependent)
    return products, tuple(finder.unreached)
