"""The first stages of latent diffusion as diffusers autoencoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor, nn

from tempoquant.models.compvis.unets import filled

PREFIX = "first_stage_model."
CODEBOOK = "quantize.embedding.weight"


def autoencoder(params: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The first stage: ``VQModel`` where the checkpoint holds a codebook, else ``AutoencoderKL``.

    The factor of its latents stands in the checkpoint where training measured it.

    Args:
        params: ``model.params`` of the configuration.
        tensors: of the whole checkpoint.
    """
    config = params["first_stage_config"]["params"]
    encoder = config["ddconfig"]
    levels = len(encoder["ch_mult"])
    settings = {
        "in_channels": encoder["in_channels"],
        "out_channels": encoder["out_ch"],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(encoder["ch"] * mult for mult in encoder["ch_mult"]),
        "layers_per_block": encoder["num_res_blocks"],
        "latent_channels": encoder["z_channels"],
        "sample_size": encoder["resolution"],
        "scaling_factor": float(tensors.get("scale_factor", params.get("scale_factor", 1.0))),
    }
    weights = convert_ldm_vae_checkpoint(dict(tensors), settings)
    codebook = tensors.get(PREFIX + CODEBOOK)
    if codebook is None:
        return filled(AutoencoderKL(**settings), weights, path)
    vq = VQModel(**settings, num_vq_embeddings=codebook.shape[0], vq_embed_dim=codebook.shape[1])
    return filled(vq, {**weights, CODEBOOK: codebook}, path)
