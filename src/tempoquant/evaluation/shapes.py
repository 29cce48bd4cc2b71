"""Which metrics samples have, by their shape; nothing here needs torch."""

from collections.abc import Sequence

from tempoquant import pipelines

SSIM_WINDOW = 11


def has_psnr(shape: Sequence[int]) -> bool:
    """Whether PSNR is a metric of samples of this shape, without the batch: it is one of images."""
    return pipelines.is_image(shape)


def has_ssim(shape: Sequence[int]) -> bool:
    """Whether SSIM is a metric of samples of this shape: it is one of images that its window fits into."""
    return pipelines.is_image(shape) and min(shape[-2:]) >= SSIM_WINDOW
