"""Step-aware mixed precision: which widths are chosen, and what an interval of changing width computes."""

import pytest
import torch
from torch import nn

import tempoquant
from tempoquant.checkpoint.blueprint import interval_providers, quantized_layers, quantized_products
from tempoquant.correction.step_bits import at_width, forward_snr, install, smallest_sufficient, stepped_sites
from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, ConstantInterval, SteppedInterval, TableInterval
from tempoquant.kernels.check import integers_are_exact
from tempoquant.kernels.onednn import IntegerKernel
from tempoquant.layers import QuantLinear
from tempoquant.numerics import QParams, affine_qparams
from tiny import bare_denoiser, small_recipe, unet_pipeline

CLOCK = Clock(torch.tensor([0.0, 10.0, 20.0]), 1, "timestep")


def stepped(bits):
    widths = torch.tensor(bits)
    scale, zero = 2.0 / (2.0**widths - 1), (2 ** (widths - 1)).float()
    return SteppedInterval(scale, zero, widths, CLOCK)


def test_the_smallest_width_above_the_forward_process_is_taken():
    snr = torch.tensor([[9.0, 90.0, 5.0, 1.0], [99.0, 100.0, 8.0, 2.0], [500.0, 900.0, 9.0, 3.0]])
    assert smallest_sufficient(snr, torch.tensor([10.0, 10.0, 8.0, 50.0])).tolist() == [1, 0, 2, 2]


def test_the_forward_process_s_ratio():
    scheduler = bare_denoiser().scheduler
    kept = scheduler.alphas_cumprod.double()
    found = forward_snr(scheduler, torch.tensor([0.0, 50.0, 99.0]))
    assert found.tolist() == pytest.approx([float(kept[t] / (1 - kept[t])) for t in (0, 50, 99)], rel=1e-12)
    assert found[0] > found[1] > found[2]


def test_a_row_has_its_own_number_of_levels():
    interval = stepped([4, 6, 8])
    assert interval.bits == 8
    for row, levels in ((0, 15), (1, 63), (2, 255)):
        found = interval.at(torch.tensor(row))
        assert (float(found.q_min), float(found.q_max)) == (0, levels)
        assert float(found.scale) == pytest.approx(2 / levels)
    mixed = interval.at(torch.tensor([2, 0])).over(torch.zeros(4, 3))
    assert mixed.q_max.shape == (4, 1) and mixed.q_max.flatten().tolist() == [255, 255, 15, 15]
    with pytest.raises(TempoquantError, match="before the denoiser was called"):
        interval.at(None)
    with pytest.raises(TempoquantError, match="does not fit a clock of 3 rows"):
        SteppedInterval(torch.ones(2), torch.zeros(2), torch.tensor([4, 8]), CLOCK)


def test_a_layer_computes_every_row_at_its_width():
    torch.manual_seed(0)
    layer = QuantLinear(6, 5)
    layer.set_weight(torch.randint(-7, 8, (5, 6)), QParams(torch.rand(5, 1), torch.full((5, 1), 8), 0, 15), 4)
    layer.input_interval = stepped([2, 4, 8])
    x = torch.randn(3, 6)
    rows = []
    for row, bits in enumerate((2, 4, 8)):
        s, z = 2 / (2**bits - 1), 2 ** (bits - 1)
        q = torch.clamp(torch.round(x[row] / s) + z, 0, 2**bits - 1) - z
        wanted = (q.double() @ layer.weight.double().T) * s * layer.weight_scale.double()[:, 0] + layer.bias.double()
        with CLOCK.at(CLOCK.timesteps[row]):
            rows.append(layer(x[row : row + 1]))
        assert torch.allclose(rows[-1][0].double(), wanted, atol=1e-5)
    with CLOCK.at(CLOCK.timesteps):
        assert torch.equal(layer(x), torch.cat(rows))
        if integers_are_exact():
            layer.kernel = IntegerKernel()
            assert torch.equal(layer(x), torch.cat(rows))


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_another_width_keeps_the_range(bits):
    low, high = torch.tensor([-1.0, -0.2, 0.0]), torch.tensor([3.0, 0.9, 2.0])
    table = TableInterval(affine_qparams(low, high, 8), 8, CLOCK)
    found, wanted = at_width(table, 3, bits), affine_qparams(low, high, bits)
    # The calibrated range is that of a grid, so it is off by at most half a step of 8 bits.
    assert torch.allclose(found.scale, wanted.scale, rtol=0.01) and found.q_max == 2**bits - 1
    assert (found.zero_point - wanted.zero_point).abs().max() <= 1
    if bits == 8:
        assert torch.equal(found.scale, table.scale) and torch.equal(found.zero_point, table.zero_point)
    constant = ConstantInterval(affine_qparams(low[0], high[0], 8), 8)
    assert torch.equal(at_width(constant, 3, bits).scale, found.scale[:1].expand(3))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.end = QuantLinear(2, 2), QuantLinear(2, 2), QuantLinear(2, 2)


def test_layers_of_fixed_width_are_left_and_shared_intervals_stay_shared():
    module = Two()
    module.a.input_interval = module.b.input_interval = ConstantInterval(
        affine_qparams(torch.tensor(-1.0), torch.tensor(1.0), 8), 8
    )
    module.end.input_interval = fixed = ConstantInterval(affine_qparams(torch.tensor(0.0), torch.tensor(1.0), 8), 8)
    sites = stepped_sites(module, (4, 8), {"a": (4, 8), "b": (4, 8), "end": (8, 8)})
    install(sites, CLOCK, torch.tensor([1, 0, 0]))
    assert module.a.input_interval is module.b.input_interval and module.end.input_interval is fixed
    assert module.a.input_interval.widths.tolist() == [8, 4, 4]
    # From the calibrated interval again, not from the one that was put there.
    install(sites, CLOCK, torch.tensor([1, 1, 1]))
    assert module.a.input_interval.at(torch.tensor(2)).scale == sites[0].provider.scale


def test_a_quantized_model_takes_few_bits_where_the_sample_is_noise():
    recipe = small_recipe("ptqd", effort="fast", weights=16, correction={"kind": "none", "step_bits": (3, 5, 8)})
    recipe = recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"rounding": "nearest"})})
    made = tempoquant.quantize(unet_pipeline(), recipe)
    found = made.facts["correction"]
    bits, steps = found["steps"]["bits"], found["timesteps"]
    assert made.correction is None and steps == [0, 25, 50, 75]
    snr, forward = found["steps"]["snr_db"], found["steps"]["forward_snr_db"]
    assert all(a < b < c for a, b, c in zip(*snr.values(), strict=True))
    for row, chosen in enumerate(bits):
        enough = [b for b in (3, 5, 8) if snr[str(b)][row] > forward[row]]
        assert chosen == (enough[0] if enough else 8)
    assert bits == sorted(bits, reverse=True) and bits[0] > bits[-1]
    module = made.denoiser.module
    widths = [p.widths.tolist() for p in interval_providers(module) if isinstance(p, SteppedInterval)]
    assert len(widths) > 20 and all(w == bits for w in widths)
    # First and last layer and softmax keep theirs.
    layers = quantized_layers(module)
    assert all(isinstance(layers[end].input_interval, ConstantInterval) for end in ("conv_in", "conv_out"))
    product = next(iter(quantized_products(module).values()))
    assert isinstance(product.intervals["p"], ConstantInterval) and isinstance(product.intervals["q"], SteppedInterval)
