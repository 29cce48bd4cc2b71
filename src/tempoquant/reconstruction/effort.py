"""How much work reconstruction spends: settings behind ``--effort``."""

from dataclasses import dataclass

from tempoquant.errors import unknown


@dataclass(frozen=True)
class Effort:
    """Settings of weight reconstruction.

    Attributes:
        compensate: start from error-compensated rounding in closed form; otherwise from the weight itself.
        iterations: learned-rounding iterations for every unit (0: none). batch: rows an iteration sees.
        temporal_iterations: the same for the temporal information block, on all its rows at once.
        lr: Adam's step size.
        vectors: most input vectors a layer's moments are taken from, as a multiple of their length K.
    """

    compensate: bool
    iterations: int
    batch: int
    temporal_iterations: int
    lr: float
    vectors: int = 8


EFFORTS = {
    "fast": Effort(compensate=True, iterations=0, batch=8, temporal_iterations=500, lr=1e-2),
    "balanced": Effort(compensate=True, iterations=200, batch=8, temporal_iterations=2000, lr=1e-2),
    "paper": Effort(compensate=False, iterations=20_000, batch=32, temporal_iterations=20_000, lr=1e-3),
}


def effort(name: str) -> Effort:
    """The settings called ``name``."""
    if name not in EFFORTS:
        raise unknown("effort", name, EFFORTS)
    return EFFORTS[name]
