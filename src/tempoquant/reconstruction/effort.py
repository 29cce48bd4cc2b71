"""How much work reconstruction spends: settings behind ``--effort``."""

from dataclasses import dataclass

from tempoquant.errors import unknown


@dataclass(frozen=True)
class StepEffort:
    """Settings of activation-step learning.

    Attributes:
        iterations: for every unit.
        batch: rows an iteration sees.
        lr: Adam's step size at the start; it falls to 0 along a cosine.
        relative: it is a share of each step size.
        generator_lr: the same for the parameters of generators.
    """

    iterations: int = 30
    batch: int = 8
    lr: float = 1e-2
    relative: bool = True
    generator_lr: float = 1e-2


@dataclass(frozen=True)
class Effort:
    """Settings of reconstruction.

    Attributes:
        compensate: start from error-compensated rounding in closed form; otherwise from the weight itself.
        iterations: learned-rounding iterations for every unit (0: none).
        batch: rows an iteration sees.
        temporal_iterations: the same for the temporal information block, on all its rows at once.
        lr: Adam's step size.
        vectors: most input vectors a layer's moments are taken from, as a multiple of their length K.
        steps: how activation steps learn.
    """

    compensate: bool
    iterations: int
    batch: int
    temporal_iterations: int
    lr: float
    vectors: int = 8
    steps: StepEffort = StepEffort()


EFFORTS = {
    "fast": Effort(compensate=True, iterations=0, batch=8, temporal_iterations=500, lr=1e-2),
    "balanced": Effort(
        compensate=True,
        iterations=200,
        batch=8,
        temporal_iterations=2000,
        lr=1e-2,
        steps=StepEffort(iterations=100, batch=16, lr=5e-3, generator_lr=5e-3),
    ),
    "paper": Effort(
        compensate=False,
        iterations=20_000,
        batch=32,
        temporal_iterations=20_000,
        lr=1e-3,
        steps=StepEffort(iterations=5000, batch=32, lr=4e-4, relative=False, generator_lr=4e-4),
    ),
}


def effort(name: str) -> Effort:
    """The settings called ``name``."""
    if name not in EFFORTS:
        raise unknown("effort", name, EFFORTS)
    return EFFORTS[name]
