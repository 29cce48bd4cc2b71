"""A UNet whose attention has the same number of heads at every width, as LDM-8 of LSUN-Churches: diffusers has none."""

import inspect
from typing import Any

from diffusers import ModelMixin, UNet2DModel
from diffusers.models.attention_processor import Attention


# ModelMixin is named because diffusers looks for it in the module of a class that is not its own.
class HeadsUNet2DModel(UNet2DModel, ModelMixin):
    """``UNet2DModel`` with ``num_heads`` attention heads in every block, in the place of heads of equal size.

    Args:
        num_heads: divides the width of every block with attention.
        settings: those of ``UNet2DModel``; its ``attention_head_dim`` is of no use.
    """

    def __init__(self: Any, num_heads: int = 8, **settings: Any):
        UNet2DModel.__init__(self, **settings)
        self.register_to_config(num_heads=num_heads)
        for part in self.modules():
            if isinstance(part, Attention):
                part.heads = part.sliceable_head_dim = num_heads
                part.scale = (part.inner_dim // num_heads) ** -0.5

    # diffusers reads from the signature which entries of a saved config are settings.
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *list(inspect.signature(UNet2DModel.__init__).parameters.values()),
            inspect.Parameter("num_heads", inspect.Parameter.KEYWORD_ONLY, default=8, annotation=int),
        ]
    )
