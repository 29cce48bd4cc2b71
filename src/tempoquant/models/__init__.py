"""Model classes of this package, and converters of checkpoints (:mod:`tempoquant.models.compvis`)."""

from tempoquant.models.class_latent import ClassLatentPipeline
from tempoquant.models.class_pipeline import ClassPipeline
from tempoquant.models.heads_unet import HeadsUNet2DModel

__all__ = [
    "ClassLatentPipeline",
    "ClassPipeline",
    "HeadsUNet2DModel",
]
