"""Schedulers, noise, and trajectories of a denoiser."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.sampling.denoiser import Denoiser, Unbatched, plain_call, unwrapped
    from tempoquant.sampling.noise import pipeline_generators, sample_indices, step_generators
    from tempoquant.sampling.quadratic import QuadraticDDIMScheduler
    from tempoquant.sampling.recorded import prepare_tables_for_schedule, tables_for
    from tempoquant.sampling.samplers import SAMPLERS, check_sampler
    from tempoquant.sampling.sampling import (
        StepCallback,
        check_finite,
        check_rows,
        check_run,
        device_of,
        rows_of,
        sample,
        sampling_step,
    )
    from tempoquant.sampling.schedule_tables import TablesBySchedule
    from tempoquant.sampling.schedulers import (
        Stepper,
        build_scheduler,
        check_eta,
        check_steps,
        set_steps,
        stepper_of,
        with_step,
    )
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "QuadraticDDIMScheduler",
    "StepCallback",
    "Stepper",
    "TablesBySchedule",
    "Unbatched",
    "build_scheduler",
    "check_eta",
    "check_finite",
    "check_rows",
    "check_run",
    "check_sampler",
    "check_steps",
    "device_of",
    "pipeline_generators",
    "plain_call",
    "prepare_tables_for_schedule",
    "rows_of",
    "sample",
    "sample_indices",
    "sampling_step",
    "set_steps",
    "step_generators",
    "stepper_of",
    "tables_for",
    "unwrapped",
    "with_step",
]
