"""Where :mod:`tempoquant.models.heads_unet` was: the index of folders that were saved then names it."""

from diffusers import ModelMixin

from tempoquant.models.heads_unet import HeadsUNet2DModel

# ModelMixin is named because diffusers looks for it in the module of a class that is not its own.
__all__ = ["HeadsUNet2DModel", "ModelMixin"]
