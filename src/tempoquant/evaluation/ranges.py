"""The data range of PSNR and SSIM: 2 for pixels in [-1, 1], else that of the reference images."""

import warnings

from torch import Tensor

PIXEL_RANGE = 2.0
"""From the least to the greatest pixel of images in [-1, 1]."""
LARGEST = 2.0
"""Images in [-1, 1] whose last step or decoder does not clip overshoot, up to 1.5 by PLMS on the bundled model."""


def data_range(images: Tensor) -> float:
    """Range of pixel values for PSNR and SSIM: 2, or greatest minus least pixel if one lies outside [-2, 2].

    Args:
        images: (N, C, H, W), all of the reference's: one range serves every image.
    """
    low, high = (float(value) for value in images.aminmax())
    inside = low >= -LARGEST and high <= LARGEST
    # Equal pixels have a range of zero.
    return PIXEL_RANGE if inside or low == high else high - low


def warn_of_range(name: str, images: Tensor) -> None:
    """Warn if PSNR and SSIM are relative to another range than 2.

    Args:
        name: of the full-precision model.
        images: as of :func:`data_range`.

    Warns:
        UserWarning: pixels leave [-2, 2].
    """
    images_range = data_range(images)
    if images_range != PIXEL_RANGE:
        low, high = (float(value) for value in images.aminmax())
        warnings.warn(
            f"samples of {name} reach from {low:.3g} to {high:.3g}, outside [-1, 1]: PSNR and SSIM take their own data "
            f"range, {images_range:.3g}, in place of 2; if they are to be images, give the model a scheduler with "
            "clip_sample (or thresholding), or check its sample range",
            UserWarning,
            stacklevel=3,
        )
