"""A denoiser of signals with layers of every kind, and recipes with groups of weights."""

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from tempoquant.recipe import Recipe
from tempoquant.sampling.denoiser import Denoiser


class Signals(nn.Module):
    """Signals (B, 2, 8), through layers of all kinds but Conv2d; the time step is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 32)
        self.time = nn.Linear(32, 32)
        self.first = nn.Conv1d(2, 32, 3, padding=1)
        self.down = nn.Conv1d(32, 32, 2, stride=2)
        self.volume = nn.Conv3d(32, 32, (1, 2, 1))
        self.flat = nn.ConvTranspose2d(32, 32, (2, 1))
        self.up = nn.ConvTranspose1d(32, 32, 2, stride=2)
        self.last = nn.Conv1d(32, 2, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        emb = self.time(self.table(timestep.long()))
        h = nn.functional.silu(self.down(self.first(sample) + emb[:, :, None]))
        wide = self.volume(h.unflatten(2, (1, 2, 2)))
        h = h + self.flat(wide.flatten(2, 3)).flatten(2)
        return self.last(nn.functional.silu(self.up(h)))


def signals() -> Denoiser:
    torch.manual_seed(0)
    scheduler = DDIMScheduler(num_train_timesteps=100, clip_sample=False)
    return Denoiser(Signals().eval(), scheduler, (2, 8), name="signals")


def grouped(recipe: Recipe, size: int | None) -> Recipe:
    """The recipe with groups of weights."""
    return recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"group_size": size})})
