"""Freeze: the two ablations that show what hurts temporal layers (TFMQ-DM, Huang et al., CVPR 2024).

``freeze-reconstruction`` (the main ablation table): as ``brecq``, but weights of the layers that see only the time step
are left out of the blocks' reconstruction and rounded to nearest on their initial scales.

``freeze-calibration`` (appendix): as ``brecq``, but the activation intervals of these layers stay at min-max, one for
all time steps, while those of other layers are searched and learned.

Precision policy and everything else as in ``brecq``, reading ``paper``. The integer engine runs both.
"""

from typing import Any

from tempoquant.methods.brecq import brecq
from tempoquant.methods.registry import method

PAPER = "Huang et al., TFMQ-DM, CVPR 2024 (arXiv 2311.16503), ablations"


@method(
    "freeze-reconstruction",
    paper=PAPER,
    summary="brecq with temporal layers rounded to nearest instead of with their blocks",
)
def freeze_reconstruction(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of block reconstruction without temporal layers."""
    return brecq(reading, activations) | {"temporal": {"reconstruction": "nearest", "calibration": "block"}}


@method(
    "freeze-calibration",
    paper=PAPER,
    summary="brecq with the intervals of temporal layers left at min-max",
)
def freeze_calibration(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of block reconstruction whose temporal intervals do not learn."""
    return brecq(reading, activations) | {"temporal": {"reconstruction": "block", "calibration": "constant"}}
