"""Quantized attention products: their arithmetic, and how they are found in a running module."""

import contextlib
import copy
import inspect
import logging

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from tempoquant.errors import TempoquantError
from tempoquant.graph import AttentionProduct
from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.layers import QuantizedProduct, install_attention
from tempoquant.numerics import QParams


def _seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _constant(scale, zero, bits=8):
    return ConstantInterval(QParams(torch.tensor(scale), torch.tensor(float(zero)), 0, 2**bits - 1), bits)


def _table(scales, zeros, clock, bits=8):
    return TableInterval(QParams(torch.tensor(scales), torch.tensor(zeros), 0, 2**bits - 1), bits, clock)


def _intervals(product, bits=8):
    widths = {"q": (0.031, 128), "k": (0.027, 120), "v": (0.023, 131), "p": (1 / 255, 0)}
    scale = 2 ** (8 - bits)
    product.intervals = nn.ModuleDict({name: _constant(s * scale, z // scale, bits) for name, (s, z) in widths.items()})


def _integers(x, scale, zero, q_max=255):
    q = np.clip(np.rint(x.numpy() / np.float32(scale)) + np.float32(zero), 0, q_max) - np.float32(zero)
    return q.astype(np.int64)


def _softmax(scores):
    return torch.from_numpy(scores).softmax(-1).numpy()


# --- Float mode ------------------------------------------------------------------------------------------------------

MASK = torch.tensor(
    [[True, False, True, True, False], [True, True, True, False, True], [False, True, True, True, True]]
)
CASES = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean mask": {"attn_mask": MASK},
    "float mask": {"attn_mask": _seeded(2, 1, 3, 5, seed=9)},
    "a row that sees nothing": {"attn_mask": MASK & torch.tensor([[True], [False], [True]])},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("watched", [False, True])
def test_float_mode_is_the_stock_function(case, watched):
    product, seen = QuantizedProduct(), []
    product.watch = (lambda name, x: seen.append((name, tuple(x.shape)))) if watched else None
    q, k, v = _seeded(2, 4, 3, 8), _seeded(2, 4, 5, 8, seed=1), _seeded(2, 4, 5, 6, seed=2)
    expected = scaled_dot_product_attention(q, k, v, **CASES[case])
    torch.testing.assert_close(product.attend(q, k, v, **CASES[case]), expected, rtol=0, atol=1e-6)
    shapes = [("q", (2, 4, 3, 8)), ("k", (2, 4, 8, 5)), ("p", (2, 4, 3, 5)), ("v", (2, 4, 5, 6))]
    assert seen == (shapes if watched else [])


def test_float_mode_with_fewer_heads_for_keys():
    product, seen = QuantizedProduct(), []
    product.watch = lambda name, x: seen.append(name)
    q, k, v = _seeded(2, 6, 3, 8), _seeded(2, 2, 5, 8, seed=1), _seeded(2, 3, 5, 8, seed=2)
    expected = scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(product.attend(q, k, v, enable_gqa=True), expected, rtol=0, atol=1e-6)
    assert seen == ["q", "k", "p", "v"]


def test_half_precision_stays_half_precision():
    product = QuantizedProduct()
    _intervals(product)
    q = _seeded(1, 2, 4, 8).half()
    assert product.attend(q, q, q).dtype == torch.float16


# --- Quantized mode --------------------------------------------------------------------------------------------------


def test_quantized_mode_is_exact_integer_arithmetic():
    product = QuantizedProduct()
    _intervals(product)
    q, k, v = _seeded(2, 4, 6, 8), _seeded(2, 4, 5, 8, seed=1), _seeded(2, 4, 5, 8, seed=2)
    s_q, s_k, s_v, s_p = (np.float32(s) for s in (0.031, 0.027, 0.023, 1 / 255))
    acc = _integers(q, s_q, 128) @ _integers(k, s_k, 120).swapaxes(-1, -2)
    scores = ((acc.astype(np.float32) * s_q) * s_k) * np.float32(8**-0.5)
    acc = _integers(torch.from_numpy(_softmax(scores)), s_p, 0) @ _integers(v, s_v, 131)
    np.testing.assert_array_equal(product.attend(q, k, v).numpy(), (acc.astype(np.float32) * s_p) * s_v)


@pytest.mark.parametrize("length", [40, 4000])
def test_sums_beyond_float32_are_exact_too(length):
    product = QuantizedProduct()
    product.intervals = nn.ModuleDict({"q": _constant(1.0, 0, 16), "k": _constant(1.0, 0, 16)})
    draw = np.random.default_rng(0)
    a, b = (draw.integers(0, 2**16, shape) for shape in ((2, 3, length), (2, length, 4)))
    out = product.product("qk", torch.from_numpy(a).float(), torch.from_numpy(b).float())
    np.testing.assert_array_equal(out.numpy(), (a @ b).astype(np.float32))


def test_probabilities_that_do_not_add_up_to_one_are_exact_too():
    """A softmax over another axis than the one summed over: its rows may add up to anything."""
    product = QuantizedProduct()
    product.intervals = nn.ModuleDict({"p": _constant(1 / 65535, 0, 16), "v": _constant(1.0, 0)})
    p, v = torch.ones(1, 1, 999), torch.full((1, 999, 1), 255.0)
    assert product.product("pv", p, v).item() == np.float32(np.float32(999 * 65535 * 255) * np.float32(1 / 65535))


def test_the_operands_keep_their_names_when_the_softmax_stands_on_the_right():
    product, seen = QuantizedProduct(), []
    product.intervals = nn.ModuleDict({"p": _constant(0.5, 0), "v": _constant(2.0, 0)})
    product.watch = lambda name, x: seen.append(name)
    out = product.product("vp", torch.tensor([[4.0, 8.0]]), torch.tensor([[0.5], [1.0]]))
    assert out.item() == 4 * 0.5 + 8 * 1.0
    assert seen == ["v", "p"]


# --- Rows of mixed time steps ----------------------------------------------------------------------------------------

SCALES, ZEROS = [0.02, 0.03, 0.05], [128.0, 100.0, 140.0]


def _by_row(product, clock):
    product.intervals = nn.ModuleDict({name: _table(SCALES, ZEROS, clock) for name in "qkv"})
    product.intervals["p"] = _table([1 / 255, 1 / 200, 1 / 180], [0.0, 0.0, 0.0], clock)


@pytest.mark.parametrize("heads_folded", [False, True])
def test_mixed_rows_give_each_item_its_own_interval(heads_folded):
    clock, product = Clock(torch.tensor([0, 10, 20]), None, "t"), QuantizedProduct()
    _by_row(product, clock)
    q, k, v = (_seeded(3, 2, 6, 8, seed=i) for i in range(3))
    rows = torch.tensor([2, 0, 1])
    expected = []
    for item, row in enumerate(rows):
        clock.row = row
        expected.append(product.attend(*(x[item : item + 1] for x in (q, k, v))))
    clock.row = rows
    if heads_folded:
        out = product.attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, (3, 2))
    else:
        out = product.attend(q, k, v)
    torch.testing.assert_close(out, torch.cat(expected), rtol=0, atol=0)


def test_more_rows_than_items_are_refused():
    clock, product = Clock(torch.tensor([0, 10, 20]), None, "t"), QuantizedProduct()
    _by_row(product, clock)
    clock.row = torch.tensor([0, 1])
    with pytest.raises(TempoquantError, match="2 time steps cannot be spread over an input of shape"):
        product.attend(*[_seeded(3, 6, 8)] * 3)


# --- Products found in a running module ------------------------------------------------------------------------------


def _installed(module, *found):
    installed = install_attention(module, found)
    for products in installed.values():
        for product in products.products:
            _intervals(product)
    return installed


def _expected(q, k, v, **options):
    product = QuantizedProduct()
    _intervals(product)
    return product.attend(q, k, v, **options)


def _diffusers_attention(processor=None):
    torch.manual_seed(0)
    return Attention(8, heads=2, dim_head=4, processor=processor).eval()


@pytest.mark.parametrize(
    ("processor", "product"),
    [
        (AttnProcessor2_0, AttentionProduct("attn", 0, "sdpa")),
        (AttnProcessor, AttentionProduct("attn", 0, "explicit", (0, 1))),
    ],
)
def test_a_diffusers_attention(processor, product):
    model, x = nn.ModuleDict({"attn": _diffusers_attention(processor())}), _seeded(3, 5, 8)
    stock = model["attn"](x)
    attn = model["attn"]
    q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (attn.to_q, attn.to_k, attn.to_v))
    expected = attn.to_out[0](_expected(q, k, v).transpose(1, 2).flatten(2))
    installed = install_attention(model, [product])
    torch.testing.assert_close(attn(x), stock, rtol=0, atol=0)
    _intervals(installed["attn"].products[0])
    torch.testing.assert_close(attn(x), expected, rtol=0, atol=1e-5)
    assert (attn(x) - stock).abs().max() > 1e-4
    assert isinstance(attn.processor, processor)


def test_unknown_cross_attention_arguments_still_warn(caplog):
    attn = _diffusers_attention()
    _installed(nn.ModuleDict({"attn": attn}), AttentionProduct("attn", 0, "sdpa"))
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.WARNING, logger="diffusers"):
        attn(_seeded(1, 5, 8), made_up=1)
    assert "cross_attention_kwargs ['made_up'] are not expected by AttnProcessor2_0" in caplog.text


