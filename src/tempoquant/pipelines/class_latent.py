"""Where :mod:`tempoquant.models.class_latent` was: the index of folders that were saved then names it."""

from tempoquant.models.class_latent import ClassEmbedder, ClassLatentPipeline

__all__ = ["ClassEmbedder", "ClassLatentPipeline"]
