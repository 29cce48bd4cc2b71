"""Tiny random models that draw from prompts or class labels; nothing is downloaded."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

from tempoquant import Denoiser


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=100, clip_sample=False)


def tiny_vae(size: int = 16) -> AutoencoderKL:
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=size).eval()


def labelled_denoiser() -> Denoiser:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=5,
    )
    return Denoiser(unet.eval(), scheduler(), (1, 16, 16), name="labelled")


def dit_pipeline() -> DiTPipeline:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
        patch_size=8,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    return DiTPipeline(transformer=transformer.eval(), vae=tiny_vae(), scheduler=scheduler())


def text_pipeline(folder: Path, size: int = 16) -> StableDiffusionPipeline:
    """Draws images of ``size`` pixels; its tokenizer's two files, of the letters a to h, are written to ``folder``."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [*"abcdefgh", *(f"{c}</w>" for c in "abcdefgh"), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    config = CLIPTextConfig(
        vocab_size=len(letters),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=16,
        eos_token_id=17,
    )
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return StableDiffusionPipeline(
        vae=tiny_vae(size),
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def large_text_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """Its denoiser also takes a pooled prompt and the image's size, in a dictionary of their own."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small = text_pipeline(folder)
    config = CLIPTextConfig(**{**small.text_encoder.config.to_dict(), "num_hidden_layers": 2, "projection_dim": 8})
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
    )
    return StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        unet=unet.eval(),
        scheduler=scheduler(),
        add_watermarker=False,
    )
