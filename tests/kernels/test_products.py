"""Attention products in integers: simulation's bits, from int32 sums."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.kernels import compiled, products
from tempoquant.kernels.products import integer_attention, integer_product
from tempoquant.kernels.quantize import softmax_to_int8
from tempoquant.layers import QuantizedProduct, attention_in_pieces, simulate_product
from tempoquant.numerics import affine_qparams


@pytest.fixture(params=["compiled", "torch alone"])
def passes(request, monkeypatch):
    monkeypatch.setattr(products, "FEWEST_PRODUCTS", 0)
    compiled.compiled_passes.cache_clear()
    if request.param != "compiled":
        monkeypatch.setenv(compiled.COMPILER, "")
    yield
    compiled.compiled_passes.cache_clear()


def product_of(low, high, bits):
    made = QuantizedProduct()
    for name, ends in {"q": (low, high), "k": (-2.0, 1.5), "v": (low, high), "p": (0.0, 1.0)}.items():
        made.intervals[name] = ConstantInterval(affine_qparams(*map(torch.tensor, ends), bits), bits)
    return made


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("ends", [(-1.0, 2.0), (0.0, 1.0), (-2.0, 0.01)])
@pytest.mark.parametrize("shape", [(2, 3, 16, 24, 40), (4, 9, 16, 7)])
def test_the_bits_are_simulations(passes, shape, ends, bits):
    torch.manual_seed(0)
    *batch, rows, width, columns = shape
    product = product_of(*ends, bits)
    q, k, v = (torch.randn(*batch, n, width) for n in (rows, columns, columns))
    for names, left, right in (("qk", q, k.transpose(-2, -1)), ("pv", torch.rand(*batch, rows, columns), v)):
        wanted = simulate_product(product, names, left, right)
        assert torch.equal(integer_product(product, names, left, right), wanted)
        assert wanted.abs().sum() > 0


def test_sums_are_those_of_numpys_integers(passes):
    torch.manual_seed(0)
    product = product_of(-1.0, 2.0, 8)
    q, k = torch.randn(1, 5, 300) * 3, torch.randn(1, 6, 300) * 3
    sums = []
    for x, name in ((q, "q"), (k, "k")):
        interval = product.intervals[name].current()
        s, z = float(interval.scale), int(interval.zero_point)
        sums.append(np.clip(np.rint(x[0].numpy() / np.float32(s)).astype(np.int64) + z, 0, 255) - z)
    acc = torch.from_numpy(sums[0] @ sums[1].T).float()
    wanted = (acc * product.intervals["q"].current().scale) * product.intervals["k"].current().scale
    assert torch.equal(integer_product(product, "qk", q, k.transpose(1, 2))[0], wanted)


def test_bytes_at_their_ends_do_not_saturate(passes):
    product = QuantizedProduct()
    for name, zero in (("q", 255.0), ("k", 0.0)):
        low, high = (-255.0, 0.0) if zero else (0.0, 255.0)
        product.intervals[name] = ConstantInterval(affine_qparams(torch.tensor(low), torch.tensor(high), 8), 8)
    q, k = torch.full((1, 4, 512), -255.0), torch.full((1, 4, 512), 255.0)
    assert torch.equal(integer_product(product, "qk", q, k.transpose(1, 2)), torch.full((1, 4, 4), -255.0 * 255 * 512))


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("why", ["mixed steps", "small", "one matrix", "unlike batches"])
def test_the_rest_is_simulated(why, monkeypatch, stack):
    monkeypatch.setattr(products, "FEWEST_PRODUCTS", 0 if why != "small" else products.FEWEST_PRODUCTS)
    monkeypatch.setattr(torch, "_int_mm", None)
    product = product_of(-1.0, 2.0, 8)
    q, k = torch.randn(2, 5, 8), torch.randn(2, 6, 8)
    if why == "mixed steps":
        clock = Clock(torch.tensor([1.0, 2.0]), 1, "t")
        stack.enter_context(clock.at(torch.tensor([1.0, 2.0])))
        grid = affine_qparams(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 3.0]), 8)
        product.intervals["q"] = TableInterval(grid, 8, clock)
    if why == "one matrix":
        q, k = q[0], k[0]
    if why == "unlike batches":
        k = k[:1]
    right = k.transpose(-2, -1)
    assert torch.equal(integer_product(product, "qk", q, right), simulate_product(product, "qk", q, right))


@pytest.mark.parametrize("at_once", [1, 50, 2**20])
@pytest.mark.parametrize("shape", [(2, 3, 16, 24, 40), (4, 9, 16, 7)])
def test_attention_is_that_of_its_products(passes, request, monkeypatch, shape, at_once):
    monkeypatch.setattr(products, "SCORES_AT_ONCE", at_once)
    torch.manual_seed(0)
    *batch, count, width, terms = shape
    product = product_of(-1.0, 2.0, 8)
    # As attention processors give them: heads behind tokens in memory.
    q, k, v = (torch.randn(*batch[:-1], n, batch[-1], width).transpose(-3, -2) for n in (count, terms, terms))
    wanted = attention_in_pieces(product, q, k, v, 0.25)
    found = integer_attention(product, q, k, v, 0.25)
    if "torch alone" in request.node.callspec.id:
        assert torch.equal(found, wanted)
    else:
        assert found.shape == wanted.shape and (found - wanted).norm() < 1e-3 * wanted.norm()


def test_attention_that_integers_do_not_suit_goes_in_pieces(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", None)
    product = product_of(-1.0, 2.0, 8)
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))
    assert torch.equal(integer_attention(product, q, k, v, 0.5), attention_in_pieces(product, q, k, v, 0.5))


@pytest.mark.parametrize("bits", [8, 6])
def test_bytes_of_a_softmax_are_those_of_float64_but_for_ties(passes, bits):
    torch.manual_seed(0)
    acc = torch.randint(-(2**17), 2**17, (37, 129), dtype=torch.int32)
    row, column = (
        torch.randint(-500, 500, (37,), dtype=torch.int32),
        torch.randint(-500, 500, (129,), dtype=torch.int32),
    )
    numbers = ConstantInterval(affine_qparams(torch.tensor(0.0), torch.tensor(0.1), bits), bits).scalar_qparams()
    made, sums = softmax_to_int8(acc, (row, column), (2.0**-7, 2.0**-5, 2.0**-3), numbers)
    scores = (acc.double() + row[:, None] + column) * 2.0**-15
    exact = scores.softmax(1) / numbers.scale + numbers.zero_point
    wanted = exact.round().clamp(numbers.q_min, numbers.q_max) - 128
    tie = (exact - exact.floor() - 0.5).abs() < 1e-4
    assert torch.equal(made[~tie].double(), wanted[~tie])
    assert tie.float().mean() < 0.01 and wanted.unique().numel() > 30
    assert torch.equal(sums.long(), made.long().sum(1))
