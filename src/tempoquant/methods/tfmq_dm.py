"""TFMQ-DM: temporal feature maintenance quantization (Huang et al., CVPR 2024; TPAMI 2025).

The layers that see only the time step form one temporal information block. Its weights are rounded together against
its own outputs over all time steps (TIAR, section 4.2) and stay frozen while the other units are reconstructed in
execution order; its activations are a finite set, calibrated exactly for each step (FSC, section 4.3).

Two readings.

``paper``: every Linear and Conv2d and the attention products at the recipe's bits; activations of other layers with one
interval each, the central 99.9 % of the recorded values (the paper names no range; of min-max, MSE and percentile this
one measures best). Below 8 bits the inputs of the first and last layer keep 8.

``released``: as the public code does. A table of moving-average ranges for *every* activation, attention products in
float, and float for the first time embedding layer, the first and last convolution, shortcuts and strided convolutions
(and for the inputs of the second time embedding layer and of the second convolution).
"""

from typing import Any

from tempoquant.methods.registry import ends_at_8_bits, method

RELEASED_POLICY = (
    {"match": "@shared[0]", "weight_bits": 32, "activation_bits": 32},
    {"match": "@shared[1]", "activation_bits": 32},
    {"match": "@first", "weight_bits": 32, "activation_bits": 32},
    {"match": "@second", "activation_bits": 32},
    {"match": "@last", "weight_bits": 32, "activation_bits": 32},
    {"match": "@shortcut", "weight_bits": 32, "activation_bits": 32},
    {"match": "@strided", "weight_bits": 32, "activation_bits": 32},
)


@method(
    "tfmq-dm",
    paper="Huang et al., TFMQ-DM, CVPR 2024 (arXiv 2311.16503)",
    summary="temporal layers reconstructed and calibrated by themselves (TIAR, FSC)",
    readings=("paper", "released"),
    needs="recorded trajectories, a temporal block",
)
def tfmq_dm(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of TFMQ-DM in one of its readings."""
    common = {
        "weights": {"range": "mse", "rounding": "reconstruct"},
        "temporal": {"reconstruction": "tiar", "calibration": "finite-set"},
    }
    if reading == "paper":
        ranges = {"range": "percentile", "steps": "constant"}
        return common | {"activations": ranges, "policy": ends_at_8_bits(activations)}
    return common | {
        "activations": {"range": "ema", "steps": "per-step"},
        "attention": {"quantize": False},
        "policy": RELEASED_POLICY,
    }
