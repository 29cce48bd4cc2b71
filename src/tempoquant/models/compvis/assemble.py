"""From a checkpoint of the papers' code bases to a diffusers pipeline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from diffusers import DDIMPipeline, DDIMScheduler, LDMPipeline, StableDiffusionPipeline
from torch import Tensor

from tempoquant.documents import read_yaml
from tempoquant.errors import FormatError, InputError
from tempoquant.models.class_latent import ClassEmbedder, ClassLatentPipeline
from tempoquant.models.compvis.autoencoder import autoencoder
from tempoquant.models.compvis.files import UNET, read_tensors
from tempoquant.models.compvis.text import text_encoder, tokenizer
from tempoquant.models.compvis.unets import attends, cifar_unet, filled, ldm_unet

KNOWN = Path(__file__).with_name("known.yaml")
CLASSES = "cond_stage_model.embedding.weight"
TEXT = "cond_stage_model.transformer."


def load_checkpoint(path: Path) -> Any:
    """The diffusers pipeline of a checkpoint.

    Its architecture is that of a YAML file in the layout of the latent diffusion code, which has the checkpoint's name
    or is called ``config.yaml`` and lies beside it; without one, that of the published checkpoint of its shapes.

    Raises:
        FormatError: the file cannot be read, or its weights are not those of the architecture.
        InputError: the architecture is not known, or a tokenizer is missing.
    """
    tensors = read_tensors(path)
    config = _beside(path)
    if "temb.dense.0.weight" in tensors:
        size = 32 if config is None else config.get("data", {}).get("image_size", 32)
        return DDIMPipeline(cifar_unet(tensors, size, path), DDIMScheduler(clip_sample=False))
    if not any(name.startswith(UNET) for name in tensors):
        raise FormatError(f"{path} is no checkpoint of latent diffusion, Stable Diffusion 1 or the DDPM of CIFAR-10")
    try:
        params = config["model"]["params"] if config is not None else _known(tensors, path)
        return _latent(params, tensors, path)
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path}: the configuration of its architecture lacks {error}") from None


def _latent(params: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Any:
    parts: dict[str, Any] = {"unet": ldm_unet(params, tensors, path), "scheduler": _schedule(params)}
    first_stage = autoencoder(params, tensors, path)
    if CLASSES in tensors:
        embedder = ClassEmbedder(*tensors[CLASSES].shape)
        filled(embedder, {"embedding.weight": tensors[CLASSES]}, path)
        return ClassLatentPipeline(vqvae=first_stage, class_embedder=embedder.eval(), **parts)
    if any(name.startswith(TEXT) for name in tensors):
        encoder = text_encoder(tensors, path)
        none: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        words = tokenizer(path)
        return StableDiffusionPipeline(vae=first_stage, text_encoder=encoder, tokenizer=words, **parts, **none)
    if attends(params):
        raise FormatError(f"{path}: its UNet attends to a condition whose encoder is neither CLIP's nor one of classes")
    return LDMPipeline(vqvae=first_stage, **parts)


def _schedule(params: Mapping[str, Any]) -> DDIMScheduler:
    """The schedule of the latent diffusion code: its DDIM ends at the first training step, and counts steps from 1."""
    return DDIMScheduler(
        num_train_timesteps=params.get("timesteps", 1000),
        beta_start=params["linear_start"],
        beta_end=params["linear_end"],
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _beside(path: Path) -> dict[str, Any] | None:
    """The configuration that lies beside a checkpoint."""
    file = next((f for f in (path.with_suffix(".yaml"), path.with_name("config.yaml")) if f.is_file()), None)
    return None if file is None else read_yaml(file, str(file))


def _known(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The configuration of the published checkpoint with these shapes."""
    channels, inputs = tensors[f"{UNET}input_blocks.0.0.weight"].shape[:2]
    context = next((v.shape[1] for n, v in tensors.items() if n.endswith("attn2.to_k.weight")), None)
    for entry in yaml.safe_load(KNOWN.read_text()):
        unet = entry["params"]["unet_config"]["params"]
        if (channels, inputs, context) == (unet["model_channels"], unet["in_channels"], unet.get("context_dim")):
            return entry["params"]
    found = f"{channels} channels, {inputs} inputs" + ("" if context is None else f", context of {context}")
    raise InputError(f"{path}: no published checkpoint has a UNet of {found}: put its config.yaml beside it")
