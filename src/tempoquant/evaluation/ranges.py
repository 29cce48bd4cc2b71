"""The data range that PSNR and SSIM are relative to: that of pixels in [-1, 1], or a reference's own."""

import warnings

from torch import Tensor

PIXEL_RANGE = 2.0
"""From the least to the greatest pixel of images in [-1, 1]."""
LARGEST = 2.0
"""Images in [-1, 1] whose last step or decoder does not clip overshoot, up to 1.5 by PLMS on the bundled model."""


def data_range(images: Tensor) -> float:
    """The range of pixel values: 2, and where a pixel lies beyond +-2 the images' own greatest less their least value.

    Args:
        images: (N, C, H, W) of the reference, all of them: one range serves every image.
    """
    low, high = (float(value) for value in images.aminmax())
    inside = low >= -LARGEST and high <= LARGEST
    # Equal pixels have no range of their own.
    return PIXEL_RANGE if inside or low == high else high - low


def warn_of_range(name: str, images: Tensor) -> None:
    """Warn where PSNR and SSIM are relative to the reference's own range.

    Args:
        name: of the full-precision model. images: see :func:`data_range`.
    """
    own = data_range(images)
    if own != PIXEL_RANGE:
        low, high = (float(value) for value in images.aminmax())
        warnings.warn(
            f"samples of {name} reach from {low:.3g} to {high:.3g}, outside [-1, 1]: PSNR and SSIM take their own data "
            f"range, {own:.3g}, in place of 2; if they are to be images, give the model a scheduler with clip_sample "
            "(or thresholding), or check its sample range",
            UserWarning,
            stacklevel=3,
        )
