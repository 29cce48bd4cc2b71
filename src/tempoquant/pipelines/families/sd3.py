"""Stable Diffusion 3 and 3.5."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.pipelines.families.family import Family, family
from tempoquant.pipelines.families.flow import shifted_timesteps


@family("sd3", "SD3Transformer2DModel")
class StableDiffusion3(Family):
    """Latents (C, H, W); an embedded prompt and a pooled one; flow matching."""

    def timesteps(self, pipe: Any, scheduler: Any, steps: int, conditioning: Mapping[str, Any]) -> Tensor:
        """See :meth:`Family.timesteps`; a patch of latents is a token."""
        if not scheduler.config.get("use_dynamic_shifting"):
            return super().timesteps(pipe, scheduler, steps, conditioning)
        default = pipe.default_sample_size * pipe.vae_scale_factor
        sides = (int(conditioning.get(name) or default) // pipe.vae_scale_factor for name in ("height", "width"))
        height, width = (side // pipe.transformer.config.patch_size for side in sides)
        return shifted_timesteps(scheduler, steps, height * width)

    def example(self, module: nn.Module) -> dict[str, Tensor]:
        """See :meth:`Family.example`."""
        raise InputError(
            f"{type(module).__name__} takes more than a prompt's words: give an example of its conditions "
            "(conditioning)"
        )
