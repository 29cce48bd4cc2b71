"""One call of a denoiser, read by the names of its arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tempoquant.arguments import equal, named_arguments
from tempoquant.errors import InputError
from tempoquant.sampling import Unbatched

NOT_CONDITIONING = ("return_dict",)


@dataclass(frozen=True)
class Arguments:
    """Names of a denoiser's arguments.

    Attributes:
        sample: the noisy sample, (R, *sample_shape).
        time: the time step, a number, () or (R,).
        unbatched: dotted names of arguments without a batch dimension, such as the places of tokens.
    """

    sample: str
    time: str = "timestep"
    unbatched: tuple[str, ...] = ()


class DenoiserCall(NamedTuple):
    """What the denoiser was called with at one step of a batch of B samples, each in one or more branches.

    With classifier-free guidance a sample has two branches (with and without its condition), so R = 2 B rows;
    otherwise R = B. Row ``j`` is branch ``j // B`` of sample ``indices[j]``. Branches that a pipeline calls its
    denoiser for one after the other are one call here.
    """

    k: int
    """Step index, 0 the noisiest."""
    t: Tensor
    """(R,) time steps as the denoiser's argument saw them."""
    indices: Tensor
    """(R,) which sample a row belongs to."""
    sample: Tensor
    """(R, *sample_shape)."""
    conditioning: dict[str, Any]
    """Further keyword arguments; tensors have R rows, dictionaries may nest, what has no batch is ``Unbatched``."""


OnCall = Callable[[DenoiserCall], None]


def read_call(
    arguments: Arguments, k: int, batch: Sequence[int], module: nn.Module, args: tuple, kwargs: Mapping[str, Any]
) -> DenoiserCall:
    """A call of a denoiser by its arguments' names.

    Args:
        arguments: their names.
        k: step index.
        batch: (B,) which samples.
        module: the denoiser.
        args: of the call.
        kwargs: of the call.

    Raises:
        InputError: the sample is no tensor of one or more rows a sample, or its rows have time steps of their own
            shape.
    """
    named = named_arguments(module.forward, args, kwargs)
    x = named.pop(arguments.sample, None)
    if not isinstance(x, Tensor) or x.dim() < 2 or x.shape[0] % len(batch):
        raise InputError(
            f"{type(module).__name__} is called with a {_described(x)} as {arguments.sample} for {len(batch)} samples: "
            "a tensor of one or more rows a sample is needed; wrap it in a Denoiser with a call of your own"
        )
    t = torch.as_tensor(named.pop(arguments.time), device=x.device)
    if t.dim() > 1 or (t.dim() == 1 and t.shape[0] not in (1, x.shape[0])):
        raise InputError(
            f"{type(module).__name__} is called with time steps of shape {tuple(t.shape)} for {x.shape[0]} rows: one "
            "a row is needed; wrap it in a Denoiser with a call of your own"
        )
    indices = torch.tensor(list(batch)).repeat(x.shape[0] // len(batch))
    conditioning = {
        name: _marked(value, name, arguments.unbatched)
        for name, value in named.items()
        if name not in NOT_CONDITIONING and value is not None
    }
    return DenoiserCall(k, t.expand(x.shape[0]), indices, x, conditioning)


def _marked(value: Any, name: str, unbatched: Sequence[str]) -> Any:
    """An argument with what has no batch dimension marked."""
    if isinstance(value, Mapping):
        return {key: _marked(part, f"{name}.{key}", unbatched) for key, part in value.items()}
    alone = isinstance(value, bool | int | float | str) or (isinstance(value, Tensor) and value.dim() == 0)
    return Unbatched(value) if alone or (name in unbatched and value is not None) else value


def joined(calls: Sequence[DenoiserCall]) -> DenoiserCall:
    """The calls of one step, a guidance branch each, as one of all their rows.

    Raises:
        InputError: their samples or conditions cannot stand in one batch.
    """
    first = calls[0]
    if len(calls) == 1:
        return first
    conditioning = _joined([call.conditioning for call in calls], "")
    t, indices, sample = zip(*((call.t, call.indices, call.sample) for call in calls), strict=True)
    return DenoiserCall(first.k, torch.cat(t), torch.cat(indices), torch.cat(sample), conditioning)


def _joined(values: Sequence[Any], name: str) -> Any:
    first = values[0]
    if all(isinstance(value, Mapping) and value.keys() == first.keys() for value in values):
        return {key: _joined([value[key] for value in values], f"{name}.{key}".lstrip(".")) for key in first}
    if all(isinstance(value, Tensor) and value.shape[1:] == first.shape[1:] for value in values):
        return torch.cat(list(values))
    if all(isinstance(value, Unbatched) and equal(value.value, first.value) for value in values):
        return first
    if all(value is None for value in values):
        return None
    found = " and ".join(_described(value) for value in values)
    raise InputError(
        f"the guidance branches take {name or 'other arguments'} of unlike form ({found}), which no batch holds: draw "
        "without guidance, or give prompts of one length"
    )


def _described(value: Any) -> str:
    value = value.value if isinstance(value, Unbatched) else value
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
