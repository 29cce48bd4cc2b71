"""Tiny random twins of the models of the papers: the same architecture and all around it, narrow and small.

Each keeps its model's levels, blocks, attention, embeddings, autoencoder and schedule; only widths, picture sizes and
vocabularies are small. Nothing is downloaded. ``width`` is that of the first level; every function takes a folder for
the files that a part is made from.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    LDMPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

from tempoquant.models.class_latent import ClassEmbedder, ClassLatentPipeline
from tempoquant.models.heads_unet import HeadsUNet2DModel

CLASSES = 1001
LATENT_SCALE = 0.2458


def groups(width: int) -> int:
    """Of the normalizations: 32 as in the models themselves, where the width allows it."""
    return 32 if width % 32 == 0 else 4


def schedule(end: float = 0.0195, start: float = 0.0015) -> DDIMScheduler:
    """The schedule of the CompVis code base."""
    return DDIMScheduler(
        beta_start=start,
        beta_end=end,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def vq(size: int, width: int) -> VQModel:
    """VQ-f4: three levels, latents of three channels."""
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(width, 2 * width, 4 * width),
        layers_per_block=2,
        latent_channels=3,
        sample_size=4 * size,
        num_vq_embeddings=64,
        norm_num_groups=groups(width),
        scaling_factor=1.0,
    ).eval()


def kl(size: int, width: int, scale: float) -> AutoencoderKL:
    """KL-f8: four levels, latents of four channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width, 2 * width, 2 * width, 4 * width),
        layers_per_block=2,
        latent_channels=4,
        sample_size=8 * size,
        norm_num_groups=groups(width),
        scaling_factor=scale,
    ).eval()


def cifar(folder: Path, width: int = 8) -> DDIMPipeline:
    """The DDPM of CIFAR-10: its sinusoids are ordered and shifted as in the original code."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        layers_per_block=2,
        block_out_channels=(width, 2 * width, 2 * width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        norm_num_groups=groups(width),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    return DDIMPipeline(unet.eval(), DDIMScheduler(clip_sample=False))


def ldm4(folder: Path, width: int = 8) -> LDMPipeline:
    """LDM-4 of LSUN-Bedrooms, CelebA-HQ and FFHQ: heads of one size, VQ-f4."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(width, 2 * width, 3 * width, 4 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=width,
        norm_num_groups=groups(width),
    )
    return LDMPipeline(vqvae=vq(8, width), unet=unet.eval(), scheduler=schedule())


def ldm8(folder: Path, width: int = 8) -> LDMPipeline:
    """LDM-8 of LSUN-Churches: heads of one number, scale and shift by the time step, residual resampling, KL-f8."""
    torch.manual_seed(0)
    unet = HeadsUNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=tuple(width * mult for mult in (1, 2, 2, 4, 4)),
        down_block_types=("AttnDownBlock2D",) * 4 + ("DownBlock2D",),
        up_block_types=("ResnetUpsampleBlock2D",) + ("AttnUpBlock2D",) * 4,
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=groups(width),
        num_heads=4,
    )
    return LDMPipeline(vqvae=kl(16, width, LATENT_SCALE), unet=unet.eval(), scheduler=schedule(0.0155))


def imagenet(folder: Path, width: int = 8) -> ClassLatentPipeline:
    """LDM-4 of ImageNet: attends to the embedding of a class, one head, VQ-f4."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(width, 2 * width, 3 * width, 5 * width),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        attention_head_dim=1,
        cross_attention_dim=16,
        norm_num_groups=groups(width),
    )
    embedder = ClassEmbedder(CLASSES, 16).eval()
    return ClassLatentPipeline(unet=unet.eval(), scheduler=schedule(), vqvae=vq(8, width), class_embedder=embedder)


def alphabet(folder: Path, **options: Any) -> Any:
    """CLIP's tokenizer with a vocabulary of the letters a to h; its files are written into ``folder``."""
    from transformers import CLIPTokenizer

    letters = [*"abcdefgh", *(f"{c}</w>" for c in "abcdefgh"), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **options)


def tiny_clip(folder: Path) -> Path:
    """``folder`` with a CLIP model that sees 8x8 images and knows the letters a to h."""
    import transformers

    tokenizer = alphabet(folder)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 18, "max_position_embeddings": 8, "bos_token_id": 16, "eos_token_id": 17, **size}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config={"image_size": 8, "patch_size": 4, **size}, projection_dim=6
    )
    transformers.CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    images.save_pretrained(folder)
    return folder


def stable_diffusion(folder: Path, width: int = 8) -> StableDiffusionPipeline:
    """Stable Diffusion 1: a CLIP text encoder whose tokenizer knows the letters a to h, KL-f8, PLMS."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = alphabet(folder, model_max_length=8)
    size: dict[str, Any] = {"hidden_size": 2 * width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
    config = CLIPTextConfig(
        vocab_size=18, num_attention_heads=1, max_position_embeddings=8, bos_token_id=16, eos_token_id=17, **size
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=4,
        cross_attention_dim=2 * width,
        norm_num_groups=groups(width),
    )
    plms = PNDMScheduler.from_config(schedule(0.012, 0.00085).config, skip_prk_steps=True)
    return StableDiffusionPipeline(
        vae=kl(8, width, 0.18215),
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=plms,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


TWINS: dict[str, Callable[..., Any]] = {
    "cifar10-ddim": cifar,
    "lsun-bedrooms": ldm4,
    "celebahq": ldm4,
    "celebahq-plms": ldm4,
    "ffhq": ldm4,
    "lsun-churches": ldm8,
    "lsun-churches-dpm": ldm8,
    "lsun-churches-tdq": ldm8,
    "imagenet": imagenet,
    "imagenet-tdq": imagenet,
    "stable-diffusion-coco": stable_diffusion,
}
"""Experiment -> what makes the twin of its model."""
