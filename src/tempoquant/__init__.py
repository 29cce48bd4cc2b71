"""Time-step-aware quantization for diffusion models."""

from typing import TYPE_CHECKING

from tempoquant.registration import register

if TYPE_CHECKING:
    from tempoquant.api import load, quantize, train
    from tempoquant.diagnosis import Diagnosis, diagnose
    from tempoquant.exporting import export, load_exported
    from tempoquant.methods import method_recipe
    from tempoquant.quantized import QuantizedPipeline, prompt_tables, replayed
    from tempoquant.recipe import Recipe
    from tempoquant.sampling import Denoiser
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "Denoiser",
    "Diagnosis",
    "QuantizedPipeline",
    "Recipe",
    "diagnose",
    "export",
    "load",
    "load_exported",
    "method_recipe",
    "prompt_tables",
    "quantize",
    "replayed",
    "train",
]
__version__ = "0.1.0"


register()
