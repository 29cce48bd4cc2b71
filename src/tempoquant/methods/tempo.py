"""tempo and tempo-fast: what measured best of the published ideas, composed.

Both keep to the width of every weight and of every image-dependent activation but two:

- the temporal layers become a float16 table (Temporal Feature Matters, TPAMI 2025), as in ``tfmq-cache``; where they
  see a condition too, TIAR and FSC quantize them, as in ``tfmq-dm``;
- every other activation has an interval of its own at each step (FSC applied to all layers, as TFMQ-DM's public code
  does), which the integer engine runs at no cost;
- the first image layer sees ``x_t`` in 16 bits, the last its input in 8 or more: at the cleanest steps eight bits of
  ``x_t`` are coarser than the noise that is to be predicted. These two layers are a thousandth of the arithmetic;
- weights are rounded with error compensation on what the quantized network feeds them, for the inputs' deviations from
  their mean; the bias takes the mean error off (``weights.fit_bias``).

Reading ``released`` does the same under the precision policy of TFMQ-DM's public code, to be compared with that: float
for the first and last convolution, shortcuts, strided convolutions and attention products.

``tempo`` then learns the rounding of every unit from there (``--effort balanced`` is meant for it), and tunes scales,
biases and norms of the whole denoiser against full precision's predicted noise (``tuning``). ``tempo-fast`` stops
before anything is learned by gradients. docs/results.md has the ablation.
"""

from typing import Any

from tempoquant.methods.registry import method
from tempoquant.methods.tfmq_dm import RELEASED_POLICY

READINGS = ("paper", "released")
PAPER = "this project: the ablation in docs/results.md says what each part buys"


@method(
    "tempo-fast",
    paper=PAPER,
    summary="cached features, intervals by step, fitted biases: minutes on a laptop",
    readings=READINGS,
)
def tempo_fast(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of tempo-fast."""
    first = {"match": "@first", "activation_bits": max(16, activations)}
    last = {"match": "@last", "activation_bits": max(8, activations)}
    features = {"cache": "float16", "cache_choice": "time-alone"}
    entries = {
        "weights": {"range": "mse", "rounding": "reconstruct", "fit_bias": True},
        "activations": {"range": "percentile", "steps": "per-step"},
        "temporal": {"reconstruction": "tiar", "calibration": "finite-set", **features},
    }
    if reading == "paper":
        return entries | {"policy": (first, last)}
    return entries | {"attention": {"quantize": False}, "policy": RELEASED_POLICY}


@method(
    "tempo",
    paper=PAPER,
    summary="tempo-fast, then rounding learned by unit and everything tuned as a whole",
    readings=READINGS,
)
def tempo(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of tempo."""
    return tempo_fast(reading, activations) | {"tuning": {"iterations": 100, "batch": 8}}
