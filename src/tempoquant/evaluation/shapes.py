"""Whether PSNR and SSIM are defined for samples of a shape; imported without torch."""

from collections.abc import Sequence

from tempoquant import pipelines

SSIM_WINDOW = 11


def has_psnr(shape: Sequence[int]) -> bool:
    """Whether PSNR is defined for samples of ``shape``, without the batch dimension: they are images."""
    return pipelines.is_image(shape)


def has_ssim(shape: Sequence[int]) -> bool:
    """Whether SSIM is defined for samples of ``shape``: they are images at least as large as its window."""
    return pipelines.is_image(shape) and min(shape[-2:]) >= SSIM_WINDOW
