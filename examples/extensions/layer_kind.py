"""A layer kind: a Linear whose weight is scaled by a learned gain per output; and a denoiser that has some.

The gain stays in float; the weight is quantized by every method.
"""

import torch
from diffusers import DDIMScheduler
from torch import nn

from tempoquant import Denoiser
from tempoquant.graph import StockKind
from tempoquant.layers import QuantLinear, layer_kind


class GainedLinear(nn.Linear):
    """``y = (gain * W) x + b``, (..., C_in) -> (..., C_out); gain (C_out, 1)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_features, 1) + 0.5)

    def forward(self, input):
        return nn.functional.linear(input, self.weight * self.gain, self.bias)


@layer_kind(StockKind("gained-linear", GainedLinear))
class QuantGainedLinear(QuantLinear, GainedLinear):
    """Its simulation multiplies integers; the gain is a factor of the weight's scale."""

    def product(self, x, weight, bias=None):
        y = nn.functional.linear(x, weight)
        y = y * self.gain[:, 0].to(y.dtype)
        return y if bias is None else y + bias


class Network(nn.Module):
    """A denoiser of (B, 8) vectors."""

    def __init__(self):
        super().__init__()
        self.time = nn.Linear(2, 32)
        self.first, self.middle, self.last = nn.Linear(8, 32), GainedLinear(32, 32), nn.Linear(32, 8)

    def forward(self, sample, timestep):
        angle = timestep.float()[:, None] / torch.tensor([3.0, 50.0])
        h = torch.relu(self.first(sample) + self.time(angle.sin()))
        return self.last(torch.relu(self.middle(h)))


def denoiser():
    """What ``layer_kind.py:denoiser`` names on the command line."""
    torch.manual_seed(0)
    return Denoiser(Network().eval(), DDIMScheduler(num_train_timesteps=100, clip_sample=False), (8,), name="gained")
