"""The derivation, on a problem whose samples have a mean and a variance in closed form."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from gaussian_problem import MEAN, SIGMA_Q, SPREAD, STEPS, Gaussian, K, alpha_bars, gaussian, known, schedule

from tempoquant.correction import CorrectionTables, corrected_scheduler
from tempoquant.errors import InputError
from tempoquant.sampling.sampling import sample
from tempoquant.sampling.schedulers import build_scheduler, stepper_of


def drawn(noisy=True, scheduler=None, eta=1.0, **options):
    return sample(gaussian(noisy, scheduler), samples=64, steps=STEPS, seed=3, eta=eta, batch_size=64, **options)


def corrected(variance=True, stock=None):
    found = known()
    return corrected_scheduler(stock or schedule(), found.tables, found.timesteps, variance)


def moments(images):
    return images.double().mean((0, 2, 3)), images.double().var((0, 2, 3))


def exact_moments(family: str, left: float = 0.0, reduced: bool = False) -> tuple[float, float]:
    """Mean and variance after all steps, by hand: every step is x -> A x + B + noise of known variance.

    ``left``: variance of white noise in the prediction. ``reduced``: whether the step's own makes room for it.
    """
    bars = [*alpha_bars(schedule()).tolist()]
    mean, variance = 0.0, 1.0
    for t in range(90, -1, -10):
        now, then = bars[t], bars[t - 10] if t else 1.0
        beta = 1 - now / then
        if family == "ddim":
            own = (1 - then) / (1 - now) * beta
            of_x, c = math.sqrt(then / now), math.sqrt(1 - then - own) - math.sqrt(then * (1 - now) / now)
        else:
            own = (1 - then) / (1 - now) * beta
            of_clean = math.sqrt(then) * beta / (1 - now)
            of_x = of_clean / math.sqrt(now) + math.sqrt(1 - beta) * (1 - then) / (1 - now)
            c = -of_clean * math.sqrt((1 - now) / now)
        slope = math.sqrt(1 - now) / (now * SPREAD**2 + 1 - now)
        a = of_x + c * slope
        noise = max(0.0, own - c**2 * left) if reduced else own
        mean = a * mean - c * slope * math.sqrt(now) * MEAN
        variance = a**2 * variance + noise + c**2 * left
    return mean, variance


LEFT = (SIGMA_Q / (1 + K)) ** 2


@pytest.mark.parametrize(("family", "kind", "eta"), [("ddim", DDIMScheduler, 1.0), ("ddpm", DDPMScheduler, 0.0)])
def test_corrected_samples_have_the_mean_and_variance_of_full_precision(family, kind, eta):
    mean, variance = exact_moments(family)
    stock = schedule(kind)
    for images in (drawn(False, stock, eta), drawn(True, corrected(True, stock), eta)):
        found_mean, found_variance = moments(images)
        assert torch.allclose(found_mean, torch.tensor(mean).double(), atol=0.02)
        assert torch.allclose(found_variance, torch.tensor(variance).double(), rtol=0.03)
    # Nothing corrected: both are wrong. The prediction alone: the noise that quantization adds remains.
    found_mean, found_variance = moments(drawn(True, stock, eta))
    assert float((found_mean - mean).abs().min()) > 0.05 and float(found_variance.max()) < 0.9 * variance
    found_mean, found_variance = moments(drawn(True, corrected(False, stock), eta))
    assert torch.allclose(found_mean, torch.tensor(mean).double(), atol=0.02)
    assert float(found_variance.min()) > 1.08 * variance
    assert torch.allclose(found_variance, torch.tensor(exact_moments(family, LEFT)[1]).double(), rtol=0.03)


def test_the_variance_taken_off_is_that_of_the_formula():
    # The last steps add less noise than quantization does: what they cannot take off remains, and is predicted.
    mean, variance = exact_moments("ddim", LEFT, reduced=True)
    assert exact_moments("ddim")[1] < variance < exact_moments("ddim", LEFT)[1]
    # Noise of its own for either run, so that their errors are independent.
    found = [drawn(True, corrected(), 1.0).double(), drawn(False, schedule(), 1.0).double()]
    assert float(found[0].var() - found[1].var()) == pytest.approx(variance - exact_moments("ddim")[1], abs=0.006)
    assert float(found[0].mean()) == pytest.approx(mean, abs=0.01)


def test_without_noise_of_its_own_ddim_takes_the_prediction_alone():
    assert torch.equal(drawn(True, corrected(True), eta=0.0), drawn(True, corrected(False), eta=0.0))
    assert not torch.equal(drawn(True, corrected(False), eta=0.0), drawn(True, schedule(), eta=0.0))
    assert not torch.equal(drawn(True, corrected(True), eta=1.0), drawn(True, corrected(False), eta=1.0))


@pytest.mark.parametrize("sampler", ["plms", "dpm++"])
def test_deterministic_samplers_take_the_prediction_alone(sampler):
    run = {"eta": 0.0, "sampler": sampler}
    both, prediction, plain, full = (
        drawn(noisy, scheduler, **run)
        for noisy, scheduler in ((1, corrected(True)), (1, corrected(False)), (1, None), (0, None))
    )
    assert torch.equal(both, prediction) and not torch.equal(both, plain)
    assert float((prediction - full).mean((0, 2, 3)).abs().max()) < 0.02 < float((plain - full).mean((0, 2, 3)).max())


def test_a_corrected_scheduler_is_a_diffusers_scheduler(tmp_path):
    scheduler = corrected()
    assert isinstance(scheduler, DDIMScheduler) and type(scheduler).__name__ == "DDIMScheduler"
    scheduler.save_pretrained(tmp_path / "made")
    schedule().save_pretrained(tmp_path / "stock")
    name = "scheduler_config.json"
    assert (tmp_path / "made" / name).read_text() == (tmp_path / "stock" / name).read_text()
    for sampler, kind in ((None, DDIMScheduler), ("plms", PNDMScheduler), ("dpm++", DPMSolverMultistepScheduler)):
        copied = build_scheduler(scheduler, sampler)
        assert isinstance(copied, kind) and stepper_of(copied) is stepper_of(scheduler) is not None
    assert stepper_of(schedule()) is None and stepper_of(build_scheduler(schedule(), "plms")) is None


def test_tables_are_looked_up_by_the_nearest_time_step():
    tables = CorrectionTables(torch.tensor([[1.0], [2.0], [4.0]]), torch.zeros(3, 1), torch.zeros(3))
    scheduler = corrected_scheduler(schedule(), tables, torch.tensor([10.0, 20.0, 90.0]), True)
    plain = schedule()
    for each in (scheduler, plain):
        each.set_timesteps(10)
    e, x = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    # Not in order of the calls, and by position as well as by name.
    for t, gain in ((90, 4), (0, 1), (40, 2), (60, 4), (0, 1)):
        found = scheduler.step(e, torch.tensor(t), sample=x, return_dict=False)[0]
        assert torch.equal(found, plain.step(gain * e, t, x).prev_sample)


def test_noise_is_the_stock_scheduler_s_own_where_nothing_is_to_be_taken_off():
    still = CorrectionTables(torch.ones(STEPS, 2), torch.zeros(STEPS, 2), torch.full((STEPS,), 1e-30))
    for kind, eta in ((DDIMScheduler, 1.0), (DDPMScheduler, 0.0)):
        scheduler = corrected_scheduler(schedule(kind), still, known().timesteps, True)
        assert torch.equal(drawn(False, scheduler, eta), drawn(False, schedule(kind), eta))


def test_a_learned_variance_passes_by():
    tables = CorrectionTables(torch.full((1, 2), 3.0), torch.ones(1, 2), torch.zeros(1))
    output = torch.randn(2, 4, 3, 3)
    found = tables.prediction(0, output)
    assert torch.equal(found[:, 2:], output[:, 2:]) and torch.equal(found[:, :2], (output[:, :2] - 1) * 3)


@pytest.mark.parametrize("predicts", ["v_prediction", "sample"])
def test_other_predictions_are_refused(predicts):
    with pytest.raises(InputError, match=f"prediction_type epsilon.*DDIMScheduler's.*{predicts}"):
        corrected(stock=schedule(prediction_type=predicts))
    with pytest.raises(InputError, match="already corrected"):
        corrected(stock=corrected())


def test_the_problem_s_denoiser_is_the_optimal_one():
    # E[noise | x] of x = sqrt(a) x0 + sqrt(1 - a) noise, by regression over drawn pairs.
    bar, draw = alpha_bars(schedule())[40], torch.Generator().manual_seed(0)
    clean = MEAN + SPREAD * torch.randn(1, 2, 400, 400, generator=draw)
    noise = torch.randn(1, 2, 400, 400, generator=draw)
    x = (bar.sqrt() * clean + (1 - bar).sqrt() * noise).float()
    e = Gaussian(False)(x, torch.tensor([40]))
    assert abs(float(((noise - e) * e).mean())) < 0.01 and abs(float((noise - e).mean())) < 0.01
