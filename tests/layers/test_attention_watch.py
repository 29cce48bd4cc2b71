"""Attention products of running modules: the right functions are caught, and nothing is left behind."""

import contextlib
import copy
import inspect
import logging
import threading

import pytest
import torch
from attention_parts import (
    Explicit,
    Nested,
    attend_quantized,
    constant,
    diffusers_attention,
    give_intervals,
    installed,
    seeded,
)
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from tempoquant.graph import AttentionProduct, Probe, read_denoiser
from tempoquant.layers import QuantizedProduct, install_attention

# --- Products found in a running module ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processor", "product"),
    [
        (AttnProcessor2_0, AttentionProduct("attn", 0, "sdpa")),
        (AttnProcessor, AttentionProduct("attn", 0, "explicit", (0, 1))),
    ],
)
def test_a_diffusers_attention(processor, product):
    model, x = nn.ModuleDict({"attn": diffusers_attention(processor())}), seeded(3, 5, 8)
    stock = model["attn"](x)
    attn = model["attn"]
    q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v))
    expected = attn.to_out[0](attend_quantized(q, k, v).transpose(1, 2).flatten(2))
    products = install_attention(model, [product])["attn"].products
    torch.testing.assert_close(attn(x), stock, rtol=0, atol=0)
    give_intervals(products[0])
    torch.testing.assert_close(attn(x), expected, rtol=0, atol=1e-5)
    assert (attn(x) - stock).abs().max() > 1e-4
    assert isinstance(attn.processor, processor)


def test_unknown_cross_attention_arguments_still_warn(caplog):
    attn = diffusers_attention()
    installed(nn.ModuleDict({"attn": attn}), AttentionProduct("attn", 0, "sdpa"))
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING, logger="diffusers"):
        attn(seeded(1, 5, 8), made_up=1)
    assert "cross_attention_kwargs ['made_up'] are not expected by AttnProcessor2_0" in caplog.text


def test_the_signature_of_forward_stays():
    attn = diffusers_attention()
    before = inspect.signature(attn.forward)
    installed(nn.ModuleDict({"attn": attn}), AttentionProduct("attn", 0, "sdpa"))
    assert inspect.signature(attn.forward) == before


@pytest.mark.parametrize("processor", [AttnProcessor2_0, AttnProcessor])
def test_a_copy_works_and_shares_no_interval(processor):
    model, x = nn.ModuleDict({"attn": diffusers_attention(processor())}), seeded(2, 5, 8)
    kind = ("sdpa",) if processor is AttnProcessor2_0 else ("explicit", (0, 1))
    installed(model, AttentionProduct("attn", 0, *kind))
    twin, before = copy.deepcopy(model), model["attn"](x)
    torch.testing.assert_close(twin["attn"](x), before, rtol=0, atol=0)
    twin["attn"].attention_products.products[0].intervals["v"] = constant(0.7, 4, 4)
    assert (twin["attn"](x) - before).abs().max() > 1e-3
    torch.testing.assert_close(model["attn"](x), before, rtol=0, atol=0)
    twin["attn"].to_v.weight.data.zero_()
    torch.testing.assert_close(model["attn"](x), before, rtol=0, atol=0)


@pytest.mark.parametrize("how", ["@", "methods", "bmm", "baddbmm", "einsum", "flipped"])
def test_explicit_attention(how):
    module, x = nn.ModuleDict({"attn": Explicit(how)}), [seeded(3, 5, 8, seed=i) for i in range(3)]
    stock = module["attn"](*x)
    found = AttentionProduct("attn", 0, "explicit", (1, 2), how == "flipped")
    products = install_attention(module, [found])["attn"].products
    torch.testing.assert_close(module["attn"](*x), stock, rtol=0, atol=0)
    give_intervals(products[0])
    torch.testing.assert_close(module["attn"](*x), attend_quantized(*x), rtol=0, atol=1e-6)
    torch.testing.assert_close(module["attn"](*x), module["attn"](*x), rtol=0, atol=0)


