"""The module's own configuration, repeated in the ``quantization_config``: what tensors alone do not determine."""

import json
from collections.abc import Mapping
from typing import Any

from diffusers import ConfigMixin
from torch import nn

from tempoquant.errors import FormatError


def module_settings(module: nn.Module) -> dict[str, Any]:
    """The configuration of a diffusers module as plain JSON data; empty for others."""
    config = dict(module.config) if isinstance(module, ConfigMixin) else {}
    settings = {name: config[name] for name in sorted(config) if name[0] != "_" and name != "quantization_config"}
    return json.loads(json.dumps(settings, default=list))


def check_settings(module: nn.Module, stored: Mapping[str, Any]) -> None:
    """Raise FormatError if ``module`` was built with other settings than the stored ones.

    Those that its class does not know, in another version of diffusers, are left out, and folders of before have none.
    """
    built = module_settings(module)
    for name in stored.keys() & built.keys():
        if stored[name] != built[name]:
            raise FormatError(
                f"the configuration has {name} = {str(built[name])[:60]}, not {str(stored[name])[:60]}, "
                "with which the denoiser was quantized"
            )
