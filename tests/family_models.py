"""Tiny random pipelines of model families; nothing is downloaded, and every tokenizer knows the letters a to h."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn

from conditional_models import scheduler, text_pipeline

TEXT, HEADS, WIDTH = 8, 2, 8
"""Numbers in an embedded token; heads, and numbers of one."""


def filled(module: nn.Module) -> nn.Module:
    """The module in evaluation mode with all of its weights random: some start at zero."""
    torch.manual_seed(0)
    for parameter in module.eval().parameters():
        nn.init.normal_(parameter, std=0.1)
    return module


def vae(channels: int, levels: int, **config: float) -> AutoencoderKL:
    blocks = {f"{way}_block_types": (f"{name}Block2D",) * levels for way, name in (("down", "DownEncoder"),)}
    blocks["up_block_types"] = ("UpDecoderBlock2D",) * levels
    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        norm_num_groups=2,
        latent_channels=channels,
        sample_size=16,
        **blocks,
        **config,
    ).eval()


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=18, d_model=TEXT, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def clip_with_projection(small: nn.Module) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = {**small.config.to_dict(), "num_hidden_layers": 2, "projection_dim": TEXT}
    return CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()


def flux_pipeline(folder: Path, guidance: bool = True, dynamic: bool = True) -> FluxPipeline:
    """Latents of 8 x 8 packed into 16 tokens, if drawn at 16 x 16 pixels."""
    small = text_pipeline(folder)
    transformer = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=WIDTH, num_attention_heads=HEADS,
        joint_attention_dim=TEXT, pooled_projection_dim=TEXT, guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic, shift=3.0),
        vae=vae(1, 2, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=small.text_encoder,
        tokenizer=small.tokenizer,
        text_encoder_2=t5(),
        tokenizer_2=small.tokenizer,
        transformer=filled(transformer),
    )


def sd3_pipeline(folder: Path, dynamic: bool = False) -> StableDiffusion3Pipeline:
    small = text_pipeline(folder)
    clip = clip_with_projection(small.text_encoder)
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=WIDTH, pos_embed_max_size=8,
        num_attention_heads=HEADS, joint_attention_dim=2 * TEXT, caption_projection_dim=HEADS * WIDTH,
        pooled_projection_dim=2 * TEXT,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=filled(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic),
        vae=vae(4, 1, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip,
        tokenizer=small.tokenizer,
        text_encoder_2=clip_with_projection(small.text_encoder),
        tokenizer_2=small.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def pixart_pipeline(folder: Path) -> PixArtAlphaPipeline:
    small = text_pipeline(folder)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=HEADS * WIDTH, sample_size=8, patch_size=2, caption_channels=TEXT, norm_num_groups=4,
        use_additional_conditions=False,
    )  # fmt: skip
    return PixArtAlphaPipeline(
        tokenizer=small.tokenizer,
        text_encoder=t5(),
        vae=vae(4, 1),
        transformer=filled(transformer),
        scheduler=scheduler(),
    )
