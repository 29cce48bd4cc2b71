"""How often a training run does what besides training."""

from dataclasses import dataclass

from tempoquant.errors import InputError


@dataclass(frozen=True)
class Rhythm:
    """How often a run logs, saves and draws samples, in steps; 0 for never."""

    log: int = 10
    save: int = 200
    samples: int = 0

    def __post_init__(self) -> None:
        for name in ("log", "save", "samples"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} every {getattr(self, name)} steps: 0 (never) or more")
