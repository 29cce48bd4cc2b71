"""Simulation on a device reads nothing to the host: tensors that pretend to be on one count what would wait."""

from collections import Counter
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.layers import QuantizedProduct, simulate, simulate_product, to_quantized
from tempoquant.numerics import affine_qparams
from tempoquant.numerics.weights import nearest, weight_qparams

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default}
"""Operators for which the host waits until the device has computed their input."""
MOVING = {aten._to_copy.default, aten.copy_.default}
STEPS = torch.tensor([10.0, 20.0, 30.0])


class OnDevice(Tensor):
    """A CPU tensor that says it is on another device, and computes only with its like, or with CPU scalars."""

    events: ClassVar[Counter] = Counter()

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "dtype": inner.dtype, "device": "meta"}
        tensor = Tensor._make_wrapper_subclass(cls, inner.shape, **layout)
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        operands = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        others = [x for x in operands if not isinstance(x, OnDevice)]
        if func in WAITING:
            cls.events[str(func)] += 1
        if func in MOVING and others:
            cls.events["copy between devices"] += 1
        elif any(x.dim() for x in others):
            raise RuntimeError(f"expected all tensors on one device: {func}")
        inner_args, inner_kwargs = tree_map_only(OnDevice, lambda x: x.inner, (args, kwargs or {}))
        result = func(*inner_args, **inner_kwargs)
        if func in WAITING:
            return result
        return tree_map_only(Tensor, OnDevice, result)


def move(module):
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = nn.Parameter(OnDevice(parameter.data), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = OnDevice(buffer)
    return module


def provider(clock, bits=8, low=-1.5):
    """One scale a step; one of all steps without a clock."""
    if clock is None:
        return ConstantInterval(affine_qparams(torch.tensor(low), torch.tensor(3.0), bits), bits)
    ends = low * torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])
    return TableInterval(affine_qparams(*ends, bits), bits, clock)


def moved_clock():
    clock = Clock(STEPS, 1, "t")
    clock.edges = OnDevice(clock.edges)
    return clock


@pytest.fixture
def events():
    OnDevice.events.clear()
    return OnDevice.events


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "stock", [lambda: nn.Linear(40, 8), lambda: nn.Conv2d(40, 8, 3, padding=1)], ids=["linear", "conv2d"]
)
@pytest.mark.parametrize("by_step", [True, False])
def test_a_simulated_layer_makes_no_synchronization(stock, by_step, events):
    clock, layer = moved_clock(), to_quantized(stock())
    grid = weight_qparams(layer.weight.data, 4, False, "minmax")
    layer.set_weight(nearest(layer.weight.data, grid), grid, 4)
    layer.input_interval = provider(clock if by_step else None)
    shape = (2, 40) if isinstance(layer, nn.Linear) else (2, 40, 5, 5)
    x = draw(*shape)
    with torch.no_grad():
        with clock.at(20.0, row=torch.tensor(1)):
            wanted = simulate(layer, x)
        move(layer)
        with clock.at(OnDevice(torch.tensor(20.0))):
            # What is read off the weight once.
            simulate(layer, OnDevice(x))
            events.clear()
            out = simulate(layer, OnDevice(x))
    assert not events, events
    assert isinstance(out, OnDevice) and torch.equal(out.inner, wanted)


@pytest.mark.parametrize(("terms", "bits"), [(24, 8), (1000, 8), (1000, 16)])
def test_a_simulated_attention_product_makes_no_synchronization(terms, bits, events):
    clock, product = moved_clock(), QuantizedProduct()
    product.intervals.update({name: provider(clock, bits) for name in "qk"})
    left, right = draw(2, 3, 7, terms), draw(2, 3, terms, 5, seed=1)
    with clock.at(30.0, row=torch.tensor(2)):
        wanted = simulate_product(product, "qk", left, right)
        q, k = (product.intervals[name].scalar_qparams() for name in "qk")
    x, y = (
        ((v / torch.tensor(p.scale)).round() + p.zero_point).clamp(p.q_min, p.q_max) - p.zero_point
        for v, p in ((left, q), (right, k))
    )
    exact = (x.double() @ y.double()).float() * torch.tensor(q.scale) * torch.tensor(k.scale)
    move(product)
    with torch.no_grad(), clock.at(OnDevice(torch.tensor(30.0))):
        out = simulate_product(product, "qk", OnDevice(left), OnDevice(right))
    assert not events, events
    assert torch.equal(out.inner, wanted) and torch.equal(wanted, exact)


def test_the_pretended_device_counts_and_refuses():
    OnDevice.events.clear()
    x = OnDevice(torch.ones(3))
    float(x.sum())
    assert OnDevice.events == {"aten._local_scalar_dense.default": 1}
    with pytest.raises(RuntimeError, match="one device"):
        x + torch.ones(3)
