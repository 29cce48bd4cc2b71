"""The quadratic DDIM schedule, which diffusers lacks: steps crowd where the sample is nearly clean, and may repeat."""

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

REACH = 0.8
"""The noisiest step stands at this share of the training steps."""


def quadratic_steps(train_steps: int, steps: int) -> list[int]:
    """Ascending time steps ``floor((k sqrt(0.8 T) / (S - 1))^2)``, k = 0 .. S - 1 (Song et al. 2021, appendix D.2).

    Small ones repeat: of 100 steps for T = 1000, 96 are unique and four are 0.
    """
    return [int(t) for t in np.linspace(0, np.sqrt(train_steps * REACH), steps) ** 2]


class QuadraticDDIMScheduler(DDIMScheduler):
    """DDIM over :func:`quadratic_steps`.

    The previous step is the schedule's own, not one at a constant distance, so steps are told apart by their position:
    a step that repeats its predecessor changes nothing but x0's clipping, and only the last one ends at the clean
    sample. The update itself is that of a :class:`DDIMScheduler` for the S visited steps alone ("respacing", Nichol and
    Dhariwal 2021, section 4).
    """

    config: Any
    alphas_cumprod: Tensor
    final_alpha_cumprod: Any
    _respaced: Any
    _position: int | None = None

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set ``timesteps``, (S,) int64, descending."""
        offset = self.config.steps_offset
        visited = [t + offset for t in quadratic_steps(self.config.num_train_timesteps, num_inference_steps)]
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(visited[::-1], device=device)
        self._respaced = DDIMScheduler.from_config(
            self.config, num_train_timesteps=num_inference_steps, trained_betas=None, timestep_spacing="leading"
        )
        self._respaced.alphas_cumprod = self.alphas_cumprod[visited]
        self._respaced.final_alpha_cumprod = self.final_alpha_cumprod
        self._respaced.set_timesteps(num_inference_steps)
        self._position = None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """See :meth:`DDIMScheduler.step`; calls are counted from the first step of the value ``timestep``."""
        if self._position is None:
            self._position = int((self.timesteps == timestep).nonzero()[0])
        left = len(self.timesteps) - 1 - self._position
        self._position += 1
        options = {"use_clipped_model_output": use_clipped_model_output, "generator": generator}
        return self._respaced.step(
            model_output, left, sample, eta=eta, variance_noise=variance_noise, return_dict=return_dict, **options
        )
