"""A pipeline for latent diffusion models that attend to a class, as LDM-4 of ImageNet: diffusers has none."""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from tempoquant.models.class_pipeline import ClassPipeline


class ClassEmbedder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Class labels to the sequences of one vector that the denoiser attends to (Rombach et al. 2022, section 4.3).

    Args:
        num_classes: the last one stands for no class.
        embed_dim: of the vectors.
    """

    config: Any

    @register_to_config
    def __init__(self, num_classes: int = 1001, embed_dim: int = 512):
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embed_dim)

    def forward(self, labels: Tensor) -> Tensor:
        """(B,) labels to (B, 1, embed_dim)."""
        return self.embedding(labels)[:, None]


class ClassLatentPipeline(ClassPipeline):
    """Draws samples of given classes in latent space. It is called as :class:`ClassPipeline` is.

    Args:
        unet: a ``UNet2DConditionModel``.
        vqvae: the autoencoder, of either kind.
        class_embedder: its last class was trained as no class.
    """

    model_cpu_offload_seq: Any = "class_embedder->unet->vqvae"

    def __init__(self, unet: Any, scheduler: Any, vqvae: Any, class_embedder: Any):
        super().__init__(unet, scheduler)
        self.register_modules(vqvae=vqvae, class_embedder=class_embedder)

    @property
    def classes(self) -> int:
        """How many labels there are, that of no class included."""
        return int(self.class_embedder.config["num_classes"])

    def _condition(self, labels: Tensor) -> dict[str, Tensor]:
        return {"encoder_hidden_states": self.class_embedder(labels)}

    def _decoded(self, x: Tensor) -> Tensor:
        latents = x / self.vqvae.config.scaling_factor
        # One by one, to bound memory.
        return torch.cat([self.vqvae.decode(part, return_dict=False)[0] for part in latents.split(1)])
