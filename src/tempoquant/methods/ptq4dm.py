"""PTQ4DM: calibration on generated inputs, more of them from steps close to the image (Shang et al., CVPR 2023).

Calibration steps are drawn, ``t_i ~ Normal(0.4, 0.4) T`` clamped to the schedule, where t = 0 is the cleanest step
(NDTC, section 3.3; the values are those of the released ImageNet script). The public collector compares ``t_i`` with a
loop that counts from the noisiest step and so mislabels its inputs; here each input has the time step it was given
with. The drawn inputs serve both the reconstruction of weights and the ranges of activations. Symmetric weights (a
scale an output channel) and symmetric activations, ranges by the 2.4-norm search; softmax outputs stay unsigned.

Every Linear and Conv2d and the attention products at the recipe's bits; weights and inputs of the first and the last
layer at 8. Temporal layers are treated like any other.

Two readings. ``paper``: weights reconstructed block by block, as comparisons at 4 bits do (without QDrop's random
drops, which the public code adds). ``released``: weights rounded to nearest, the public script's default.

The integer engine runs it: constant intervals and integer weights are all there is.
"""

from typing import Any

from tempoquant.methods.brecq import layers_at_8_bits
from tempoquant.methods.registry import method


@method(
    "ptq4dm",
    paper="Shang et al., PTQ4DM, CVPR 2023 (arXiv 2211.15736)",
    summary="calibration steps drawn from a normal distribution skewed towards the image (NDTC)",
    readings=("paper", "released"),
)
def ptq4dm(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of PTQ4DM in one of its readings."""
    rounding = "reconstruct" if reading == "paper" else "nearest"
    return {
        "weights": {"range": "mse", "symmetric": True, "rounding": rounding},
        "activations": {"range": "mse", "symmetric": True, "steps": "constant"},
        "temporal": {"reconstruction": "block", "calibration": "block"},
        "calibration": {"step_choice": "skewed-normal", "step_mean": 0.4, "step_std": 0.4},
        "policy": layers_at_8_bits(activations, "@first", "@last"),
    }
