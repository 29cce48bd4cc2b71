"""One row of what a denoiser is given beside sample and time step: to trace it, and to see what its layers follow."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.pipelines.conditional import read_call
from tempoquant.pipelines.conditioning import Enough, row_of
from tempoquant.pipelines.diffusers_model import DiffusersModel
from tempoquant.pipelines.model import DenoiserCall, Model
from tempoquant.sampling import Denoiser

EXAMPLES = {"prompt": ["a"], "class_labels": [0]}
"""What a pipeline is asked for if it is not told."""
TEXT_LENGTH = 77


def example_conditions(
    target: Model, conditioning: Mapping[str, Any] | None = None, *, steps: int, sampler: str | None
) -> dict[str, Any]:
    """Keyword arguments of the denoiser, tensors of one row each; dictionaries may nest. Empty if it needs none.

    A pipeline makes them of a prompt or class label, and its denoiser does not run. Those of a bare denoiser are the
    first row of the given ones, or else invented, where its config tells of a prompt or class label.

    Args:
        conditioning: as ``Model.generate`` takes it; None: any will do. steps, sampler: of a schedule it can run.

    Raises:
        InputError: it needs what cannot be invented, or is given something that is no tensor with a row a sample.
    """
    if isinstance(target, DiffusersModel):
        if target.condition is None:
            return {}
        given = {target.condition: EXAMPLES[target.condition]} if conditioning is None else conditioning
        first = {name: v[:1] if isinstance(v, (list, tuple, Tensor)) else v for name, v in given.items()}
        seen = _first_call(target, first, steps, sampler)
        return row_of(seen.conditioning, 0, len(seen.sample))
    return _invented(target.denoiser) if conditioning is None else row_of(conditioning, 0, _rows(conditioning))


def vectors_of(example: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the conditions of a number or vector an item, which layers that see the time step may see too."""
    found: list[str] = []
    for name, value in example.items():
        if isinstance(value, Mapping):
            found += vectors_of(value, f"{prefix}{name}.")
        elif value.dim() < 3 and "mask" not in name:
            found.append(prefix + name)
    return found


def _first_call(target: DiffusersModel, given: Mapping[str, Any], steps: int, sampler: str | None) -> DenoiserCall:
    """What the pipeline gives its denoiser first; the call is not made."""
    calls: list[DenoiserCall] = []

    def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append(read_call(0, [0], module, args, kwargs))
        raise Enough

    # Before all other hooks: a denoiser that is frozen to given conditions refuses the rest.
    handle = target.denoiser.module.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        target.run_trajectories(1, lambda seen: None, conditioning=given, steps=steps, sampler=sampler, seed=0)
    except Enough:
        return calls[0]
    finally:
        handle.remove()
    raise InputError(f"{target.name} made no denoiser call")


def _rows(conditioning: Mapping[str, Any]) -> int:
    first = next(iter(conditioning.values()))
    return _rows(first) if isinstance(first, Mapping) else len(first)


def _invented(denoiser: Denoiser) -> dict[str, Any]:
    config: Any = getattr(denoiser.module, "config", {})
    if config.get("addition_embed_type") or config.get("encoder_hid_dim") or config.get("pooled_projection_dim"):
        raise InputError(
            f"{denoiser.name} takes more than a prompt's words: give an example of its conditions (conditioning)"
        )
    if "cross_attention_dim" in config and hasattr(denoiser.module, "down_blocks"):
        draw = torch.Generator().manual_seed(0)
        return {"encoder_hidden_states": torch.randn(1, TEXT_LENGTH, config["cross_attention_dim"], generator=draw)}
    if config.get("num_class_embeds") or config.get("num_embeds_ada_norm"):
        return {"class_labels": torch.zeros(1, dtype=torch.int64)}
    return {}
