"""Tiny random denoisers for reading, and probes for them."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from tempoquant.graph import Probe

STEPS = (10, 500, 900)
WIDTH = 8


def probe_of(module: nn.Module, shape: tuple[int, ...] = (4, 4, 4), conditioning: Any = None, **changes: Any) -> Probe:
    """A probe that calls ``module(x, t, **conditioning)``, whatever its output is wrapped in."""

    def run(x: Tensor, t: Tensor, **given: Any) -> Tensor:
        out = module(x, t, **given)
        return out if isinstance(out, Tensor) else out.sample

    return Probe(module, **{"run": run, "sample_shape": shape, "timesteps": STEPS,
                            "conditioning": conditioning or (lambda batch, variant: {}), **changes})  # fmt: skip


def labels(batch: int, variant: int) -> dict[str, Tensor]:
    return {"class_labels": torch.full((batch,), variant + 1)}


def prompts(batch: int, variant: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(variant)
    return {"encoder_hidden_states": torch.randn(1, 5, 12, generator=draw).expand(batch, 5, 12)}


def unconditional(**changes: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **changes,
    )


def text_conditional() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def transformer() -> DiTTransformer2DModel:
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=4,
    )


class Plain(nn.Module):
    """``conv(x) + b(middle(a(sines(t))))``; ``middle`` and ``image`` are given by the test."""

    def __init__(self, middle: Callable[..., Tensor] = F.silu, image: nn.Module | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.conv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4), nn.Conv2d(4, 4, 1)
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.norm.weight)
        self.middle, self.image = middle, image or nn.Identity()

    def sines(self, t: Tensor) -> Tensor:
        return torch.sin(t.float()[:, None] * torch.linspace(0.001, 1, WIDTH))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self.b(self.middle(self.a(self.sines(t))))
        return self.image(self.conv(x) + emb[:, :, None, None])


class Tokens(nn.Module):
    """Runs a module over the pixels of an image as tokens (B, 16, 4)."""

    def __init__(self, inner: nn.Module, times: int = 1):
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        for _ in range(self.times):
            tokens = self.inner(tokens)
        return tokens.transpose(1, 2).reshape(x.shape)


class Attend(nn.Module):
    """Self-attention; ``how(q, k, v)`` computes it."""

    def __init__(self, how: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.q(x), self.k(x), self.v(x))
