"""A problem that is solved by hand: Gaussian data, whose optimal denoiser is linear, and noise of a known law."""

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from tempoquant.correction import CorrectionTables
from tempoquant.sampling.denoiser import Denoiser

MEAN, SPREAD = 0.4, 0.7
SHAPE = (2, 16, 16)
K, BIAS, SIGMA_Q = 0.15, (0.05, -0.08), 0.3
STEPS = 10


def schedule(kind=DDIMScheduler, **changes):
    settings = {"num_train_timesteps": 100, "beta_end": 0.1, "clip_sample": False} | changes
    return kind(**settings)


def alpha_bars(scheduler) -> Tensor:
    return scheduler.alphas_cumprod.double()


class Gaussian(nn.Module):
    """The noise predicted for data N(MEAN, SPREAD^2), with or without quantization noise."""

    def __init__(self, noisy: bool):
        super().__init__()
        self.noisy, self.bars = noisy, alpha_bars(schedule())
        self.draw = torch.Generator().manual_seed(11)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        bar = self.bars[int(timestep[0])]
        slope = (1 - bar).sqrt() / (bar * SPREAD**2 + 1 - bar)
        e = (slope * (sample.double() - bar.sqrt() * MEAN)).float()
        if not self.noisy:
            return e
        bias = torch.tensor(BIAS).view(1, 2, 1, 1)
        return (1 + K) * e + bias + SIGMA_Q * torch.randn(e.shape, generator=self.draw)


def gaussian(noisy: bool, scheduler=None) -> Denoiser:
    return Denoiser(Gaussian(noisy), scheduler or schedule(), SHAPE, name="gaussian")


@dataclass
class Known:
    """The tables of the simulated noise, and the time steps of their rows."""

    tables: CorrectionTables
    timesteps: Tensor


def known() -> Known:
    timesteps = torch.arange(0, 100, 100 // STEPS).float()
    gain = torch.full((STEPS, 2), 1 / (1 + K))
    variance = torch.full((STEPS,), (SIGMA_Q / (1 + K)) ** 2)
    return Known(CorrectionTables(gain, torch.tensor(BIAS).repeat(STEPS, 1), variance), timesteps)
