"""Schedulers, noise, and trajectories of a denoiser."""

from tempoquant.sampling.denoiser import Denoiser, plain_call, unwrapped
from tempoquant.sampling.noise import pipeline_generators, sample_indices, step_generators
from tempoquant.sampling.quadratic import QuadraticDDIMScheduler
from tempoquant.sampling.recorded import meet_schedule, tables_for
from tempoquant.sampling.sampling import (
    Observer,
    check_finite,
    check_rows,
    check_run,
    device_of,
    evaluating,
    sample,
    sampling_step,
)
from tempoquant.sampling.schedule_tables import TablesBySchedule
from tempoquant.sampling.schedulers import (
    SAMPLERS,
    Stepper,
    build_scheduler,
    check_eta,
    set_steps,
    stepper_of,
    with_step,
)

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "Observer",
    "QuadraticDDIMScheduler",
    "Stepper",
    "TablesBySchedule",
    "build_scheduler",
    "check_eta",
    "check_finite",
    "check_rows",
    "check_run",
    "device_of",
    "evaluating",
    "meet_schedule",
    "pipeline_generators",
    "plain_call",
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
