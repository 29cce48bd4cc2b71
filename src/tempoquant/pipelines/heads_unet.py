"""Where :mod:`tempoquant.models.heads_unet` was: the index of folders that were saved then names it."""

from tempoquant.models.heads_unet import HeadsUNet2DModel

__all__ = ["HeadsUNet2DModel"]
