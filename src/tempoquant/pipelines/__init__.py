"""Sampling: diffusers pipelines and bare denoisers, seeds, schedulers. A leaf."""

from tempoquant.pipelines.building import parameters_within
from tempoquant.pipelines.conditioning import condition_rows, condition_variants
from tempoquant.pipelines.diffusers_model import LONGEST_SIDE, DiffusersModel, replaced
from tempoquant.pipelines.examples import example_conditions, vectors_of
from tempoquant.pipelines.fingerprint import state_hash, tensor_hash
from tempoquant.pipelines.images import check_image, check_samples, is_image, to_images
from tempoquant.pipelines.model import BareModel, DenoiserCall, Model, OnCall
from tempoquant.pipelines.precision import conditioning_in_float32, in_float32
from tempoquant.pipelines.prompts import read_prompts
from tempoquant.pipelines.resolve import import_file, load_pipeline, resolve

__all__ = [
    "LONGEST_SIDE",
    "BareModel",
    "DenoiserCall",
    "DiffusersModel",
    "Model",
    "OnCall",
    "check_image",
    "check_samples",
    "condition_rows",
    "condition_variants",
    "conditioning_in_float32",
    "example_conditions",
    "import_file",
    "in_float32",
    "is_image",
    "load_pipeline",
    "parameters_within",
    "read_prompts",
    "replaced",
    "resolve",
    "state_hash",
    "tensor_hash",
    "to_images",
    "vectors_of",
]
