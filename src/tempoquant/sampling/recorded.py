"""Per-step tables of a run: made for its schedule, or one warning where it leaves the time steps they are made for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from tempoquant.sampling.denoiser import Denoiser


@contextmanager
def tables_for(denoiser: Denoiser, timesteps: Tensor) -> Iterator[None]:
    """Within the block tables are those of a run; or say once how far its worst step is from the nearest recorded one.

    Args:
        denoiser: says nothing unless it has recorded steps.
        timesteps: (K,) of the run, as the denoiser's argument sees them; a repeated one counts once.
    """
    if denoiser.bake is None:
        _warn_of_unseen_steps(denoiser.recorded, timesteps)
        yield
        return
    with denoiser.bake.during(timesteps) as denoiser.recorded:
        _warn_of_unseen_steps(denoiser.recorded, timesteps)
        yield


def prepare_tables_for_schedule(denoiser: Denoiser, timesteps: Tensor) -> None:
    """Let tables be those of a run's schedule until another run needs others; see :func:`tables_for`."""
    with tables_for(denoiser, timesteps):
        pass


def _warn_of_unseen_steps(recorded: Tensor | None, timesteps: Tensor) -> None:
    if recorded is None:
        return
    steps = timesteps.float().cpu().unique()
    distances, nearest = (steps[:, None] - recorded[None]).abs().min(1)
    worst = int(distances.argmax())
    if distances[worst] > 0:
        warnings.warn(
            f"{int((distances > 0).sum())} of this run's {len(steps)} time steps were not calibrated, and take the "
            f"nearest of {len(recorded)} recorded ones: the farthest, t = {steps[worst]:g}, is "
            f"{distances[worst]:g} away from t = {recorded[nearest[worst]]:g}",
            stacklevel=4,
        )
