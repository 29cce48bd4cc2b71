"""Samplers by the names papers use; nothing here needs torch."""

from typing import Any

from tempoquant.errors import unknown

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("diffusers:DDIMScheduler", {}),
    "ddim-quadratic": ("tempoquant.sampling.quadratic:QuadraticDDIMScheduler", {}),
    # Without the Runge-Kutta warm-up this is the PLMS of CompVis: S steps are S + 1 denoiser calls.
    "plms": ("diffusers:PNDMScheduler", {"skip_prk_steps": True}),
    "dpm++": ("diffusers:DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "ddpm": ("diffusers:DDPMScheduler", {}),
}
"""Sampler name -> scheduler class (``module:class``), and the settings that make it that sampler."""


def check_sampler(name: str) -> str:
    """``name``, if it is one of :data:`SAMPLERS`.

    Raises:
        InputError: it is not.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return name
