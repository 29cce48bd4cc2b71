"""PTQD: accurate post-training quantization for diffusion models (He et al., NeurIPS 2023, arXiv 2305.10657).

The quantization noise of the predicted noise is measured at every step of the full-precision trajectory, after
guidance, and split into a part that follows the prediction and a residual. While sampling, the first is divided out and
the residual's mean taken off (section 4.2); what the residual adds to the sample's variance is taken from the noise
that a stochastic step adds (section 4.3). Step-aware mixed precision (section 4.4) gives each step the fewest
activation bits whose noise stays below the forward process's; name its candidates (``correction.step_bits``) to use it.

The correction acts outside of the denoiser, on top of any method: ``--correction ptqd``. This method is the correction
on the weights and activations that the paper starts from, BRECQ's.

``paper``: block reconstruction, embedding layers inside their blocks; one interval an activation; first and last layer
keep 8 activation bits. Its learned activation step sizes are not among these stages: ranges are searched (MSE).

``released``: the ImageNet scripts. The first time embedding layer, the first and the last convolution at 8 bits,
shortcuts, strided convolutions and attention products in float. They have one weight scale a tensor, where ours are by
channel, and round those 8-bit layers to nearest, where ours are reconstructed: a recipe cannot say either.
"""

from typing import Any

from tempoquant.methods.registry import method

CORRECTIONS: dict[str, dict[str, Any]] = {
    "ptqd": {"kind": "correlated"},
    "mmse": {"kind": "mmse"},
    "none": {"kind": "none"},
}
"""What ``--correction`` takes: a recipe's ``correction``."""

RELEASED_POLICY = (
    {"match": "@shared[0]", "weight_bits": 8, "activation_bits": 8},
    {"match": "@first", "weight_bits": 8, "activation_bits": 8},
    {"match": "@last", "weight_bits": 8, "activation_bits": 8},
    {"match": "@shortcut", "weight_bits": 32, "activation_bits": 32},
    {"match": "@strided", "weight_bits": 32, "activation_bits": 32},
)


@method(
    "ptqd",
    paper="He et al., PTQD, NeurIPS 2023 (arXiv 2305.10657)",
    summary="block reconstruction; quantization noise corrected while sampling",
    readings=("paper", "released"),
)
def ptqd(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of PTQD in one of its readings."""
    common = {
        "weights": {"range": "mse", "rounding": "reconstruct"},
        "activations": {"range": "mse", "steps": "constant"},
        "temporal": {"reconstruction": "block", "calibration": "constant"},
        "correction": CORRECTIONS["ptqd"],
    }
    if reading == "released":
        return common | {"attention": {"quantize": False}, "policy": RELEASED_POLICY}
    # At 8 bits too, since step-wise bits may go below.
    ends = tuple({"match": role, "activation_bits": 8} for role in ("@first", "@last"))
    return common | {"policy": ends if activations <= 8 else ()}
