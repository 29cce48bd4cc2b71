"""What is measured: streaming sums, and the model of quantization noise that is fitted from them."""

import numpy as np
import pytest
import torch
from gaussian_problem import BIAS, SIGMA_Q, STEPS, gaussian, known, schedule
from gaussian_problem import K as SLOPE
from scipy.stats import linregress

from tempoquant.correction import PairSums, Trajectories, compare_predictions, correction_tables, quantization_noise
from tempoquant.errors import FormatError, InputError
from tempoquant.intervals import Clock
from tempoquant.pipelines import BareModel


def pairs(seed=0, batch=6, slope=0.2, spread=0.1):
    draw = torch.Generator().manual_seed(seed)
    e = torch.randn(batch, 3, 8, 8, generator=draw) + 0.3
    q = (1 + slope) * e + torch.tensor([0.1, -0.2, 0.0]).view(3, 1, 1)
    return e, q + spread * torch.randn(e.shape, generator=draw)


def sums_of(*parts, rows=1):
    sums = PairSums(rows)
    for e, q in parts:
        sums.add(0, e, q)
    return sums


def test_streaming_sums_equal_one_shot():
    e, q = pairs()
    apart = sums_of(*((e[i : i + 2], q[i : i + 2]) for i in (0, 2, 4)))
    assert torch.allclose(apart.sums, sums_of((e, q)).sums, rtol=1e-14, atol=0)
    x, y = e.double().numpy(), q.double().numpy()
    wanted = [np.full(3, 6 * 64.0), *(v.sum((0, 2, 3)) for v in (x, y, x * x, y * y, x * y))]
    np.testing.assert_allclose(apart.sums[:, 0].numpy(), np.stack(wanted), rtol=1e-13)
    assert float(apart.snr()) == pytest.approx(float((x**2).sum() / ((y - x) ** 2).sum()), rel=1e-12)


def test_rows_do_not_mix():
    sums = PairSums(3)
    sums.add(2, *pairs(1))
    assert sums.missing == [0, 1]
    assert torch.equal(sums.sums[:, 2], sums_of(pairs(1)).sums[:, 0])
    assert PairSums(2).missing == [0, 1]


def test_the_slope_is_scipy_s_and_the_residual_numpy_s():
    e, q = pairs()
    noise = quantization_noise(sums_of((e, q)))
    x, d = e.double().numpy(), (q.double() - e.double()).numpy()
    line = linregress(x.ravel(), d.ravel())
    assert float(noise.r2) == pytest.approx(line.rvalue**2, rel=1e-9)
    t2 = (line.slope / line.stderr) ** 2
    k = line.slope * t2 / (1 + t2)
    assert float(noise.k) == pytest.approx(k, rel=1e-9) and float(noise.k) == pytest.approx(0.2, abs=0.02)
    rest = d - k * x
    means = rest.mean((0, 2, 3))
    np.testing.assert_allclose(noise.bias[0].numpy(), means, rtol=1e-9)
    assert float(noise.variance) == pytest.approx(((rest - means[:, None, None]) ** 2).mean(), rel=1e-9)


def test_corrected_predictions_have_no_bias_and_no_slope_left():
    e, q = pairs(slope=0.3)
    tables = correction_tables(sums_of((e, q)), "correlated")
    found = tables.prediction(0, q).double()
    assert torch.allclose((found - e).mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6)
    assert float((found - e).square().mean()) < 0.1 * float((q - e).square().mean())
    assert float(tables.variance) == pytest.approx(float((found - e).var((0, 2, 3)).mean()), rel=0.02)


def test_a_slope_below_zero_is_not_undone():
    e, q = pairs(slope=-0.2)
    sums = sums_of((e, q))
    tables = correction_tables(sums, "correlated")
    assert float(quantization_noise(sums).k) < -0.15 and torch.equal(tables.gain, torch.ones(1, 3))
    assert torch.allclose(tables.prediction(0, q).mean((0, 2, 3)), e.mean((0, 2, 3)), atol=1e-6)


def test_a_slope_that_few_pairs_support_is_shrunk():
    draw = torch.Generator().manual_seed(1)
    e = torch.randn(1, 1, 2, 2, generator=draw)
    d = torch.randn(1, 1, 2, 2, generator=draw)
    line = linregress(e.flatten().double(), d.flatten().double())
    assert 0 < abs(float(quantization_noise(sums_of((e, e + d))).k)) < 0.9 * abs(line.slope)


def test_equal_predictions_are_left_alone():
    e, _ = pairs()
    for kind in ("correlated", "mmse"):
        tables = correction_tables(sums_of((e, e)), kind)
        assert torch.equal(tables.prediction(0, e), e) and float(tables.variance) == 0


def test_least_squares_gain_is_the_nearest():
    e, q = pairs(spread=0.8)
    tables = correction_tables(sums_of((e, q)), "mmse")
    for c in range(3):
        wanted = np.linalg.lstsq(q[:, c].double().reshape(-1, 1).numpy(), e[:, c].double().reshape(-1).numpy())[0][0]
        assert float(tables.gain[0, c]) == pytest.approx(wanted, rel=1e-6)
    assert torch.equal(tables.bias, torch.zeros(1, 3))


@pytest.mark.parametrize(("sampler", "eta"), [(None, 0.0), (None, 1.0), ("ddpm", 0.0), ("plms", 0.0), ("dpm++", 0.0)])
def test_a_known_noise_is_found_on_the_full_precision_trajectory(sampler, eta):
    run = {"steps": STEPS, "seed": 5, "sampler": sampler, "eta": eta}
    full, quantized = BareModel(gaussian(False)), BareModel(gaussian(True))
    steps = []
    full.run_trajectories(2, lambda seen: steps.append(float(seen.t[0])), **run)
    clock = Clock(torch.tensor(steps), 1, "timestep")
    trajectories = Trajectories(range(24), run, batch_size=10)
    (sums,) = compare_predictions(full, quantized, clock, trajectories, [lambda: None])
    noise = quantization_noise(sums)
    # At t = 0 the predicted noise hardly varies, which leaves its slope to chance.
    assert torch.allclose(noise.k[1:], torch.tensor(SLOPE).double(), atol=0.03)
    assert torch.allclose(noise.bias, torch.tensor(BIAS).double().expand(len(clock), 2), atol=0.04)
    assert torch.allclose(noise.variance, torch.tensor(SIGMA_Q**2).double(), rtol=0.05)
    # The pairs are of one sample each: what is not the residual is exactly linear, so no other x_t was compared.
    ee = sums.by_channel()[3]
    truth = {float(t): torch.zeros(2, dtype=torch.float64) for t in clock.timesteps}
    full.generate(
        24, step_callback=lambda k, t, i, x, p: truth[float(t[0])].add_(p.double().square().sum((0, 2, 3))), **run
    )
    assert torch.allclose(ee, torch.stack([truth[float(t)] for t in clock.timesteps]), rtol=1e-9)


def test_time_steps_that_the_denoiser_does_not_see_are_refused():
    target = BareModel(gaussian(False, schedule()))
    clock = Clock(known().timesteps / 1000, 1, "timestep")
    with pytest.raises(InputError, match="takes no step at t = 0"):
        run = {"steps": STEPS, "seed": 0}
        compare_predictions(target, target, clock, Trajectories(range(1), run), [lambda: None])


def test_tables_of_another_length_are_refused():
    tables = known().tables
    with pytest.raises(FormatError, match="do not fit 7 time steps"):
        type(tables).from_tensors(tables.to_tensors(), 7)
