"""Comparing both denoisers' noise predictions on the full-precision trajectory, where the scheduler takes them.

A scheduler sees the prediction after guidance, whatever the pipeline's guidance is, so both predictions of a pair are
read in its steps: a first run in full precision stores each prediction, and a second run, of the quantized denoiser,
steps with the stored ones. Both runs thus see the same samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tempoquant.arguments import samples_of
from tempoquant.correction.sums import PairSums
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.pipelines import DenoiserCall, Model
from tempoquant.progress import Progress, Silent
from tempoquant.sampling import Stepper, with_step


@dataclass(frozen=True)
class Trajectories:
    """Which trajectories predictions are compared on.

    Attributes:
        indices: of the samples.
        run: steps, seed, sampler and eta of ``Model.generate``.
        conditioning: as ``Model.generate`` takes it, an entry a sample or more.
        batch_size: samples drawn together.
    """

    indices: Sequence[int]
    run: Mapping[str, Any]
    conditioning: Mapping[str, Any] | None = None
    batch_size: int = 16

    def batches(self) -> Iterator[dict[str, Any]]:
        """The arguments of ``Model.run_trajectories`` for one batch after the other."""
        for start in range(0, len(self.indices), self.batch_size):
            part = slice(start, min(start + self.batch_size, len(self.indices)))
            conditioning = samples_of(self.conditioning, part)
            indices = list(self.indices[part])
            yield {"samples": indices, "conditioning": conditioning or None, "batch_size": len(indices), **self.run}


def compare_predictions(
    full: Model,
    quantized: Model,
    clock: Clock,
    trajectories: Trajectories,
    variants: Sequence[Callable[[], None]],
    progress: Progress | None = None,
) -> list[PairSums]:
    """Sum over pairs of full-precision and quantized predictions after guidance, by row of ``clock``.

    Args:
        full: the full-precision model.
        quantized: the quantized model.
        clock: whose rows the sums are by.
        trajectories: full-precision ones that both denoisers are compared on.
        variants: each is called before a run of ``quantized``, to change it; full precision runs once for all.
        progress: where it is shown.

    Returns:
        The sums of every variant.

    Raises:
        InputError: the scheduler's time steps are not those that the denoiser sees.
    """
    sums = [PairSums(len(clock)) for _ in variants]
    batches = list(trajectories.batches())
    with (progress or Silent()).stage("correction", len(batches) * (1 + len(variants))) as advance:
        for batch in batches:
            predictions: list[Tensor] = []
            _run_trajectories(full, _storing(predictions), batch)
            advance(1)
            for pair_sums, change in zip(sums, variants, strict=True):
                change()
                _run_trajectories(quantized, _comparing(iter(predictions), pair_sums, clock), batch)
                advance(1)
    for row in {row for pair_sums in sums for row in pair_sums.missing}:
        t = float(clock.timesteps[row])
        raise InputError(f"the scheduler takes no step at t = {t:g}, which the denoiser sees: it cannot be corrected")
    return sums


def _run_trajectories(model: Model, stepper: Stepper, batch: Mapping[str, Any]) -> None:
    def on_call(call: DenoiserCall) -> None:
        """Nothing: the stepper reads the predictions."""

    model.with_scheduler(with_step(model.denoiser.scheduler, stepper)).run_trajectories(on_call=on_call, **batch)


def _storing(predictions: list[Tensor]) -> Stepper:
    """Steps that append the prediction that they take."""

    def store(scheduler: Any, step: Any, *, model_output: Tensor, **options: Any) -> Any:
        predictions.append(model_output.detach().clone())
        return step(model_output=model_output, **options)

    return store


def _comparing(predictions: Iterator[Tensor], sums: PairSums, clock: Clock) -> Stepper:
    """Steps that take the stored predictions, and add each to ``sums`` with the one that is passed."""

    def compare(
        scheduler: Any, step: Any, *, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any
    ) -> Any:
        full, channels = next(predictions), sample.shape[1]
        # A learned variance is no prediction of the noise.
        sums.add(int(clock.rows(timestep)), full[:, :channels], model_output[:, :channels])
        return step(model_output=full, timestep=timestep, sample=sample, **options)

    return compare
