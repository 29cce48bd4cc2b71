"""Before a run: per-step tables for its schedule, or one warning where it leaves the time steps they were made for."""

import warnings
from typing import Any

from tempoquant.pipelines.denoiser import Denoiser


def meet_schedule(denoiser: Denoiser, scheduler: Any) -> None:
    """Let tables be made for a run's time steps; or say once how far its worst is from the nearest recorded one.

    Args:
        denoiser: says nothing unless it has recorded steps. scheduler: its steps are set; a repeated one counts once.
    """
    if denoiser.bake is not None:
        denoiser.recorded = denoiser.bake(scheduler.timesteps)
    if denoiser.recorded is None:
        return
    steps = scheduler.timesteps.float().cpu().unique()
    distances, nearest = (steps[:, None] - denoiser.recorded[None]).abs().min(1)
    worst = int(distances.argmax())
    if distances[worst] > 0:
        warnings.warn(
            f"{int((distances > 0).sum())} of this run's {len(steps)} time steps were not calibrated, and take the "
            f"nearest of {len(denoiser.recorded)} recorded ones: the farthest, t = {steps[worst]:g}, is "
            f"{distances[worst]:g} away from t = {denoiser.recorded[nearest[worst]]:g}",
            stacklevel=2,
        )
