"""The UNets of the papers' code bases as diffusers networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, create_unet_diffusers_config_from_ldm
from torch import Tensor, nn

from tempoquant.errors import FormatError
from tempoquant.models.compvis.files import UNET
from tempoquant.models.compvis.names import cifar_names, ldm_names, within
from tempoquant.models.heads_unet import HeadsUNet2DModel


def attends(params: Mapping[str, Any]) -> bool:
    """Whether a configuration's UNet has transformers that attend to a condition."""
    return params["unet_config"]["params"].get("context_dim") is not None


def ldm_unet(params: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The UNet of latent diffusion.

    Args:
        params: ``model.params`` of its configuration.
        tensors: of the whole checkpoint, averages chosen.
    """
    network, config = ldm_network(params), params["unet_config"]["params"]
    if attends(params):
        return filled(network, convert_ldm_unet_checkpoint(dict(tensors), network.config), path)
    names = ldm_names(within(tensors, UNET), config["num_res_blocks"], _head_size(config), config.get("num_heads", 1))
    return filled(network, names, path)


def ldm_network(params: Mapping[str, Any]) -> Any:
    """The UNet that ``model.params`` of a configuration describes, its weights as they come."""
    config = params["unet_config"]["params"]
    if attends(params):
        config = create_unet_diffusers_config_from_ldm({"model": {"params": params}}, {})
        return UNet2DConditionModel(**config | {"sample_size": params["image_size"]})
    settings = _settings(config) | {"sample_size": params["image_size"]}
    if _head_size(config) is None:
        return HeadsUNet2DModel(num_heads=config["num_heads"], **settings)
    return UNet2DModel(**settings)


def cifar_unet(tensors: Mapping[str, Tensor], size: int, path: Path) -> nn.Module:
    """The UNet of the DDPM of CIFAR-10 (Ho et al. 2020, in the DDIM authors' code), its settings read from the shapes.

    Args:
        size: height and width of the images, which no weight tells.
    """
    levels = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("down."))
    attention = [f"down.{level}.attn.0.q.weight" in tensors for level in range(levels)]
    blocks = sum(name.startswith("down.0.block.") and name.endswith(".conv1.weight") for name in tensors)
    first = tensors["conv_in.weight"]
    network = UNet2DModel(
        sample_size=size,
        in_channels=first.shape[1],
        out_channels=tensors["conv_out.weight"].shape[0],
        layers_per_block=blocks,
        block_out_channels=tuple(tensors[f"down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)),
        down_block_types=tuple("AttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        up_block_types=tuple("AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    return filled(network, cifar_names(tensors), path)


def filled(network: Any, weights: Mapping[str, Tensor], path: Path) -> Any:
    """``network`` with exactly these weights, in float32 and evaluation mode.

    Raises:
        FormatError: one is missing, has another shape, or belongs nowhere.
    """
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            mine, theirs = found.get(name, "missing"), expected.get(name, "none")
            raise FormatError(f"{path}: {type(network).__name__}.{name} is {mine} where its architecture has {theirs}")
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.eval()


def _head_size(config: Mapping[str, Any]) -> int | None:
    """Channels of an attention head, or None where their number is given instead; -1 stands for that too."""
    size = config.get("num_head_channels", -1)
    return None if size == -1 else int(size)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``UNet2DModel`` for an unconditional UNet's own parameters."""
    resampling = "resnet" if config.get("resblock_updown") else "conv"
    has = [2**level in config["attention_resolutions"] for level in range(len(config["channel_mult"]))]
    plain_up = "ResnetUpsampleBlock2D" if resampling == "resnet" else "UpBlock2D"
    plain_down = "ResnetDownsampleBlock2D" if resampling == "resnet" else "DownBlock2D"
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "layers_per_block": config["num_res_blocks"],
        "block_out_channels": tuple(config["model_channels"] * mult for mult in config["channel_mult"]),
        "down_block_types": tuple("AttnDownBlock2D" if attention else plain_down for attention in has),
        "up_block_types": tuple("AttnUpBlock2D" if attention else plain_up for attention in reversed(has)),
        "attention_head_dim": _head_size(config),
        "downsample_type": resampling,
        "upsample_type": resampling,
        "resnet_time_scale_shift": "scale_shift" if config.get("use_scale_shift_norm") else "default",
    }
