"""Samples as images: which of them are, and their pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tempoquant.errors import InputError, NumericsError

CHANNELS = (1, 3)


def is_image(shape: Sequence[int]) -> bool:
    """Whether samples of this shape, without the batch, are images: (C, H, W) with C 1 or 3."""
    return len(shape) == 3 and shape[0] in CHANNELS


def check_image(name: str, shape: Sequence[int], why: str, *, latents: bool = False) -> None:
    """Raise InputError unless samples of this shape are images.

    Args:
        name: of the model.
        why: images are needed, and what to do without; ends the message.
        latents: whether (C, H, W) of any C will do.
    """
    if not (is_image(shape) or (latents and len(shape) == 3)):
        raise InputError(f"samples of {name} are {tuple(shape)} and no images (1 or 3, height, width): {why}")


def check_samples(name: str, samples: Tensor) -> None:
    """Raise NumericsError if what a model drew holds NaN or infinity, as an autoencoder in half precision may put out.

    Args:
        name: of the model.
    """
    if not torch.isfinite(samples).all():
        raise NumericsError(f"samples of {name} are not finite")


def to_images(x: Tensor) -> Tensor:
    """Pixels in [-1, 1], (N, C, H, W), as uint8 (N, H, W, C): round((clamp(x, -1, 1) + 1) * 127.5)."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
