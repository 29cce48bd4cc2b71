"""One row of a denoiser's conditions: to trace it, and to see what its layers follow."""

from collections.abc import Mapping
from typing import Any

from tempoquant.arguments import samples_of
from tempoquant.errors import InputError
from tempoquant.pipelines.conditioning import row_of
from tempoquant.pipelines.diffusers_model import DiffusersModel
from tempoquant.pipelines.families import EXAMPLES, family_of
from tempoquant.pipelines.model import Model
from tempoquant.sampling import Unbatched, build_scheduler


def example_conditions(
    model: Model, conditioning: Mapping[str, Any] | None = None, *, steps: int, sampler: str | None
) -> dict[str, Any]:
    """Keyword arguments of the denoiser, tensors of one row each; dictionaries may nest. Empty if it needs none.

    A pipeline makes them of a prompt or class label, and its denoiser does not run. Those of a bare denoiser are the
    first row of ``conditioning``, or else invented, where its family tells of a prompt or class label.

    Args:
        model: the model.
        conditioning: as ``Model.generate`` takes it; None: any will do.
        steps: of a schedule it can run.
        sampler: of that schedule.

    Raises:
        InputError: it needs what cannot be invented, or is called with something that is no tensor with a row a sample.
    """
    if isinstance(model, DiffusersModel):
        if model.plain:
            return {}
        drawn_from = _invented(model) if conditioning is None else conditioning
        first = samples_of(drawn_from, slice(1))
        call = model.first_call(first, build_scheduler(model.denoiser.scheduler, sampler), steps)
        return row_of(call.conditioning, 0, len(call.sample))
    if conditioning is not None:
        return row_of(conditioning, 0, _rows(conditioning))
    family = family_of(model.denoiser.module)
    return {} if family is None else family.example(model.denoiser.module)


def _invented(model: DiffusersModel) -> dict[str, Any]:
    """What a pipeline draws one sample from."""
    if model.condition is None:
        return {}
    if model.condition not in EXAMPLES:
        raise InputError(f"{model.name} draws from {model.condition!r}: give an example of it (conditioning)")
    return {model.condition: EXAMPLES[model.condition]}


def vectors_of(example: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the conditions of a number or vector an item, which layers that see the time step may see too."""
    found: list[str] = []
    for name, value in example.items():
        if isinstance(value, Mapping):
            found += vectors_of(value, f"{prefix}{name}.")
        elif not isinstance(value, Unbatched) and value.dim() < 3 and "mask" not in name:
            found.append(prefix + name)
    return found


def unbatched_of(example: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the conditions without a batch dimension."""
    nested = {name: value for name, value in example.items() if isinstance(value, Mapping)}
    found = [prefix + name for name, value in example.items() if isinstance(value, Unbatched)]
    return found + [part for name, value in nested.items() for part in unbatched_of(value, f"{prefix}{name}.")]


def _rows(conditioning: Mapping[str, Any]) -> int:
    first = next(value for value in conditioning.values() if not isinstance(value, Unbatched))
    return _rows(first) if isinstance(first, Mapping) else len(first)
