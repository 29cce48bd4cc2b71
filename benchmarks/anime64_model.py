"""The 63 M-parameter benchmark model as a bare denoiser: a factory for ``anime64_model.py:denoiser``.

The environment variable ``TEMPOQUANT_ANIME64`` names the folder with ``anime64.py`` and its weights. They are not part
of this project.
"""

import importlib.util
import os
from pathlib import Path

import torch
from diffusers import DDIMScheduler

from tempoquant import Denoiser
from tempoquant.errors import InputError

VARIABLE = "TEMPOQUANT_ANIME64"


def denoiser() -> Denoiser:
    """The network with its cosine schedule (T = 300); DDIM with x0 clipped to [-1, 1]."""
    if VARIABLE not in os.environ:
        raise InputError(f"{VARIABLE} is not set: it names the folder with anime64.py and its weights")
    path = Path(os.environ[VARIABLE]) / "anime64.py"
    spec = importlib.util.spec_from_file_location("anime64", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    alphas = module.alphas_cumprod()
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=alphas.dtype), alphas[:-1]])
    scheduler = DDIMScheduler(
        num_train_timesteps=len(betas), trained_betas=betas.float().numpy(), clip_sample=True, clip_sample_range=1.0
    )
    return Denoiser(module.load_unet(), scheduler, (3, 64, 64), name="anime64")
