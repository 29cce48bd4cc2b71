"""A user's own file of tiny models, and the entries of an experiment on them that takes a second."""

from typing import Any

MODEL = """
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import nn

from tempoquant import Denoiser


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_in, self.time_out = nn.Linear(4, 8), nn.Linear(8, 8)
        self.first, self.middle = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, sample, timestep):
        angle = timestep.float()[:, None] / torch.tensor([1.0, 100.0])
        emb = self.time_out(nn.functional.silu(self.time_in(torch.cat([angle.sin(), angle.cos()], 1))))
        hidden = nn.functional.silu(self.first(sample) + emb[:, :, None, None])
        return self.last(nn.functional.silu(self.middle(hidden)) + hidden)


def wrapped(module, name):
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(module.eval(), scheduler, (1, 16, 16), name=name)


def make():
    torch.manual_seed(0)
    return wrapped(Small(), "small")


def labelled():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        num_class_embeds=5,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    return wrapped(unet, "labelled")
"""
ENTRIES: dict[str, Any] = {
    "name": "tiny",
    "model": "mine.py:make",
    "steps": 4,
    "calibration": {"samples": 2, "rows": 8, "rows_per_step": 2},
    "evaluation": {"images": 2, "noise_samples": 2},
    "runs": [{"method": "rtn", "bits": ["W4A8"]}, {"method": "tfmq-dm", "bits": ["W4A8", "W4A6"]}],
}
