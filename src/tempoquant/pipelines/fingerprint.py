"""One short name for a network's exact values."""

import hashlib

import torch
from torch import Tensor, nn


def state_hash(module: nn.Module) -> str:
    """blake2b (128 bits, hex) over the names, types, shapes and bytes of all state tensors, in name order."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            update(digest, name, value)
    return digest.hexdigest()


def tensor_hash(value: Tensor) -> str:
    """blake2b (128 bits, hex) of one tensor: type, shape and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    update(digest, "", value)
    return digest.hexdigest()


def update(digest: "hashlib.blake2b", name: str, value: Tensor) -> None:
    """Feed one named tensor to ``digest``."""
    plain = value.detach().cpu().contiguous()
    digest.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}:".encode())
    # DenoiserCall as bytes, because numpy knows neither bfloat16 nor float8.
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
