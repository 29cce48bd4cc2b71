"""What a user calls a model: resolving names, model families, conditions, a pipeline's own call."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempoquant.pipelines.building import parameters_within
    from tempoquant.pipelines.call import Arguments, DenoiserCall, OnCall
    from tempoquant.pipelines.conditioning import condition_rows, condition_variants
    from tempoquant.pipelines.diffusers_model import DiffusersModel
    from tempoquant.pipelines.examples import example_conditions, unbatched_of, vectors_of
    from tempoquant.pipelines.families import FAMILIES, Family, family
    from tempoquant.pipelines.fingerprint import state_hash, tensor_hash
    from tempoquant.pipelines.images import check_image, check_samples, is_image, to_images
    from tempoquant.pipelines.model import BareModel, Model
    from tempoquant.pipelines.names import BUNDLED, COMPONENTS, check_model_name
    from tempoquant.pipelines.precision import conditioning_in_float32, in_float32
    from tempoquant.pipelines.prompts import read_prompts
    from tempoquant.pipelines.resolving import load_pipeline, resolve
    from tempoquant.pipelines.running import replaced
else:
    from tempoquant.imports import lazy_face

    __getattr__, __dir__ = lazy_face(__name__, __file__)

__all__ = [
    "BUNDLED",
    "COMPONENTS",
    "FAMILIES",
    "Arguments",
    "BareModel",
    "DenoiserCall",
    "DiffusersModel",
    "Family",
    "Model",
    "OnCall",
    "check_image",
    "check_model_name",
    "check_samples",
    "condition_rows",
    "condition_variants",
    "conditioning_in_float32",
    "example_conditions",
    "family",
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
    "unbatched_of",
    "vectors_of",
]
