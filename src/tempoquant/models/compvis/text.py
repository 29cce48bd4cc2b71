"""The text encoder of Stable Diffusion 1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
from torch import Tensor

from tempoquant.errors import InputError
from tempoquant.models.compvis.unets import filled

HEAD = 64
"""Channels of an attention head, in every CLIP model."""
VOCABULARY = "openai/clip-vit-large-patch14"


def text_encoder(tensors: Mapping[str, Tensor], path: Path) -> Any:
    """CLIP's text encoder, its settings read from the shapes of its weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    held = {n.removeprefix("text_model."): v for n, v in convert_ldm_clip_checkpoint(dict(tensors)).items()}
    held.pop("embeddings.position_ids", None)
    words, width = held["embeddings.token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=held["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in held if name.startswith("encoder.layers.")),
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=held["embeddings.position_embedding.weight"].shape[0],
        bos_token_id=words - 2,
        eos_token_id=words - 1,
    )
    encoder = CLIPTextModel(config)
    # Transformers 5 dropped the level of names between the model and its parts.
    prefix = "text_model." if hasattr(encoder, "text_model") else ""
    return filled(encoder, {prefix + name: value for name, value in held.items()}, path)


def tokenizer(path: Path) -> Any:
    """CLIP's tokenizer, which no checkpoint holds: of a folder ``tokenizer`` beside it, or of the hub.

    Raises:
        InputError: neither has it.
    """
    from transformers import CLIPTokenizer

    beside = path.with_name("tokenizer")
    try:
        return CLIPTokenizer.from_pretrained(beside if beside.is_dir() else VOCABULARY)
    except (OSError, ValueError):
        raise InputError(
            f"{path} needs the tokenizer of {VOCABULARY}: put its files into {beside}, or allow the hub"
        ) from None
