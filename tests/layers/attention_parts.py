"""Intervals for attention products, and modules that run attention."""

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from tempoquant.intervals import ConstantInterval
from tempoquant.layers import QuantizedProduct, install_attention
from tempoquant.numerics import QParams


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def constant(scale, zero, bits=8):
    return ConstantInterval(QParams(torch.tensor(scale), torch.tensor(float(zero)), 0, 2**bits - 1), bits)


def give_intervals(product, bits=8):
    widths = {"q": (0.031, 128), "k": (0.027, 120), "v": (0.023, 131), "p": (1 / 255, 0)}
    scale = 2 ** (8 - bits)
    product.intervals = nn.ModuleDict({name: constant(s * scale, z // scale, bits) for name, (s, z) in widths.items()})


def installed(module, *found):
    for products in install_attention(module, found).values():
        for product in products.products:
            give_intervals(product)


def attend_quantized(q, k, v, **options):
    product = QuantizedProduct()
    give_intervals(product)
    return product.attend(q, k, v, **options)


def diffusers_attention(processor=None):
    torch.manual_seed(0)
    return Attention(8, heads=2, dim_head=4, processor=processor).eval()


class Explicit(nn.Module):
    """Attention written out, in one of several ways, after a matrix product that belongs to none."""

    def __init__(self, how="@"):
        super().__init__()
        self.how = how

    def forward(self, q, k, v):
        assert (torch.eye(2) @ torch.eye(2)).trace() == 2
        kt, scale = k.transpose(-1, -2), q.shape[-1] ** -0.5
        if self.how == "@":
            out = (q @ kt * scale).softmax(-1) @ v
        elif self.how == "methods":
            out = q.matmul(kt).mul(scale).softmax(-1).matmul(v)
        elif self.how == "bmm":
            out = torch.bmm(torch.softmax(torch.bmm(q, kt) * scale, -1), v)
        elif self.how == "baddbmm":
            scores = torch.baddbmm(torch.full((), torch.nan), q, kt, beta=0, alpha=scale)
            out = torch.baddbmm(torch.zeros(()), scores.softmax(-1), v)
        elif self.how == "einsum":
            p = (torch.einsum("bid,bjd->bij", q, k) * scale).softmax(-1)
            out = torch.einsum("bij,bjd->bid", p, v)
        else:
            p = (q @ kt * scale).softmax(-1)
            out = (v.transpose(-1, -2) @ p.transpose(-1, -2)).transpose(-1, -2)
        return out


class Nested(nn.Module):
    """An owner whose parts run matrix products themselves, before, between and after its own."""

    def __init__(self):
        super().__init__()
        self.inner = Explicit()
        self.parts = nn.ModuleList([nn.Identity(), Explicit("bmm")])

    def forward(self, q, k, v):
        q = q + self.inner(q, k, v)
        p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        v = v + self.parts[1](v, v, v)
        v = v + scaled_dot_product_attention(k, k, v)
        out = p @ v
        return out + self.inner(out, out, out)
