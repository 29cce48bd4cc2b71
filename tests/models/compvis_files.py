"""Diffusers pipelines written as checkpoints of the papers' code bases, by tables of names made by hand.

Nothing here is shared with the package: blocks are listed one by one in the order of ``openaimodel.py``. The place
in the list is the block's number, and that in the line the number within the block.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

LDM4 = (
    "in, d0.r0, d0.r1, d0.down, d1.r0 d1.a0, d1.r1 d1.a1, d1.down, d2.r0 d2.a0, d2.r1 d2.a1, d2.down, d3.r0 d3.a0, "
    "d3.r1 d3.a1",
    "u0.r0 u0.a0, u0.r1 u0.a1, u0.r2 u0.a2 u0.up, u1.r0 u1.a0, u1.r1 u1.a1, u1.r2 u1.a2 u1.up, u2.r0 u2.a0, "
    "u2.r1 u2.a1, u2.r2 u2.a2 u2.up, u3.r0, u3.r1, u3.r2",
)
LDM8 = (
    "in, d0.r0 d0.a0, d0.r1 d0.a1, d0.down, d1.r0 d1.a0, d1.r1 d1.a1, d1.down, d2.r0 d2.a0, d2.r1 d2.a1, d2.down, "
    "d3.r0 d3.a0, d3.r1 d3.a1, d3.down, d4.r0, d4.r1",
    "u0.r0, u0.r1, u0.r2 u0.up, u1.r0 u1.a0, u1.r1 u1.a1, u1.r2 u1.a2 u1.up, u2.r0 u2.a0, u2.r1 u2.a1, "
    "u2.r2 u2.a2 u2.up, u3.r0 u3.a0, u3.r1 u3.a1, u3.r2 u3.a2 u3.up, u4.r0 u4.a0, u4.r1 u4.a1, u4.r2 u4.a2",
)
SD1 = (
    "in, d0.r0 d0.a0, d0.r1 d0.a1, d0.down, d1.r0 d1.a0, d1.r1 d1.a1, d1.down, d2.r0 d2.a0, d2.r1 d2.a1, d2.down, "
    "d3.r0, d3.r1",
    "u0.r0, u0.r1, u0.r2 u0.up, u1.r0 u1.a0, u1.r1 u1.a1, u1.r2 u1.a2 u1.up, u2.r0 u2.a0, u2.r1 u2.a1, "
    "u2.r2 u2.a2 u2.up, u3.r0 u3.a0, u3.r1 u3.a1, u3.r2 u3.a2",
)
"""Of input and output blocks: side (d, u) and level, then what it is (resnet, attention, resampling)."""
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def places(blocks: tuple[str, str]) -> dict[str, str]:
    """Diffusers module -> CompVis module, for blocks, first and last layers."""
    made = dict(ENDS)
    for name, listed in zip(("input_blocks", "output_blocks"), blocks, strict=True):
        for i, line in enumerate(listed.split(", ")):
            for j, short in enumerate(line.split() if line != "in" else ()):
                side, part = short.split(".")
                kinds = {"r": "resnets.", "a": "attentions.", "down": "downsamplers.0", "up": "upsamplers.0"}
                kind = kinds.get(part) or kinds[part[0]] + part[1]
                made[f"{'down' if side[0] == 'd' else 'up'}_blocks.{side[1]}.{kind}"] = f"{name}.{i}.{j}"
    return made


def ldm_unet(unet: nn.Module, blocks: tuple[str, str], heads: Any = None) -> dict[str, Tensor]:
    """The weights of a UNet under CompVis names.

    Args:
        heads: width -> number of attention heads; None for transformers, which keep their inner names.
    """
    made: dict[str, Tensor] = {}
    table = places(blocks)
    state = unet.state_dict()
    for name, value in state.items():
        block = next(b for b in sorted(table, key=len, reverse=True) if name.startswith(f"{b}."))
        part, place = name.removeprefix(f"{block}."), table[block]
        whole, _, kind = part.rpartition(".")
        if "attentions" in block and heads is not None:
            if whole in ("to_k", "to_v"):
                continue
            if whole == "to_q":
                three = [state[f"{block}.to_{letter}.{kind}"] for letter in "qkv"]
                made[f"{place}.qkv.{kind}"] = side_by_side(three, heads(value.shape[0]))
            elif whole == "to_out.0":
                made[f"{place}.proj_out.{kind}"] = value[:, :, None] if kind == "weight" else value
            else:
                made[f"{place}.norm.{kind}"] = value
        elif "samplers" in block and whole == "conv":
            made[f"{place}.{'op' if 'down' in block else 'conv'}.{kind}"] = value
        else:
            made[f"{place}.{RESNET.get(whole, whole)}.{kind}" if whole else f"{place}.{kind}"] = value
    return {f"model.diffusion_model.{name}": value for name, value in made.items()}


def side_by_side(three: list[Tensor], heads: int) -> Tensor:
    """The rows of queries, keys and values, head by head; weights as those of a Conv1d."""
    size = three[0].shape[0] // heads
    rows = [part[h * size : (h + 1) * size] for h in range(heads) for part in three]
    stacked = torch.cat(rows)
    return stacked[:, :, None] if stacked.ndim == 2 else stacked


def first_stage(vae: nn.Module) -> dict[str, Tensor]:
    """The weights of an autoencoder under CompVis names."""
    made = {}
    levels = len(vae.decoder.up_blocks)
    for name, value in vae.state_dict().items():
        new = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", name)
        new = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", new)
        new = re.sub(
            r"decoder\.up_blocks\.(\d)\.resnets\.(\d)",
            lambda m: f"decoder.up.{levels - 1 - int(m[1])}.block.{m[2]}",
            new,
        )
        new = re.sub(
            r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.upsample", new
        )
        new = new.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("conv_norm_out", "norm_out").replace("group_norm", "norm").replace("to_out.0", "proj_out")
        new = re.sub(r"to_([qkv])", r"\1", new)
        matrix = ".attn_1." in new and value.ndim == 2
        made[f"first_stage_model.{new}"] = value[:, :, None, None] if matrix else value
    return made


CIFAR = {
    "time_embedding.linear_1": "temb.dense.0",
    "time_embedding.linear_2": "temb.dense.1",
    "conv_in": "conv_in",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    **{f"down_blocks.{i}.resnets.{j}": f"down.{i}.block.{j}" for i in range(4) for j in range(2)},
    **{f"down_blocks.1.attentions.{j}": f"down.1.attn.{j}" for j in range(2)},
    **{f"down_blocks.{i}.downsamplers.0": f"down.{i}.downsample" for i in range(3)},
    **{f"up_blocks.{i}.resnets.{j}": f"up.{3 - i}.block.{j}" for i in range(4) for j in range(3)},
    **{f"up_blocks.2.attentions.{j}": f"up.1.attn.{j}" for j in range(3)},
    **{f"up_blocks.{i}.upsamplers.0": f"up.{3 - i}.upsample" for i in range(3)},
}
CIFAR_PARTS = {
    "time_emb_proj": "temb_proj",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_out.0": "proj_out",
}
CIFAR_PARTS |= {"to_q": "q", "to_k": "k", "to_v": "v"}


def cifar(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of the DDPM of CIFAR-10 under the names of its code base."""
    made = {}
    for name, value in unet.state_dict().items():
        block = next(b for b in sorted(CIFAR, key=len, reverse=True) if name.startswith(f"{b}."))
        whole, _, kind = name.removeprefix(f"{block}.").rpartition(".")
        matrix = ("attentions" in block) and value.ndim == 2
        inner = CIFAR_PARTS.get(whole, whole)
        new = f"{CIFAR[block]}.{inner}.{kind}" if inner else f"{CIFAR[block]}.{kind}"
        made[new] = value[:, :, None, None] if matrix else value
    return made
