"""Multiply-accumulates of one call, against numbers worked out by hand: at batch 1, 4 channels of 4 x 4 pixels."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graph_models import Attend, Plain, Tokens, probe_of
from image_layers import Decoder, Function, Rows, Volume
from tempoquant.graph import Source
from tempoquant.graph.arithmetic import count_arithmetic

PLAIN = {Source("a"): 8 * 8, Source("b"): 8 * 4, Source("conv"): 4 * 4 * 16}
"""Those of ``Plain`` itself."""


class Heads(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, **self.options)[0]


class Memory(nn.Module):
    """Attention to three learned tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
        self.tokens = nn.Parameter(torch.randn(1, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens.expand(len(x), 3, 4)
        return self.inner(x, tokens, tokens, need_weights=False)[0]


# Sixteen tokens of width 4: q, k, v and the output are 4 x 4 a token, the two products 16 x 4 each.
ATTENTION = 16 * (4 * 16 + 2 * 16 * 4)
PARTS = {
    "Conv2d of two groups": (nn.Conv2d(4, 4, 3, padding=1, groups=2), "image", 16 * 4 * 2 * 9),
    "Conv1d": (Rows(nn.Conv1d(4, 4, 3, padding=1)), "image.part", 16 * 4 * 4 * 3),
    "Conv3d": (Volume(), "image.part", 2 * 16 * 2 * 2 * 27),
    # Four pixels of 4 channels, each to 4 channels of 2 x 2.
    "ConvTranspose2d": (Decoder(), "image.part", 4 * 4 * 4 * 4),
    "function": (Function(), "image", 16 * 4 * 4 * 9),
    # Three gates, each 4 x 4 of the input and of the state.
    "GRU": (Rows(nn.GRU(4, 4, batch_first=True), tokens=True), "image.part", 16 * 3 * 2 * 16),
    "LSTM": (Rows(nn.LSTM(4, 4, batch_first=True), tokens=True), "image.part", 16 * 4 * 2 * 16),
    "MultiheadAttention": (Tokens(Heads(need_weights=False)), "image.inner.inner", ATTENTION),
    "its weights returned": (Tokens(Heads(need_weights=True)), "image.inner.inner", ATTENTION),
    "cross-attention": (Tokens(Memory()), "image.inner.inner", 16 * 2 * 16 + 3 * 2 * 16 + 2 * 16 * 3 * 4),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_by_hand(kind):
    torch.manual_seed(0)
    part, name, macs = PARTS[kind]
    assert count_arithmetic(probe_of(Plain(image=part))) == PLAIN | {Source(name): macs}


def test_the_products_of_attention_have_their_positions():
    def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT, -1) @ v

    projections = {Source(f"image.inner.{name}"): 16 * 16 for name in "qkv"}
    found = count_arithmetic(probe_of(Plain(image=Tokens(Attend(explicit)))))
    products = {Source("image.inner", "explicit", position): 16 * 16 * 4 for position in (0, 1)}
    assert found == PLAIN | projections | products
    found = count_arithmetic(probe_of(Plain(image=Tokens(Attend(F.scaled_dot_product_attention)))))
    assert found == PLAIN | projections | {Source("image.inner", "sdpa", 0): 2 * 16 * 16 * 4}


def test_calls_add_up_and_the_sample_is_of_its_full_size():
    twice = nn.Sequential(*[nn.Conv2d(4, 4, 1)] * 2)
    found = count_arithmetic(probe_of(Plain(image=twice), (4, 32, 32)))
    assert found == {**PLAIN, Source("conv"): 16 * 1024, Source("image.0"): 2 * 16 * 1024}


def test_a_module_made_in_inference_mode():
    with torch.inference_mode():
        module = Plain(image=Tokens(Attend(F.scaled_dot_product_attention)))
    found = count_arithmetic(probe_of(module))
    assert sum(found.values()) == sum(PLAIN.values()) + 3 * 16 * 16 + 2 * 16 * 16 * 4
