"""Tiny random models that quantize in a second, and recipes small enough for them."""

from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import Tensor, nn

from tempoquant.methods import method_recipe
from tempoquant.recipe import Recipe
from tempoquant.sampling.denoiser import Denoiser

SMALL = {"samples": 2, "steps": 4, "rows": 8, "rows_per_step": 2}
"""A calibration of four time steps and two trajectories."""


def unet_pipeline(seed: int = 0) -> DDIMPipeline:
    """An unconditional pipeline with attention and time embeddings; weights are random, and none of them is zero."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return DDIMPipeline(unet=unet.eval(), scheduler=DDIMScheduler(num_train_timesteps=100, clip_sample=False))


class Bare(nn.Module):
    """A denoiser of no known class: a temporal block of two layers, and three convolutions."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.time_in, self.time_out = nn.Linear(4, width), nn.Linear(width, width)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        angle = timestep.float()[:, None] / torch.tensor([1.0, 100.0])
        emb = self.time_out(nn.functional.silu(self.time_in(torch.cat([angle.sin(), angle.cos()], 1))))
        h = nn.functional.silu(self.first(sample) + emb[:, :, None, None])
        return self.last(nn.functional.silu(self.middle(h)) + h)


def bare_denoiser(width: int = 8, seed: int = 0) -> Denoiser:
    """A :class:`Bare` with the scheduler it was not trained for."""
    torch.manual_seed(seed)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(Bare(width).eval(), scheduler, (1, 8, 8), name="bare")


def small_recipe(method: str = "tfmq-dm", **changes: Any) -> Recipe:
    """A method's recipe on a calibration of seconds."""
    calibration = {**SMALL, **changes.pop("calibration", {})}
    return method_recipe(method, calibration=calibration, **changes)


def changed_recipe(recipe: Recipe, **parts: dict[str, Any]) -> Recipe:
    """``recipe`` with other entries in some of its parts."""
    plain = recipe.model_dump(mode="json")
    return Recipe.parse(plain | {part: plain[part] | entries for part, entries in parts.items()})
