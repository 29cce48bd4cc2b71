"""Names of weights, from the papers' code bases to diffusers' where diffusers has no converter of its own."""

import re
from collections.abc import Mapping

from torch import Tensor

from tempoquant.errors import FormatError

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Parts of a residual block of latent diffusion."""
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
CIFAR = (
    (r"temb\.dense\.0\.", "time_embedding.linear_1."),
    (r"temb\.dense\.1\.", "time_embedding.linear_2."),
    (r"norm_out\.", "conv_norm_out."),
    (r"down\.(\d+)\.", r"down_blocks.\1."),
    (r"mid\.block_1\.", "mid_block.resnets.0."),
    (r"mid\.block_2\.", "mid_block.resnets.1."),
    (r"mid\.attn_1\.", "mid_block.attentions.0."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.attn\.(\d+)\.", r".attentions.\1."),
    (r"\.downsample\.", ".downsamplers.0."),
    (r"\.upsample\.", ".upsamplers.0."),
    (r"\.temb_proj\.", ".time_emb_proj."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)
"""Patterns of the DDPM code's names, in order; its ``up`` blocks are counted from the other end."""


def cifar_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the DDPM of CIFAR-10 under the names of ``UNet2DModel``; 1x1 convolutions become matrices."""
    levels = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("up."))
    converted = {}
    for name, value in tensors.items():
        new = re.sub(r"^up\.(\d+)\.", lambda found: f"up_blocks.{levels - 1 - int(found[1])}.", name)
        for pattern, replacement in CIFAR:
            new = re.sub(pattern, replacement, new)
        converted[new] = value[:, :, 0, 0] if ".to_" in new and value.ndim == 4 else value
    return converted


def ldm_names(tensors: Mapping[str, Tensor], res_blocks: int, head_size: int | None, heads: int) -> dict:
    """The weights of an unconditional latent diffusion UNet under the names of ``UNet2DModel``.

    Args:
        tensors: by name within the UNet.
        res_blocks: of a level, downwards.
        head_size: channels of an attention head; None for ``heads`` heads. ``qkv`` is laid out by them.
    """
    converted: dict[str, Tensor] = {}
    for name, value in tensors.items():
        whole, _, kind = name.rpartition(".")
        if whole in ENDS:
            converted[f"{ENDS[whole]}.{kind}"] = value
            continue
        block, part = _place(name, res_blocks, tensors)
        if part.startswith("qkv."):
            parts = split_qkv(value, heads if head_size is None else value.shape[0] // 3 // head_size)
            converted |= {f"{block}.to_{letter}.{kind}": p for letter, p in zip("qkv", parts, strict=True)}
        else:
            converted[f"{block}.{_part(part)}"] = value[:, :, 0] if part == "proj_out.weight" else value
    return converted


def split_qkv(value: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of (3 C, C, 1) or (3 C,), which stand together head by head; (C, C) or (C,) each."""
    rows = value.shape[0] // 3
    by_head = value.reshape(heads, 3, rows // heads, *value.shape[1:2])
    q, k, v = (by_head[:, i].reshape(rows, *value.shape[1:2]) for i in range(3))
    return q, k, v


def _place(name: str, res_blocks: int, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """The diffusers module that a weight belongs to, and its name within the CompVis one."""
    found = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)", name)
    if not found:
        raise FormatError(f"{name} is no weight of a latent diffusion UNet")
    where, i, rest = found[1], int(found[2]), found[3]
    if where == "middle_block":
        return ("mid_block.attentions.0", rest) if i == 1 else (f"mid_block.resnets.{i // 2}", rest)
    position, _, part = rest.partition(".")
    # The first input block is the first convolution.
    level, layer = divmod(i - 1 if where == "input_blocks" else i, res_blocks + 1)
    side = "down" if where == "input_blocks" else "up"
    if side == "down" and layer == res_blocks:
        return f"down_blocks.{level}.downsamplers.0", part
    if position == "0":
        return f"{side}_blocks.{level}.resnets.{layer}", part
    if f"{where}.{i}.{position}.qkv.weight" in tensors:
        return f"{side}_blocks.{level}.attentions.{layer}", part
    return f"up_blocks.{level}.upsamplers.0", part


def _part(part: str) -> str:
    """The diffusers name of a weight within its module."""
    whole, _, kind = part.rpartition(".")
    names = {**RESNET, "op": "conv", "norm": "group_norm", "proj_out": "to_out.0"}
    return f"{names.get(whole, whole)}.{kind}"


def within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it, contiguous."""
    return {n.removeprefix(prefix): v.contiguous() for n, v in tensors.items() if n.startswith(prefix)}
