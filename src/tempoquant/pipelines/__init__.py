"""Sampling: diffusers pipelines and bare denoisers, seeds, schedulers. A leaf."""

from tempoquant.pipelines.conditioning import condition_variants
from tempoquant.pipelines.denoiser import Call, Conditioning, Denoiser, plain_call
from tempoquant.pipelines.diffusers_target import DiffusersTarget
from tempoquant.pipelines.examples import example_conditions, vectors_of
from tempoquant.pipelines.fingerprint import state_hash
from tempoquant.pipelines.images import check_image, check_samples, is_image, to_images
from tempoquant.pipelines.noise import noise
from tempoquant.pipelines.resolve import resolve
from tempoquant.pipelines.sampling import Observer, sample
from tempoquant.pipelines.schedulers import SAMPLERS, Stepper, build_scheduler, set_steps, stepper_of, with_step
from tempoquant.pipelines.targets import BareTarget, Seen, Target, Visit

__all__ = [
    "SAMPLERS",
    "BareTarget",
    "Call",
    "Conditioning",
    "Denoiser",
    "DiffusersTarget",
    "Observer",
    "Seen",
    "Stepper",
    "Target",
    "Visit",
    "build_scheduler",
    "check_image",
    "check_samples",
    "condition_variants",
    "example_conditions",
    "is_image",
    "noise",
    "plain_call",
    "resolve",
    "sample",
    "set_steps",
    "state_hash",
    "stepper_of",
    "to_images",
    "vectors_of",
    "with_step",
]