def test_products_of_parts_are_not_counted_by_their_owner():
    module, (q, k, v) = Nested(), (seeded(2, 5, 8, seed=i) for i in range(3))
    found = AttentionProduct("", 0, "explicit", (0, 1)), AttentionProduct("", 0, "sdpa")
    installed(module, *found)
    stock = Nested()
    scale = 8**-0.5
    product = QuantizedProduct()
    give_intervals(product)
    q2 = q + stock.inner(q, k, v)
    p = (product.product("qk", q2, k.transpose(-1, -2)) * scale).softmax(-1)
    v2 = v + stock.inner(v, v, v)
    v2 = v2 + product.attend(k, k, v2)
    out = product.product("pv", p, v2)
    torch.testing.assert_close(module(q, k, v), out + stock.inner(out, out, out), rtol=0, atol=1e-6)


def test_owners_within_owners():
    module, (q, k, v) = Nested(), (seeded(2, 5, 8, seed=i) for i in range(3))
    installed(
        module,
        AttentionProduct("", 0, "explicit", (0, 1)),
        AttentionProduct("inner", 0, "explicit", (1, 2)),
        AttentionProduct("parts.1", 0, "explicit", (1, 2)),
    )
    product = QuantizedProduct()
    give_intervals(product)
    q2 = q + product.attend(q, k, v)
    p = (product.product("qk", q2, k.transpose(-1, -2)) * 8**-0.5).softmax(-1)
    v2 = v + product.attend(v, v, v)
    v2 = v2 + scaled_dot_product_attention(k, k, v2)
    out = product.product("pv", p, v2)
    torch.testing.assert_close(module(q, k, v), out + product.attend(out, out, out), rtol=0, atol=1e-5)


class Recursive(nn.Module):
    def forward(self, x, depth=1):
        p = (x @ x.transpose(-1, -2) * x.shape[-1] ** -0.5).softmax(-1)
        return p @ (self(x, depth - 1) if depth else x)


def test_a_module_that_calls_itself():
    module, x = nn.ModuleDict({"attn": Recursive()}), seeded(2, 5, 8)
    installed(module, AttentionProduct("attn", 0, "explicit", (0, 1)))
    torch.testing.assert_close(module["attn"](x), attend_quantized(x, x, attend_quantized(x, x, x)), rtol=0, atol=1e-6)


def test_calls_of_two_threads_count_their_own_products():
    """A part runs in one thread while the owner attends in another."""
    inside, done = threading.Event(), threading.Event()

    class WaitingPart(nn.Module):
        def forward(self, x):
            if x.shape[0] == 1:
                inside.set()
                done.wait(10)
            return x

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = WaitingPart()

        def forward(self, x):
            x = self.part(x)
            return scaled_dot_product_attention(x, x, x)

    module, x = nn.ModuleDict({"attn": Owner()}), seeded(2, 5, 8)
    installed(module, AttentionProduct("attn", 0, "sdpa"))
    found = []
    other = threading.Thread(target=lambda: found.append(module["attn"](x[:1])))
    other.start()
    assert inside.wait(10)
    here = module["attn"](x)
    done.set()
    other.join()
    torch.testing.assert_close(here, attend_quantized(x, x, x), rtol=0, atol=0)
    torch.testing.assert_close(found[0], attend_quantized(x[:1], x[:1], x[:1]), rtol=0, atol=0)


def test_several_products_of_one_module():
    class Two(nn.Module):
        def forward(self, x):
            return scaled_dot_product_attention(x, x, scaled_dot_product_attention(x, x, x))

    module, x = nn.ModuleDict({"attn": Two()}), seeded(1, 5, 8)
    installed(module, AttentionProduct("attn", 1, "sdpa"))
    expected = attend_quantized(x, x, scaled_dot_product_attention(x, x, x))
    torch.testing.assert_close(module["attn"](x), expected, rtol=0, atol=0)


# --- Nothing is left behind ------------------------------------------------------------------------------------------


