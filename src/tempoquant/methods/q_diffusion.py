"""Q-Diffusion: time-step-aware calibration, shortcuts quantized in two parts, learned steps (Li et al., ICCV 2023).

Calibration inputs come from all denoising steps alike (section 4.1). Blocks are reconstructed as in BRECQ, temporal
layers inside the blocks they belong to, and activation steps learn afterwards against the block's output: only
scales, zero points fixed, Adam at 4e-4 with a cosine to 0, p = 2.4, 5,000 iterations, batch 32 at effort ``paper``. The
shortcut of an up block sees a concatenation of two parts with different ranges, each quantized by itself (section 4.2).

Every Linear and Conv2d has the recipe's bits, the time embedding, shortcuts, resampling and both ends too; q, k and v
the activation bits, the softmax output 8 (unsigned).

Two readings. ``paper``: units learn their activation steps on inputs from the units quantized before them.
``released``: on full-precision inputs, as the public code does.

The integer engine runs it; a split shortcut needs two accumulations.
"""

from typing import Any

from tempoquant.methods.brecq import BLOCKWISE
from tempoquant.methods.registry import method


@method(
    "q-diffusion",
    paper="Li et al., Q-Diffusion, ICCV 2023 (arXiv 2302.04304)",
    summary="calibrated on all steps alike, activation steps learned, every layer at the same bits",
    readings=("paper", "released"),
)
def q_diffusion(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of Q-Diffusion in one of its readings."""
    inputs = "quantized" if reading == "paper" else "full-precision"
    return BLOCKWISE | {
        "weights": {**BLOCKWISE["weights"], "split_shortcuts": True},
        "activations": {**BLOCKWISE["activations"], "learn_inputs": inputs},
    }
