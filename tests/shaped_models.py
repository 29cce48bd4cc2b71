"""A user's own file of denoisers whose samples are no images, made of Linear and Conv2d layers."""

SHAPED = """
import torch
from diffusers import DDIMScheduler
from torch import nn

from tempoquant import Denoiser


class Pointwise(nn.Module):
    \"\"\"Samples (B, C, ...): layers over the channels alone, at every place.\"\"\"

    def __init__(self, channels):
        super().__init__()
        self.time_in, self.time_out = nn.Linear(4, 8), nn.Linear(8, 8)
        self.first, self.middle, self.last = nn.Linear(channels, 8), nn.Linear(8, 8), nn.Linear(8, channels)

    def forward(self, sample, timestep):
        angle = timestep.float()[:, None] / torch.tensor([1.0, 100.0])
        emb = self.time_out(nn.functional.silu(self.time_in(torch.cat([angle.sin(), angle.cos()], 1))))
        x = sample.movedim(1, -1)
        x = self.first(x) + emb.reshape(len(emb), *[1] * (x.ndim - 2), -1)
        x = self.middle(nn.functional.silu(x))
        return self.last(nn.functional.silu(x)).movedim(-1, 1)


class Convolutions(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.time_in, self.time_out = nn.Linear(4, 8), nn.Linear(8, 8)
        self.first, self.last = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, sample, timestep):
        angle = timestep.float()[:, None] / torch.tensor([1.0, 100.0])
        emb = self.time_out(nn.functional.silu(self.time_in(torch.cat([angle.sin(), angle.cos()], 1))))
        return self.last(nn.functional.silu(self.first(sample) + emb[:, :, None, None]))


def wrapped(kind, shape, name):
    torch.manual_seed(0)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(kind(shape[0]).eval(), scheduler, shape, name=name)


def sequence():
    return wrapped(Pointwise, (3, 16), "sequence")


def volume():
    return wrapped(Pointwise, (1, 4, 8, 8), "volume")


def latent():
    return wrapped(Convolutions, (4, 16, 16), "latent")
"""
SHAPES = {"sequence": (3, 16), "volume": (1, 4, 8, 8), "latent": (4, 16, 16)}
"""Factory -> shape of one sample."""
