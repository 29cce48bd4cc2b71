"""How to quantize, as data: validated, versioned, the same in YAML, JSON and Python. Methods are known by name only."""

from tempoquant.recipe.basics import FLOAT_BITS, MOST, WIDTHS, Count, Part, check_bits
from tempoquant.recipe.checks import check_storable, check_training
from tempoquant.recipe.fragment import keep_higher, read_fragment, with_overrides
from tempoquant.recipe.learning import Correction, Training, Tuning
from tempoquant.recipe.parts import Activations, Attention, Calibration, Override, Rotation, Temporal, Weights
from tempoquant.recipe.recipe import Recipe
from tempoquant.recipe.wording import refused

__all__ = [
    "FLOAT_BITS",
    "MOST",
    "WIDTHS",
    "Activations",
    "Attention",
    "Calibration",
    "Correction",
    "Count",
    "Override",
    "Part",
    "Recipe",
    "Rotation",
    "Temporal",
    "Training",
    "Tuning",
    "Weights",
    "check_bits",
    "check_storable",
    "check_training",
    "keep_higher",
    "read_fragment",
    "refused",
    "with_overrides",
]
