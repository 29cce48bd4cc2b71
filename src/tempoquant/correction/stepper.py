"""Schedulers that correct the prediction before each step, and reduce the noise they add by its quantization noise."""

import math
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from tempoquant.correction.tables import CorrectionTables
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.sampling import QuadraticDDIMScheduler, stepper_of, with_step

FIXED_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")
"""DDPM's kinds of variance that do not come from the network."""


class CorrectedSteps:
    """The steps of a corrected scheduler (PTQD, sections 4.2 and 4.3).

    Every scheduler's steps start from the corrected prediction. DDIM with eta > 0 and DDPM with a fixed variance also
    add less noise: what quantization left in the prediction enters the next sample with the factor c, so the step's own
    noise is scaled to ``sigma'^2 = max(0, sigma^2 - c^2 sigma_q^2)``. The direction keeps the original sigma, for which
    c was derived. All other samplers (PLMS, DPM-Solver++, quadratic DDIM) take the corrected prediction alone.

    Args:
        tables: rows in ascending order of ``timesteps``; a step takes the nearest row, as the clock does.
        variance: whether the noise is reduced.
    """

    def __init__(self, tables: CorrectionTables, timesteps: Tensor, variance: bool):
        self.tables, self.variance = tables, variance
        self.clock = Clock(timesteps, None, "timestep")

    def __call__(
        self, scheduler: Any, step: Any, *, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any
    ) -> Any:
        """One step, with the stock ``step``'s result."""
        row = int(self.clock.rows(timestep))
        inputs = {"model_output": self.tables.prediction(row, model_output), "timestep": timestep, "sample": sample}
        left = float(self.tables.variance[row]) if self.variance else 0.0
        # c is derived for steps at a constant distance, which quadratic ones are not.
        evenly = isinstance(scheduler, DDIMScheduler) and not isinstance(scheduler, QuadraticDDIMScheduler)
        if left and evenly and options.get("eta", 0.0) > 0:
            return _ddim_step(scheduler, step, inputs, options, left)
        if left and scheduler.config.get("variance_type") in FIXED_VARIANCES and isinstance(scheduler, DDPMScheduler):
            return _ddpm_step(scheduler, step, inputs, options, left)
        return step(**inputs, **options)


def corrected_scheduler(scheduler: Any, tables: CorrectionTables, timesteps: Tensor, variance: bool) -> Any:
    """A copy of a diffusers scheduler whose steps correct the prediction; arguments as of :class:`CorrectedSteps`.

    It can stand in a pipeline (``pipe.scheduler = corrected_scheduler(...)``) and saves as the stock scheduler.

    Raises:
        InputError: see :func:`check_correctable`.
    """
    check_correctable(scheduler)
    return with_step(scheduler, CorrectedSteps(tables, timesteps, variance))


def check_correctable(scheduler: Any) -> None:
    """Raise InputError unless ``scheduler`` is a stock one of a denoiser that predicts the noise."""
    predicts = scheduler.config.get("prediction_type")
    if predicts != "epsilon":
        raise InputError(
            f"a correction needs a denoiser that predicts the noise (prediction_type epsilon); this "
            f"{type(scheduler).__name__}'s prediction_type is {predicts!r}"
        )
    if stepper_of(scheduler) is not None:
        raise InputError(f"this {type(scheduler).__name__} is already corrected: give the model with its own")


def noise_kept(sigma: float, c: float, left: float) -> float:
    """``sigma' / sigma`` with ``sigma'^2 = max(0, sigma^2 - c^2 left)``; 1 where a step adds no noise.

    Args:
        sigma: standard deviation of the noise that the step adds.
        c: the prediction's factor in the next sample.
        left: variance of the quantization noise in the corrected prediction, sigma_q^2.
    """
    return math.sqrt(max(0.0, 1 - (c / sigma) ** 2 * left)) if sigma > 0 else 1.0


def ddim_factors(before: float, after: float, eta: float) -> tuple[float, float]:
    """``(sigma, c)`` of a DDIM step (Song et al. 2021, eqs. 12 and 16) from alpha bar ``before`` to ``after``."""
    sigma = eta * math.sqrt((1 - after) / (1 - before) * (1 - before / after))
    return sigma, math.sqrt(max(0.0, 1 - after - sigma**2)) - math.sqrt(after * (1 - before) / before)


def ddpm_factors(before: float, after: float, kind: str) -> tuple[float, float, float, float]:
    """``(sigma, c, x0's factor, x's factor)`` of a DDPM step (Ho et al. 2020, eqs. 6 and 7), likewise."""
    alpha = before / after
    variance = 1 - alpha if kind == "fixed_large" else (1 - after) / (1 - before) * (1 - alpha)
    of_clean = math.sqrt(after) * (1 - alpha) / (1 - before)
    of_sample = math.sqrt(alpha) * (1 - after) / (1 - before)
    return math.sqrt(variance), -of_clean * math.sqrt((1 - before) / before), of_clean, of_sample


def _ddim_step(scheduler: Any, step: Any, inputs: dict[str, Any], options: dict[str, Any], left: float) -> Any:
    timestep, output = int(inputs["timestep"]), inputs["model_output"]
    earlier = timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    after = scheduler.alphas_cumprod[earlier] if earlier >= 0 else scheduler.final_alpha_cumprod
    sigma, c = ddim_factors(float(scheduler.alphas_cumprod[timestep]), float(after), options["eta"])
    noise, generator = options.pop("variance_noise", None), options.pop("generator", None)
    if noise is None:
        # Drawn as the stock step would, so that corrected and plain samples share their noise.
        noise = randn_tensor(output.shape, generator=generator, device=output.device, dtype=output.dtype)
    return step(**inputs, **options, variance_noise=noise * noise_kept(sigma, c, left))


def _ddpm_step(scheduler: Any, step: Any, inputs: dict[str, Any], options: dict[str, Any], left: float) -> Any:
    timestep = int(inputs["timestep"])
    earlier = int(scheduler.previous_timestep(timestep))
    after = scheduler.alphas_cumprod[earlier] if earlier >= 0 else scheduler.one
    before, kind = float(scheduler.alphas_cumprod[timestep]), scheduler.config.variance_type
    sigma, c, of_clean, of_sample = ddpm_factors(before, float(after), kind)
    as_tuple = options.pop("return_dict", True) is False
    out = step(**inputs, **options)
    # DDPM takes no noise from outside, so what it added is told apart from the mean afterwards.
    mean = of_clean * out.pred_original_sample + of_sample * inputs["sample"]
    out.prev_sample = torch.lerp(mean, out.prev_sample, noise_kept(sigma, c, left))
    return out.to_tuple() if as_tuple else out
