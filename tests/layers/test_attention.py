"""Quantized attention products: their arithmetic."""

import numpy as np
import pytest
import torch
from attention_parts import constant, give_intervals, seeded
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, TableInterval
from tempoquant.layers import QuantizedProduct, attention
from tempoquant.numerics import QParams


def _table(scales, zeros, clock, bits=8):
    return TableInterval(QParams(torch.tensor(scales), torch.tensor(zeros), 0, 2**bits - 1), bits, clock)


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
    "float mask": {"attn_mask": seeded(2, 1, 3, 5, seed=9)},
    "a row that sees nothing": {"attn_mask": MASK & torch.tensor([[True], [False], [True]])},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("watched", [False, True])
def test_float_mode_is_the_stock_function(case, watched):
    product, seen = QuantizedProduct(), []
    product.watch = (lambda name, x: seen.append((name, tuple(x.shape)))) if watched else None
    q, k, v = seeded(2, 4, 3, 8), seeded(2, 4, 5, 8, seed=1), seeded(2, 4, 5, 6, seed=2)
    expected = scaled_dot_product_attention(q, k, v, **CASES[case])
    torch.testing.assert_close(product.attend(q, k, v, **CASES[case]), expected, rtol=0, atol=1e-6)
    shapes = [("q", (2, 4, 3, 8)), ("k", (2, 4, 8, 5)), ("p", (2, 4, 3, 5)), ("v", (2, 4, 5, 6))]
    assert seen == (shapes if watched else [])


def test_float_mode_with_fewer_heads_for_keys():
    product, seen = QuantizedProduct(), []
    product.watch = lambda name, x: seen.append(name)
    q, k, v = seeded(2, 6, 3, 8), seeded(2, 2, 5, 8, seed=1), seeded(2, 3, 5, 8, seed=2)
    expected = scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(product.attend(q, k, v, enable_gqa=True), expected, rtol=0, atol=1e-6)
    assert seen == ["q", "k", "p", "v"]


def test_half_precision_stays_half_precision():
    product = QuantizedProduct()
    give_intervals(product)
    q, k = seeded(1, 2, 4, 8).half(), seeded(1, 2, 5, 8, seed=1).half()
    out = product.attend(q, k, k)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, product.attend(q.float(), k.float(), k.float()).half(), rtol=0, atol=0)


def test_scores_beyond_half_precision():
    product = QuantizedProduct()
    product.watch = lambda name, x: None
    q = torch.full((1, 2, 64), 100.0, dtype=torch.float16)
    torch.testing.assert_close(product.attend(q, q, q), q)


# --- Quantized mode --------------------------------------------------------------------------------------------------


def test_quantized_mode_is_exact_integer_arithmetic():
    product = QuantizedProduct()
    give_intervals(product)
    q, k, v = seeded(2, 4, 6, 8), seeded(2, 4, 5, 8, seed=1), seeded(2, 4, 5, 8, seed=2)
    s_q, s_k, s_v, s_p = (np.float32(s) for s in (0.031, 0.027, 0.023, 1 / 255))
    acc = _integers(q, s_q, 128) @ _integers(k, s_k, 120).swapaxes(-1, -2)
    scores = ((acc.astype(np.float32) * s_q) * s_k) * np.float32(8**-0.5)
    acc = _integers(torch.from_numpy(_softmax(scores)), s_p, 0) @ _integers(v, s_v, 131)
    np.testing.assert_array_equal(product.attend(q, k, v).numpy(), (acc.astype(np.float32) * s_p) * s_v)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("at_once", [1, 7, 60, 10**6])
def test_pieces_of_any_size_give_the_same_bits(at_once, folded, monkeypatch):
    product = QuantizedProduct()
    give_intervals(product)
    q, k, v = (seeded(2, 4, n, 8, seed=i) for i, n in enumerate((6, 5, 5)))
    whole = product.attend(q, k, v)
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    if folded:
        assert torch.equal(product.attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, (2, 4)), whole)
    assert torch.equal(product.attend(q, k, v), whole)


@pytest.mark.parametrize("length", [40, 4000])
def test_sums_beyond_float32_are_exact_too(length):
    product = QuantizedProduct()
    product.intervals = nn.ModuleDict({"q": constant(1.0, 0, 16), "k": constant(1.0, 0, 16)})
    draw = np.random.default_rng(0)
    a, b = (draw.integers(0, 2**16, shape) for shape in ((2, 3, length), (2, length, 4)))
    out = product.product("qk", torch.from_numpy(a).float(), torch.from_numpy(b).float())
    np.testing.assert_array_equal(out.numpy(), (a @ b).astype(np.float32))


def test_probabilities_that_do_not_add_up_to_one_are_exact_too():
    """A softmax over another axis than the one summed over: its rows may add up to anything."""
    product = QuantizedProduct()
    product.intervals = nn.ModuleDict({"p": constant(1 / 65535, 0, 16), "v": constant(1.0, 0)})
    p, v = torch.ones(1, 1, 999), torch.full((1, 999, 1), 255.0)
    assert product.product("pv", p, v).item() == np.float32(np.float32(999 * 65535 * 255) * np.float32(1 / 65535))


def test_the_operands_keep_their_names_when_the_softmax_stands_on_the_right():
    product, seen = QuantizedProduct(), []
    product.intervals = nn.ModuleDict({"p": constant(0.5, 0), "v": constant(2.0, 0)})
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
    q, k, v = (seeded(3, 2, 6, 8, seed=i) for i in range(3))
    steps = torch.tensor([20, 0, 10])
    expected = []
    for item, step in enumerate(steps):
        with clock.at(step):
            expected.append(product.attend(*(x[item : item + 1] for x in (q, k, v))))
    with clock.at(steps):
        if heads_folded:
            out = product.attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, (3, 2))
        else:
            out = product.attend(q, k, v)
    torch.testing.assert_close(out, torch.cat(expected), rtol=0, atol=0)


def test_more_rows_than_items_are_refused():
    clock, product = Clock(torch.tensor([0, 10, 20]), None, "t"), QuantizedProduct()
    _by_row(product, clock)
    error = pytest.raises(TempoquantError, match="2 time steps cannot be spread over an input of shape")
    with clock.at(torch.tensor([0, 10])), error:
        product.attend(*[seeded(3, 6, 8)] * 3)
