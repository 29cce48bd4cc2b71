"""Tiny modulated transformers with random weights, and how many of their numbers lie in modulation: counted by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
)
from torch import Tensor, nn

HEADS, SIDE, TOKENS, TEXT, POOLED, CLASSES = 2, 8, 16, 12, 10, 20
WIDTH = 16 * HEADS
SINES = 256
"""Time steps enter every one of these as so many sines and cosines."""


@dataclass(frozen=True)
class Case:
    """A module, how to call it, and what is known of it.

    Attributes:
        conditions: of two prompts or labels, a row each. follows: which arguments its modulation follows.
        modulation: numbers in the layers that see time step and followed conditions alone.
    """

    module: nn.Module
    sample_shape: tuple[int, ...]
    conditions: tuple[dict[str, Tensor], ...]
    follows: tuple[str, ...]
    modulation: int
    fixed: Callable[[int], dict[str, Any]] = lambda batch: {}

    def run(self, x: Tensor, t: Tensor, **given: Any) -> Tensor:
        return self.module(x, timestep=t, return_dict=False, **given, **self.fixed(len(x)))[0]


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def embedding(inputs: int) -> int:
    """Two layers, of what is given and of their own width."""
    return linear(inputs, WIDTH) + linear(WIDTH, WIDTH)


def rows(**shapes: tuple[int, ...]) -> tuple[dict[str, Tensor], ...]:
    draw = torch.Generator().manual_seed(1)
    return tuple({name: torch.randn(1, *shape, generator=draw) for name, shape in shapes.items()} for _ in range(2))


def dit() -> Case:
    module = DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3,
        sample_size=SIDE, patch_size=2, num_embeds_ada_norm=CLASSES, norm_num_groups=4,
    )  # fmt: skip
    labels = tuple({"class_labels": torch.tensor([label])} for label in (3, CLASSES))
    block = embedding(SINES) + (CLASSES + 1) * WIDTH + linear(WIDTH, 6 * WIDTH)
    return Case(module, (4, SIDE, SIDE), labels, ("class_labels",), 3 * block + linear(WIDTH, 2 * WIDTH))


def sd3() -> Case:
    module = SD3Transformer2DModel(
        sample_size=SIDE, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=16, pos_embed_max_size=SIDE,
        num_attention_heads=HEADS, joint_attention_dim=TEXT, caption_projection_dim=WIDTH,
        pooled_projection_dim=POOLED,
    )  # fmt: skip
    # The last block's context is scaled and shifted alone, as is what follows it.
    blocks = 5 * linear(WIDTH, 6 * WIDTH) + linear(WIDTH, 2 * WIDTH)
    count = embedding(SINES) + embedding(POOLED) + blocks + linear(WIDTH, 2 * WIDTH)
    given = rows(encoder_hidden_states=(5, TEXT), pooled_projections=(POOLED,))
    return Case(module, (4, SIDE, SIDE), given, ("pooled_projections",), count)


def flux() -> Case:
    module = FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=HEADS,
        joint_attention_dim=TEXT, pooled_projection_dim=POOLED, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    blocks = 4 * linear(WIDTH, 6 * WIDTH) + 3 * linear(WIDTH, 3 * WIDTH)
    count = 2 * embedding(SINES) + embedding(POOLED) + blocks + linear(WIDTH, 2 * WIDTH)
    given = tuple(
        {**row, "guidance": torch.tensor([3.5])}
        for row in rows(encoder_hidden_states=(5, TEXT), pooled_projections=(POOLED,))
    )
    places = {"img_ids": torch.arange(3.0 * TOKENS).view(TOKENS, 3), "txt_ids": torch.zeros(5, 3)}
    return Case(module, (TOKENS, 4), given, ("pooled_projections", "guidance"), count, lambda batch: places)


def qwen_image() -> Case:
    module = QwenImageTransformer2DModel(
        in_channels=4, out_channels=1, num_layers=3, attention_head_dim=16, num_attention_heads=HEADS,
        joint_attention_dim=TEXT, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    count = embedding(SINES) + 6 * linear(WIDTH, 6 * WIDTH) + linear(WIDTH, 2 * WIDTH)

    def fixed(batch: int) -> dict[str, Any]:
        return {"img_shapes": [[(1, 4, 4)]] * batch, "encoder_hidden_states_mask": torch.ones(batch, 5).bool()}

    return Case(module, (TOKENS, 4), rows(encoder_hidden_states=(5, TEXT)), (), count, fixed)


def pixart() -> Case:
    module = PixArtTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3,
        cross_attention_dim=WIDTH, sample_size=SIDE, patch_size=2, caption_channels=TEXT, norm_num_groups=4,
        use_additional_conditions=False,
    )  # fmt: skip
    nothing = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    count = embedding(SINES) + linear(WIDTH, 6 * WIDTH)
    return Case(module, (4, SIDE, SIDE), rows(encoder_hidden_states=(5, TEXT)), (), count, lambda batch: nothing)


def made(case: Callable[[], Case]) -> Case:
    """The case with all of its weights random: some start at zero."""
    torch.manual_seed(0)
    built = case()
    for parameter in built.module.eval().parameters():
        nn.init.normal_(parameter, std=0.1)
    return built
