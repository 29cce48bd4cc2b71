"""Comparing both denoisers' noise predictions on the full-precision trajectory, where the scheduler takes them.

A scheduler sees the prediction after guidance, whatever the pipeline's guidance is, so both sides of a pair are caught
in its steps: a first run in full precision keeps each prediction, and in a second run, of the quantized denoiser, the
kept ones take the steps. Both runs thus see the same samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tempoquant.correction.sums import PairSums
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.pipelines import DenoiserCall, Model
from tempoquant.progress import Progress, Silent
from tempoquant.sampling import Stepper, with_step


@dataclass(frozen=True)
class Trajectories:
    """Trajectories to compare on.

    Attributes:
        indices: of the samples. conditioning: as ``Model.generate`` takes it, an entry a sample or more.
        run: steps, seed, sampler and eta of ``Model.generate``. batch_size: samples drawn together.
    """

    indices: Sequence[int]
    run: Mapping[str, Any]
    conditioning: Mapping[str, Any] | None = None
    batch_size: int = 16

    def batches(self) -> Iterator[dict[str, Any]]:
        """The arguments of ``Model.run_trajectories`` for one batch after the other."""
        for start in range(0, len(self.indices), self.batch_size):
            part = slice(start, min(start + self.batch_size, len(self.indices)))
            given = {name: _part(value, part) for name, value in (self.conditioning or {}).items()}
            indices = list(self.indices[part])
            yield {"samples": indices, "conditioning": given or None, "batch_size": len(indices), **self.run}


def compare_predictions(
    full: Model,
    quantized: Model,
    clock: Clock,
    trajectories: Trajectories,
    variants: Sequence[Callable[[], None]],
    progress: Progress | None = None,
) -> list[PairSums]:
    """Sums over (full precision, quantized) predictions after guidance, by row of ``clock``, one for every variant.

    Args:
        variants: each is called before a run of ``quantized``, to change it; full precision runs once for all.

    Raises:
        InputError: the scheduler's time steps are not those that the denoiser sees.
    """
    sums = [PairSums(len(clock)) for _ in variants]
    batches = list(trajectories.batches())
    with (progress or Silent()).stage("correction", len(batches) * (1 + len(variants))) as advance:
        for batch in batches:
            kept: list[Tensor] = []
            _walk(full, _keeping(kept), batch)
            advance(1)
            for found, change in zip(sums, variants, strict=True):
                change()
                _walk(quantized, _replaying(iter(kept), found, clock), batch)
                advance(1)
    for row in {row for found in sums for row in found.missing}:
        t = float(clock.timesteps[row])
        raise InputError(f"the scheduler takes no step at t = {t:g}, which the denoiser sees: it cannot be corrected")
    return sums


def _walk(target: Model, stepper: Stepper, batch: Mapping[str, Any]) -> None:
    def nothing(seen: DenoiserCall) -> None:
        """The stepper sees all that is needed."""

    target.with_scheduler(with_step(target.denoiser.scheduler, stepper)).run_trajectories(on_call=nothing, **batch)


def _keeping(kept: list[Tensor]) -> Stepper:
    def keep(scheduler: Any, step: Any, *, model_output: Tensor, **options: Any) -> Any:
        kept.append(model_output.detach().clone())
        return step(model_output=model_output, **options)

    return keep


def _replaying(kept: Iterator[Tensor], sums: PairSums, clock: Clock) -> Stepper:
    def replay(
        scheduler: Any, step: Any, *, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any
    ) -> Any:
        full, channels = next(kept), sample.shape[1]
        # A learned variance is no prediction of the noise.
        sums.add(int(clock.rows(timestep)), full[:, :channels], model_output[:, :channels])
        return step(model_output=full, timestep=timestep, sample=sample, **options)

    return replay


def _part(value: Any, part: slice) -> Any:
    """The rows of a conditioning argument; what is no list or tensor serves all samples."""
    return value[part] if isinstance(value, (list, tuple, Tensor)) else value
