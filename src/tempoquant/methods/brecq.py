"""BRECQ: block reconstruction (Li et al., ICLR 2021) applied to a denoiser as it is: the papers' "Prev".

Every unit's weights are rounded against the unit's full-precision output (equation 10 with the mean squared error, as
released), temporal layers inside the blocks they belong to. Then the activation steps of each unit learn against the
same output, zero points fixed (Adam at 4e-4, cosine to 0, p = 2.4, 5,000 iterations at effort ``paper``). Calibrated
on inputs of all time steps alike; one interval an activation, started by the 2.4-norm search.

Two readings.

``paper``: every Linear and Conv2d and the attention products at the recipe's bits; weights and inputs of the first and
the last layer at 8. Units learn on inputs from the units quantized before them.

``released``: as PTQD's code sets BRECQ up for a denoiser, but for its per-tensor weight scales. 8 bits for the first
time embedding layer too; shortcuts, strided convolutions and attention products in float; activation steps learn on
full-precision inputs.

The integer engine runs it: constant intervals and integer weights are all there is (a float layer stays a float layer).
"""

from typing import Any

from tempoquant.methods.registry import method

BLOCKWISE: dict[str, Any] = {
    "weights": {"range": "mse", "rounding": "reconstruct"},
    "activations": {"range": "mse", "steps": "constant", "learn": True},
    "temporal": {"reconstruction": "block", "calibration": "block"},
}
"""Units rounded and their activation steps learned against their own outputs, temporal layers like any other."""


def layers_at_8_bits(activations: int, *roles: str) -> tuple[dict[str, Any], ...]:
    """Policy entries: 8-bit weights for the layers of these roles, and 8-bit inputs where the recipe has fewer."""
    inputs = {"activation_bits": 8} if activations < 8 else {}
    return tuple({"match": role, "weight_bits": 8, **inputs} for role in roles)


@method(
    "brecq",
    paper="Li et al., BRECQ, ICLR 2021 (arXiv 2102.05426)",
    summary="blocks reconstructed with their embedding layers, activation steps learned (the papers' Prev)",
    readings=("paper", "released"),
)
def brecq(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of block reconstruction in one of its readings."""
    if reading == "paper":
        return BLOCKWISE | {"policy": layers_at_8_bits(activations, "@first", "@last")}
    in_float = tuple({"match": r, "weight_bits": 32, "activation_bits": 32} for r in ("@shortcut", "@strided"))
    return BLOCKWISE | {
        "activations": BLOCKWISE["activations"] | {"learn_inputs": "full-precision"},
        "attention": {"quantize": False},
        "policy": (*in_float, *layers_at_8_bits(activations, "@shared[0]", "@first", "@last")),
    }