def test_the_signature_of_forward_stays():
    attn = _diffusers_attention()
    before = inspect.signature(attn.forward)
    _installed(nn.ModuleDict({"attn": attn}), AttentionProduct("attn", 0, "sdpa"))
    assert inspect.signature(attn.forward) == before


@pytest.mark.parametrize("processor", [AttnProcessor2_0, AttnProcessor])
def test_a_copy_works_and_shares_no_interval(processor):
    model, x = nn.ModuleDict({"attn": _diffusers_attention(processor())}), _seeded(2, 5, 8)
    kind = ("sdpa",) if processor is AttnProcessor2_0 else ("explicit", (0, 1))
    _installed(model, AttentionProduct("attn", 0, *kind))
    twin, before = copy.deepcopy(model), model["attn"](x)
    torch.testing.assert_close(twin["attn"](x), before, rtol=0, atol=0)
    twin["attn"].attention_products.products[0].intervals["v"] = _constant(0.7, 4, 4)
    assert (twin["attn"](x) - before).abs().max() > 1e-3
    torch.testing.assert_close(model["attn"](x), before, rtol=0, atol=0)
    twin["attn"].to_v.weight.data.zero_()
    torch.testing.assert_close(model["attn"](x), before, rtol=0, atol=0)


class Explicit(nn.Module):
    """Attention written out, in one of several ways, between a product that is none of its own and one after it."""

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


