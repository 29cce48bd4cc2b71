"""TDQ: temporal dynamic quantization after training (So et al., NeurIPS 2023, section 5).

The step size of every activation is generated from the time step by a small network, ``s(t) = softplus(MLP(enc(t)))``,
zero point fixed. A unit's networks learn together against the unit's full-precision output (p = 2.4, 5,000 iterations
at effort ``paper``; the learning rate is not given: 4e-4, cosine to 0, as for plain steps), then fold into one table
row a time step. Weights as in ``brecq``.

``tdq-ptq``: the network of the paper, a frequency encoding of t (128 values), four layers, 64 wide, dropout 0.2 while
learning. ``tdq-thin``: three layers, 16 wide, fed t / T, which overfits less on few calibration inputs.

Two readings. ``paper``: policy and inputs of ``brecq``, on whose code the paper's post-training part is built; temporal
layers get generated steps like all others. ``released``: the layers that the public code (which trains) quantizes:
float are the layers that see only the time step, both ends and the attention products.

The integer engine runs it: tables are all that stays.
"""

from typing import Any

from tempoquant.methods.brecq import BLOCKWISE, brecq
from tempoquant.methods.registry import method

PAPER = "So et al., TDQ, NeurIPS 2023 (arXiv 2306.02316)"
IN_FLOAT = tuple({"match": r, "weight_bits": 32, "activation_bits": 32} for r in ("@temporal", "@first", "@last"))


@method(
    "tdq-ptq",
    paper=PAPER,
    summary="activation steps generated from the time step by a network, folded into tables",
    readings=("paper", "released"),
)
def tdq_ptq(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of TDQ with the paper's network."""
    return _generated("tdq", reading, activations)


@method(
    "tdq-thin",
    paper=PAPER,
    summary="as tdq-ptq, with a smaller network",
    readings=("paper", "released"),
)
def tdq_thin(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of TDQ with the thin network."""
    return _generated("thin", reading, activations)


def _generated(network: str, reading: str, activations: int) -> dict[str, Any]:
    steps = {**BLOCKWISE["activations"], "steps": "generator", "generator": network}
    if reading == "paper":
        return brecq(reading, activations) | {"activations": steps}
    return BLOCKWISE | {"activations": steps, "attention": {"quantize": False}, "policy": IN_FLOAT}