class Failing(Explicit):
    error: type[BaseException] | None = None

    def forward(self, q, k, v):
        out = super().forward(q, k, v)
        if self.error is not None:
            raise self.error("on purpose")
        return out


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_no_watch_behind(error):
    module, x = nn.ModuleDict({"attn": Failing()}), [seeded(3, 5, 8, seed=i) for i in range(3)]
    installed(module, AttentionProduct("attn", 0, "explicit", (1, 2)))
    expected = module["attn"](*x)
    module["attn"].error = error
    with pytest.raises(error, match="on purpose"):
        module["attn"](*x)
    assert _get_current_function_mode_stack() == []
    module["attn"].error = None
    torch.testing.assert_close(module["attn"](*x), expected, rtol=0, atol=0)


def test_a_part_that_fails_is_not_taken_for_running():
    class Catching(Nested):
        def forward(self, q, k, v):
            with contextlib.suppress(RuntimeError):
                self.inner(q, k, v)
            return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v

    module, x = Catching(), [seeded(3, 5, 8, seed=i) for i in range(3)]
    module.inner = Failing()
    module.inner.error = RuntimeError
    installed(module, AttentionProduct("", 0, "explicit", (0, 1)))
    torch.testing.assert_close(module(*x), attend_quantized(*x), rtol=0, atol=1e-6)


def test_other_modes_see_what_happens_inside():
    """A device context, for one, is such a mode: it must reach the functions inside attention."""
    seen = []

    class Other(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    module, x = nn.ModuleDict({"attn": Explicit()}), seeded(1, 5, 8)
    installed(module, AttentionProduct("attn", 0, "explicit", (1, 2)))
    with Other():
        module["attn"](x, x, x)
    assert torch.eye in seen


# --- Found by the graph, caught by the watch -------------------------------------------------------------------------


class TinyDenoiser(nn.Module):
    """Attention of every kind between a time layer and an output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.time, self.out = nn.Linear(4, 8), nn.Linear(8, 8)
        self.explicit = nn.ModuleList(
            [Explicit(how) for how in ("@", "methods", "bmm", "baddbmm", "einsum", "flipped")]
        )
        self.nested, self.attn = Nested(), diffusers_attention()

    def forward(self, x, t):
        x = x + self.time(torch.sin(t[:, None].float() * torch.arange(1, 5)))[:, None]
        for part in (*self.explicit, self.nested, self.explicit[0]):
            x = x + part(x, x, x)
        return self.out(self.attn(x))


def test_what_the_graph_finds_is_what_the_watch_catches():
    module = TinyDenoiser().eval()
    graph = read_denoiser(Probe(module, module, (5, 8), (1, 20, 300), lambda batch, variant: {}))
    assert [product.owner for product in graph.attention] == [
        *(f"explicit.{i}" for i in range(6)),
        "nested.inner",
        "nested.parts.1",
        "nested",
        "nested",
        "attn",
    ]
    assert graph.unreached == ()
    x, t, seen = seeded(3, 5, 8), torch.tensor([1, 7, 300]), {}
    stock = module(x, t)
    for owner, products in install_attention(module, graph.attention).items():
        for i, product in enumerate(products.products):
            product.watch = lambda name, x, key=(owner, i): seen.setdefault(key, []).append((name, x))
    torch.testing.assert_close(module(x, t), stock, rtol=0, atol=1e-5)
    names = {key: "".join(name for name, _ in found) for key, found in seen.items()}
    assert names == {
        ("explicit.0", 0): "qkpvqkpv",
        ("explicit.1", 0): "qkpv",
        ("explicit.2", 0): "qkpv",
        ("explicit.3", 0): "qkpv",
        ("explicit.4", 0): "qkpv",
        ("explicit.5", 0): "qkvp",
        ("nested.inner", 0): "qkpvqkpv",
        ("nested.parts.1", 0): "qkpv",
        ("nested", 0): "qkpv",
        ("nested", 1): "qkpv",
        ("attn", 0): "qkpv",
    }
    for key, found in seen.items():
        for name, operand in found:
            if name == "p":
                axis = -2 if key[0] == "explicit.5" else -1
                torch.testing.assert_close(operand.sum(axis), torch.ones_like(operand.sum(axis)))
