import math
from dataclasses import replace

import pytest
import torch

from tempoquant.learned.networks import (
    ARCHITECTURES,
    ENCODINGS,
    INITIALIZATIONS,
    IntervalNetworks,
    frequency_encoding,
)

SCALES = torch.tensor([1e-4, 0.02, 0.5])


def made(name="tdq", scales=SCALES, key=("test",)):
    return IntervalNetworks(scales, ARCHITECTURES[name], 1000, key)


def test_encoding_by_hand():
    # w = [10000^0, 10000^(-1/2)] = [1, 0.01].
    found = frequency_encoding(torch.tensor([0, 3]), 4)
    expected = [[1, 1, 0, 0], [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize(
    ("name", "parameters"), [("tdq", 128 * 64 + 64 + 2 * (64 * 64 + 64) + 65), ("thin", 32 + 16 * 17 + 17)]
)
def test_sizes_are_the_papers(name, parameters):
    assert sum(p.numel() for p in made(name).parameters()) == 3 * parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_starts_near_the_calibrated_scale_and_at_it_without_the_last_weights(name):
    generators = made(name)
    steps = torch.arange(0, 1000, 50)
    with torch.no_grad():
        near = generators(steps) / SCALES[:, None]
        assert (near > 0.5).all() and (near < 2).all() and (near != 1).all()
        generators.weights[-1].zero_()
        torch.testing.assert_close(generators(steps), SCALES[:, None].expand(3, 20), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_generator_is_its_own_network(name):
    generators, steps = made(name), torch.tensor([0, 100, 999])
    h = frequency_encoding(steps, 128) if name == "tdq" else steps[:, None] / 1000
    for layer in range(3):
        x = h
        for i, (weight, bias) in enumerate(zip(generators.weights, generators.biases, strict=True)):
            x = torch.nn.functional.linear(x if i == 0 else x.relu(), weight[layer].T, bias[layer, 0])
        torch.testing.assert_close(generators(steps)[layer], torch.nn.functional.softplus(x)[:, 0])
    assert generators(steps).shape == (3, 3) and generators(torch.tensor(5)).shape == (3,)


def test_all_parameters_learn():
    generators = made()
    generators(torch.tensor([0, 500])).log().sum().backward()
    assert all(p.grad.abs().flatten(1).sum(1).gt(0).all() for p in generators.parameters())


def test_dropout_acts_while_learning_only_and_by_its_key():
    generators, steps = made(), torch.arange(8)

    def drawn(seed):
        return generators(steps, torch.Generator().manual_seed(seed))

    assert torch.equal(generators(steps), generators(steps))
    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))
    assert not torch.equal(drawn(0), generators(steps))
    assert torch.equal(made("thin")(steps, torch.Generator()), made("thin")(steps))
    assert torch.equal(made()(steps), generators(steps)) and not torch.equal(made(key=("x",))(steps), generators(steps))


def test_encodings_by_hand():
    steps = torch.tensor([0, 250, 1000])
    for name, (length, encode) in ENCODINGS.items():
        assert encode(steps, 1000).shape == (3, length), name
    assert ENCODINGS["normalized"][1](steps, 1000).flatten().tolist() == [0, 0.25, 1]
    assert ENCODINGS["none"][1](steps, 1000).flatten().tolist() == [0, 250, 1000]
    fourier = ENCODINGS["fourier"][1](steps, 1000)
    assert fourier[0].tolist() == [1.0] * 64 + [0.0] * 64
    torch.testing.assert_close(fourier[:, :64] ** 2 + fourier[:, 64:] ** 2, torch.ones(3, 64))
    # A quarter of the way, the angle is pi / 2 times a standard normal draw.
    frequency = torch.atan2(fourier[1, 64:], fourier[1, :64]) / (math.pi / 2)
    small = frequency[frequency.abs() < 1.5]
    assert abs(float(small.mean())) < 0.4 and 0.5 < float(small.std()) < 1


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_initializations(name):
    architecture = replace(ARCHITECTURES["tdq"], initialization=name)
    generators = IntervalNetworks(SCALES, architecture, 1000, ("test",))
    deviation = [float(weight.detach().std()) for weight in generators.weights]
    # Uniform on +-r has deviation r / sqrt(3).
    expected = {
        "he": [(1 / (3 * n)) ** 0.5 for n in (128, 64, 64, 64)],
        "xavier": [(2 / (n + m)) ** 0.5 for n, m in ((128, 64), (64, 64), (64, 64), (64, 1))],
        "zero": [(1 / (3 * n)) ** 0.5 for n in (128, 64, 64)] + [0],
        "gaussian": [1] * 4,
    }[name]
    assert deviation == pytest.approx(expected, rel=0.1)
    assert (float(generators.biases[0].detach().abs().max()) > 0) == (name in ("he", "zero"))
    at_start = torch.nn.functional.softplus(generators.biases[-1].detach()).flatten()
    torch.testing.assert_close(at_start, SCALES, rtol=1e-4, atol=0)


def test_networks_of_statistics_see_them_before_the_encoding():
    architecture = replace(ARCHITECTURES["tdq"], encoding="absent", statistics=4)
    generators, seen = IntervalNetworks(SCALES, architecture, 1000, ("test",)), torch.randn(5, 4)
    x = seen
    for i, (weight, bias) in enumerate(zip(generators.weights, generators.biases, strict=True)):
        x = torch.nn.functional.linear(x if i == 0 else x.relu(), weight[2].T, bias[2, 0])
    found = generators.of_input(2, seen, torch.tensor(7), None)
    torch.testing.assert_close(found, torch.nn.functional.softplus(x)[:, 0])