@pytest.mark.parametrize("how", ["@", "methods", "bmm", "baddbmm", "einsum", "flipped"])
def test_explicit_attention(how):
    module, x = nn.ModuleDict({"attn": Explicit(how)}), [_seeded(3, 5, 8, seed=i) for i in range(3)]
    stock = module["attn"](*x)
    installed = install_attention(module, [AttentionProduct("attn", 0, "explicit", (1, 2), how == "flipped")])
    torch.testing.assert_close(module["attn"](*x), stock, rtol=0, atol=0)
    _intervals(installed["attn"].products[0])
    torch.testing.assert_close(module["attn"](*x), _expected(*x), rtol=0, atol=1e-6)
    torch.testing.assert_close(module["attn"](*x), module["attn"](*x), rtol=0, atol=0)


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


def test_products_of_parts_are_not_counted_by_their_owner():
    module, (q, k, v) = Nested(), (_seeded(2, 5, 8, seed=i) for i in range(3))
    found = AttentionProduct("", 0, "explicit", (0, 1)), AttentionProduct("", 0, "sdpa")
    _installed(module, *found)
    stock = Nested()
    scale = 8**-0.5
    product = QuantizedProduct()
    _intervals(product)
    q2 = q + stock.inner(q, k, v)
    p = (product.product("qk", q2, k.transpose(-1, -2)) * scale).softmax(-1)
    v2 = v + stock.inner(v, v, v)
    v2 = v2 + product.attend(k, k, v2)
    out = product.product("pv", p, v2)
    torch.testing.assert_close(module(q, k, v), out + stock.inner(out, out, out), rtol=0, atol=1e-6)


def test_owners_within_owners():
    module, (q, k, v) = Nested(), (_seeded(2, 5, 8, seed=i) for i in range(3))
    _installed(
        module,
        AttentionProduct("", 0, "explicit", (0, 1)),
        AttentionProduct("inner", 0, "explicit", (1, 2)),
        AttentionProduct("parts.1", 0, "explicit", (1, 2)),
    )
    product = QuantizedProduct()
    _intervals(product)
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
    module, x = nn.ModuleDict({"attn": Recursive()}), _seeded(2, 5, 8)
    _installed(module, AttentionProduct("attn", 0, "explicit", (0, 1)))
    torch.testing.assert_close(module["attn"](x), _expected(x, x, _expected(x, x, x)), rtol=0, atol=1e-6)


def test_several_products_of_one_module():
    class Two(nn.Module):
        def forward(self, x):
            return scaled_dot_product_attention(x, x, scaled_dot_product_attention(x, x, x))

    module, x = nn.ModuleDict({"attn": Two()}), _seeded(1, 5, 8)
    _installed(module, AttentionProduct("attn", 1, "sdpa"))
    expected = _expected(x, x, scaled_dot_product_attention(x, x, x))
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
    module, x = nn.ModuleDict({"attn": Failing()}), [_seeded(3, 5, 8, seed=i) for i in range(3)]
    _installed(module, AttentionProduct("attn", 0, "explicit", (1, 2)))
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

    module, x = Catching(), [_seeded(3, 5, 8, seed=i) for i in range(3)]
    module.inner = Failing()
    module.inner.error = RuntimeError
    _installed(module, AttentionProduct("", 0, "explicit", (0, 1)))
    torch.testing.assert_close(module(*x), _expected(*x), rtol=0, atol=1e-6)


def test_other_modes_see_what_happens_inside():
    """A device context, for one, is such a mode: it must reach the functions inside attention."""
    seen = []

    class Other(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    module, x = nn.ModuleDict({"attn": Explicit()}), _seeded(1, 5, 8)
    _installed(module, AttentionProduct("attn", 0, "explicit", (1, 2)))
    with Other():
        module["attn"](x, x, x)
    assert torch.eye in seen
