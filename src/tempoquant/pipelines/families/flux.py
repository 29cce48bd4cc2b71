"""Flux 1."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.pipelines.call import Arguments
from tempoquant.pipelines.families.family import Family, autoencoder_of, config_of, family, scale_and_shift
from tempoquant.pipelines.families.flow import shifted_timesteps
from tempoquant.sampling import check_steps

TIME_SCALE = 1000
"""The denoiser's time step is the scheduler's over this."""


@family("flux", "FluxTransformer2DModel")
class Flux(Family):
    """Latents packed two by two into tokens, (T, 4 C); places of tokens have no batch; guidance may be an input."""

    arguments = Arguments("hidden_states", unbatched=("img_ids", "txt_ids"))

    def sample_shape(self, pipe: Any, module: nn.Module) -> tuple[int, ...]:
        """(tokens, channels of a token), at the pipeline's own size."""
        height, width = self._tokens(pipe, {})
        return (height * width, int(config_of(module)["in_channels"]))

    def timesteps(self, pipe: Any, scheduler: Any, steps: int, conditioning: Mapping[str, Any]) -> Tensor:
        """See :meth:`Family.timesteps`: from 1 down, shifted by the number of tokens."""
        height, width = self._tokens(pipe, conditioning)
        check_steps(scheduler, steps)
        sigmas = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        return shifted_timesteps(scheduler, steps, height * width, sigmas=sigmas) / TIME_SCALE

    def decode(self, pipe: Any, x: Tensor) -> Tensor:
        """Tokens (N, T, 4 C) as pixels in [-1, 1], (N, 3, H, W); of the pipeline's own size, or square."""
        vae = autoencoder_of(pipe)
        scale, shift = scale_and_shift(vae)
        latents = _unpacked(x, *self._places(pipe, x.shape[1]))
        return torch.cat([vae.decode(part / scale + shift, return_dict=False)[0].float() for part in latents.split(1)])

    def encode(self, pipe: Any, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (N, 3, H, W), as tokens (N, T, 4 C)."""
        latents = super().encode(pipe, pixels)
        return pipe._pack_latents(latents, *latents.shape)

    def pixel_shape(self, pipe: Any, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(3, H, W) of the pipeline's own size, or square."""
        sides = (2 * side * pipe.vae_scale_factor for side in self._places(pipe, sample_shape[0]))
        return (int(pipe.vae.config.in_channels), *sides)

    def example(self, module: nn.Module) -> dict[str, Tensor]:
        """See :meth:`Family.example`."""
        raise InputError(
            f"{type(module).__name__} takes more than a prompt's words: give an example of its conditions "
            "(conditioning)"
        )

    def _tokens(self, pipe: Any, conditioning: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of tokens in an image of a run."""
        default, side = pipe.default_sample_size * pipe.vae_scale_factor, 2 * pipe.vae_scale_factor
        height, width = (int(conditioning.get(name) or default) // side for name in ("height", "width"))
        return height, width

    def _places(self, pipe: Any, tokens: int) -> tuple[int, int]:
        height, width = self._tokens(pipe, {})
        side = round(tokens**0.5)
        if height * width != tokens and side * side != tokens:
            raise InputError(f"{tokens} tokens are no square image: their height and width are not known")
        return (height, width) if height * width == tokens else (side, side)


def _unpacked(x: Tensor, height: int, width: int) -> Tensor:
    """Tokens (N, height * width, 4 C) as latents (N, C, 2 height, 2 width)."""
    n, _, channels = x.shape
    parts = x.view(n, height, width, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(n, channels // 4, 2 * height, 2 * width)
