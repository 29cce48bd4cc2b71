"""Rounding to nearest: the floor that every table shows.

Per-channel min-max weights rounded to nearest, one min-max interval an activation over all time steps, temporal layers
treated like any other, under the precision policy of the paper readings. No published method: the baseline that all of
them start from.
"""

from typing import Any

from tempoquant.methods.registry import ends_at_8_bits, method


@method("rtn", paper="none (baseline)", summary="round to nearest on min-max ranges")
def rtn(reading: str, activations: int) -> dict[str, Any]:
    """Recipe entries of plain rounding."""
    return {
        "weights": {"range": "minmax", "rounding": "nearest"},
        "activations": {"range": "minmax", "steps": "constant"},
        "temporal": {"reconstruction": "nearest", "calibration": "constant"},
        "policy": ends_at_8_bits(activations),
    }
