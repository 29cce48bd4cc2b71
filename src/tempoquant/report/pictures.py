"""Images as ``data:`` addresses inside a page: samples, differences and strips of frames."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

GAIN = 8
"""How much differences are amplified."""
LARGEST = 256
"""Sides of pictures on a page, pixels; larger ones are reduced."""
LOSSLESS = 64 * 64


def difference(full: Tensor, other: Tensor) -> Tensor:
    """Absolute difference of two images times ``GAIN``, clipped to 255, uint8 of their shape: black is equal.

    Args:
        full: (..., H, W, C) uint8.
        other: of the same shape.
    """
    return ((full.int() - other.int()).abs() * GAIN).clamp(max=255).to(torch.uint8)


def data_uri(image: Tensor) -> str:
    """An image (H, W, C) uint8 as a ``data:`` address: PNG up to 64x64 pixels, else JPEG."""
    picture = reduced(image)
    small = picture.width * picture.height <= LOSSLESS
    return _encoded(picture, "PNG" if small else "JPEG")


def strip_uri(frames: Tensor) -> str:
    """Frames (F, H, W, C) uint8 side by side as one ``data:`` address."""
    pictures = [reduced(frame) for frame in frames]
    width, height = pictures[0].size
    strip = Image.new(pictures[0].mode, (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * width, 0))
    return _encoded(strip, "PNG" if width * height <= LOSSLESS else "JPEG")


def reduced(image: Tensor) -> Image.Image:
    """A uint8 image (H, W, C), C 1 or 3 (of more channels the first three), at most 256 pixels a side."""
    channels = image[..., 0] if image.shape[-1] < 3 else image[..., :3]
    picture = Image.fromarray(channels.contiguous().numpy())
    picture.thumbnail((LARGEST, LARGEST))
    return picture


def _encoded(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
