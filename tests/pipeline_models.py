"""Tiny denoisers and pipelines with random weights; nothing is downloaded."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DModel,
)
from torch import Tensor, nn

from conditional_models import text_pipeline, tiny_vae
from tempoquant.sampling.denoiser import Denoiser

torch.set_num_threads(1)


class Toy(nn.Module):
    """0.5 x + t / 1000: small enough to follow by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, sample: Tensor, timestep: Tensor, shift: Tensor | None = None) -> Tensor:
        out = self.gain * sample + timestep.reshape(-1, 1, 1, 1) / 1000
        return out if shift is None else out + shift.reshape(-1, 1, 1, 1)


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=100, clip_sample=False)


@pytest.fixture
def toy() -> Denoiser:
    return Denoiser(Toy(), scheduler(), (1, 4, 4), name="toy")


@pytest.fixture
def ddim_pipe() -> DDIMPipeline:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    return DDIMPipeline(unet=unet.eval(), scheduler=scheduler())


@pytest.fixture
def dit_pipe() -> DiTPipeline:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    return DiTPipeline(transformer=transformer.eval(), vae=tiny_vae(8), scheduler=scheduler())


@pytest.fixture
def text_pipe(tmp_path: Path) -> StableDiffusionPipeline:
    return text_pipeline(tmp_path, size=8)
