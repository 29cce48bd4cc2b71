"""Where :mod:`tempoquant.models.class_latent` was: the index of folders that were saved then names it."""

from diffusers.models.modeling_utils import ModelMixin

from tempoquant.models.class_latent import ClassEmbedder, ClassLatentPipeline

# ModelMixin is named because diffusers looks for it in the module of a class that is not its own.
__all__ = ["ClassEmbedder", "ClassLatentPipeline", "ModelMixin"]
