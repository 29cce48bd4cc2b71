"""Telling diffusers who loads folders of this package, without importing diffusers before the user does."""

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from tempoquant.imports import after_import

QUANT_METHOD = "tempoquant"
"""The ``quant_method`` of our ``quantization_config``, by which diffusers finds what loads a module."""
MODULES = ("class_latent", "class_pipeline", "heads_unet")
"""Modules of classes that a ``model_index.json`` may name: diffusers takes such from imported modules alone."""
HOMES = ("tempoquant.models", "tempoquant.pipelines")
"""Where they are, and where they were: older folders name that."""


def register() -> None:
    """Let ``from_pretrained`` of diffusers load quantized folders, whether diffusers is imported before or after."""
    after_import("diffusers.quantizers.auto", _register_quantizer)
    # Models of diffusers import no pipelines, so all that these classes derive from can be imported by then.
    after_import("diffusers.pipelines.pipeline_utils", _import_components)


@dataclass(frozen=True)
class _Deferred:
    """Stands for a class, which is imported when diffusers makes an object of it.

    Attributes:
        name: ``module:class``.
    """

    name: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        return pkgutil.resolve_name(self.name)(*args, **options)

    def from_dict(self, entries: dict[str, Any]) -> Any:
        """The configuration of these entries, as ``QuantizationConfigMixin.from_dict`` makes it."""
        return pkgutil.resolve_name(self.name).from_dict(entries)


def _register_quantizer() -> None:
    """Add to diffusers' two tables of quantization methods. Their import is not over yet where that of models began."""
    auto = importlib.import_module("diffusers.quantizers.auto")
    module = "tempoquant.checkpoint.hf_quantizer"
    auto.AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = _Deferred(f"{module}:TempoquantQuantizer")
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = _Deferred(f"{module}:TempoquantConfig")


def _import_components() -> None:
    for home in HOMES:
        for name in MODULES:
            importlib.import_module(f"{home}.{name}")
