"""UNets: DDPM, DDIM, latent diffusion, Stable Diffusion 1, 2 and XL, LCM, inpainting, IF."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.pipelines.call import Arguments
from tempoquant.pipelines.families.family import Family, config_of, family

TEXT_LENGTH = 77


@family("unet", "UNet2DModel", "UNet2DConditionModel")
class UNet(Family):
    """Samples (C, H, W), pixels or latents; conditions beside an embedded prompt come in a nested dictionary."""

    arguments = Arguments("sample")
    plain_loop: ClassVar[bool] = True

    def resembles(self, component: str | None, module: nn.Module) -> bool:
        """Whether it is a user's own UNet that says its sample's shape as those of diffusers do."""
        return component == "unet" and {"sample_size", "in_channels"} <= set(config_of(module))

    def classes(self, config: Mapping[str, Any]) -> int | None:
        """See :meth:`Family.classes`; with a ``class_embed_type`` labels are embedded as numbers."""
        return None if config.get("class_embed_type") else config.get("num_class_embeds")

    def example(self, module: nn.Module) -> dict[str, Tensor]:
        """See :meth:`Family.example`: an embedded prompt, or label 0."""
        config = config_of(module)
        if config.get("addition_embed_type") or config.get("encoder_hid_dim"):
            raise InputError(
                f"{type(module).__name__} takes more than a prompt's words: give an example of its conditions "
                "(conditioning)"
            )
        if "cross_attention_dim" in config:
            rng = torch.Generator().manual_seed(0)
            return {"encoder_hidden_states": torch.randn(1, TEXT_LENGTH, config["cross_attention_dim"], generator=rng)}
        return {"class_labels": torch.zeros(1, dtype=torch.int64)} if config.get("num_class_embeds") else {}
