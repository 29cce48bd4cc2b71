"""Transformers over latents (C, H, W): DiT, PixArt."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tempoquant.pipelines.families.family import Family, config_of, family


@family("transformer2d", "DiTTransformer2DModel", "PixArtTransformer2DModel", "Transformer2DModel")
class Transformer2D(Family):
    """Class labels (DiT) or embedded prompts with a mask (PixArt)."""

    plain_loop: ClassVar[bool] = True
    no_class: ClassVar[int] = 1

    def classes(self, config: Mapping[str, Any]) -> int | None:
        """See :meth:`Family.classes`."""
        return config.get("num_embeds_ada_norm")

    def example(self, module: nn.Module) -> dict[str, Tensor]:
        """See :meth:`Family.example`: label 0."""
        labelled = config_of(module).get("num_embeds_ada_norm")
        return {"class_labels": torch.zeros(1, dtype=torch.int64)} if labelled else {}
