"""Time-step-aware quantization for diffusion models."""

from tempoquant.api import load, quantize
from tempoquant.diagnosis import Diagnosis, diagnose
from tempoquant.methods import method_recipe
from tempoquant.pipelines import Denoiser
from tempoquant.quantized import QuantizedPipeline
from tempoquant.recipe import Recipe

__all__ = ["Denoiser", "Diagnosis", "QuantizedPipeline", "Recipe", "diagnose", "load", "method_recipe", "quantize"]
__version__ = "0.1.0"
