"""What a conditional model must be given, and what its denoiser then sees."""

import inspect
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import equal, perturbed
from tempoquant.errors import InputError, first_line
from tempoquant.sampling import Denoiser, device_of, evaluating, plain_call

if TYPE_CHECKING:
    from tempoquant.pipelines.model import DenoiserCall, Model

ROWS_AT_ONCE = 8
NEVER_CONDITIONING = ("return_dict", "cross_attention_kwargs")


class Enough(Exception):
    """Ends a run whose first denoiser call was all that was wanted."""


def check_unconditional(denoiser: Denoiser) -> None:
    """Raise InputError, naming what to give, if a bare denoiser cannot be called with sample and time step alone."""
    names, parameter = _keywords(denoiser), next(denoiser.module.parameters(), torch.empty(0))
    if not names:
        return
    device = device_of(denoiser.module)
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    try:
        with torch.inference_mode(), torch.random.fork_rng(), evaluating(denoiser.module):
            denoiser(torch.zeros((1, *denoiser.sample_shape), device=device, dtype=dtype), 0)
    except Exception as error:
        needed = " or ".join(map(repr, names))
        raise InputError(
            f"{denoiser.name} needs conditioning: give {needed}, one row a sample ({first_line(error)})"
        ) from error


def check_classes(module: nn.Module, labels: Any, count: int | None = None) -> None:
    """Raise InputError if a class label is none of ``count``, or else of those that a denoiser's config counts."""
    config: Any = getattr(module, "config", None) or {}
    count = count or config.get("num_embeds_ada_norm")
    if config.get("class_embed_type") is None:
        count = count or config.get("num_class_embeds")
    for label in labels if count else ():
        if isinstance(label, str | float):
            raise InputError(f"class label {label!r} is no whole number")
        if not 0 <= int(label) < count:
            raise InputError(f"class label {int(label)} is out of range: 0 to {count - 1}")


def _keywords(denoiser: Denoiser) -> list[str]:
    """Keyword arguments that a bare denoiser takes beside sample and time step: the required ones if there are any."""
    plain = denoiser.call is plain_call
    parameters = inspect.signature(denoiser.module.forward if plain else denoiser.call).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][2 if plain else 3 :]
    named = [p for p in named if p.name not in NEVER_CONDITIONING]
    return [p.name for p in named if p.default is p.empty] or [p.name for p in named]


def condition_variants(
    target: "Model", conditioning: Mapping[str, Any] | None, **run: Any
) -> Callable[[int, int], dict[str, Any]]:
    """``f(batch, variant)``: the denoiser's keyword arguments for two conditions (variants 0 and 1), batch rows each.

    They are what the denoiser sees at the first step for two of the given samples, or for two guidance branches of
    them, whichever differ more. What is the same in all of them differs by value alone: it may still decide a layer.

    Args:
        run: steps, seed, sampler and eta of ``Model.run_trajectories``.

    Raises:
        InputError: the denoiser is given something that is no tensor with a row a sample.
    """
    if not conditioning:
        return lambda batch, variant: {}
    seen = _first_call(target, conditioning, run)
    count = seen.sample.shape[0]
    rows = [row_of(seen.conditioning, i, count) for i in range(count)]
    pairs = list(combinations(rows, 2)) or [(rows[0], rows[0])]
    pair = max(pairs, key=lambda pair: _differing(*pair))
    # Most is compared under variant 0. SDXL's condition of no prompt is all zeros, whose attention shows no sample.
    first, second = sorted(pair, key=_nonzero, reverse=True)
    variants = (first, _varied(first, second))
    return lambda batch, variant: _batch(variants[variant], batch)


def condition_rows(target: "Model", conditioning: Mapping[str, Any], **run: Any) -> list[dict[str, Any]]:
    """The denoiser's keyword arguments for every given sample, batch 1 each: all that guidance makes of them.

    Args:
        conditioning: as ``Model.generate`` takes it. run: steps, sampler and eta of ``Model.run_trajectories``.

    Raises:
        InputError: the denoiser is given something that is no tensor with a row a sample.
    """
    many = {name: value for name, value in conditioning.items() if isinstance(value, (list, tuple, Tensor))}
    count = min((len(value) for value in many.values()), default=1)
    target.check_conditioning(conditioning, count)
    rows = []
    for start in range(0, count, ROWS_AT_ONCE):
        some = list(range(start, min(start + ROWS_AT_ONCE, count)))
        given = {name: _pick(value, some) if name in many else value for name, value in conditioning.items()}
        seen = _call_of(target, some, given, run)
        rows += [row_of(seen.conditioning, i, seen.sample.shape[0]) for i in range(seen.sample.shape[0])]
    return rows


def _first_call(target: "Model", conditioning: Mapping[str, Any], run: Mapping[str, Any]) -> "DenoiserCall":
    """What the denoiser is given at its first call for two samples of unlike conditions."""
    many = {name: value for name, value in conditioning.items() if isinstance(value, (list, tuple, Tensor))}
    count = min((len(value) for value in many.values()), default=1)

    def unlike(index: int) -> int:
        return sum(not equal(value[index], value[0]) for value in many.values())

    pair = [0, max(range(1, count), key=unlike)] if count > 1 else [0]
    some = {n: _pick(value, pair) if n in many else value for n, value in conditioning.items()}
    return _call_of(target, pair, some, run)


def _call_of(
    target: "Model", samples: list[int], conditioning: Mapping[str, Any], run: Mapping[str, Any]
) -> "DenoiserCall":
    """The first of the denoiser's calls."""
    calls: list[DenoiserCall] = []

    def visit(seen: "DenoiserCall") -> None:
        calls.append(seen)
        raise Enough

    try:
        target.run_trajectories(samples, visit, conditioning=conditioning, batch_size=len(samples), **run)
    except Enough:
        return calls[0]
    raise InputError(f"{target.name} made no denoiser call")


def _pick(value: Any, indices: list[int]) -> Any:
    return value[indices] if isinstance(value, Tensor) else [value[i] for i in indices]


def row_of(value: Mapping[str, Any], index: int, count: int, prefix: str = "") -> dict[str, Any]:
    """One row of nested keyword tensors, as a batch of one; copies, because inference tensors take no gradients."""
    row: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping):
            row[name] = row_of(part, index, count, f"{prefix}{name}.")
        elif isinstance(part, Tensor) and part.shape[:1] == (count,):
            row[name] = part[index : index + 1].clone()
        elif part is not None:
            found = f"of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise InputError(f"conditioning {prefix + name!r} is {found}: a tensor with a row a sample is needed")
    return row


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """How many tensors differ."""
    return sum(
        _differing(a[name], b[name]) if isinstance(a[name], Mapping) else not torch.equal(a[name], b[name])
        for name in a
    )


def _nonzero(row: Mapping[str, Any]) -> int:
    return sum(_nonzero(v) if isinstance(v, Mapping) else int(v.count_nonzero()) for v in row.values())


def _varied(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``second``, with other values where it equals ``first``; masks and zeros of a choice stay what they are."""
    made: dict[str, Any] = {}
    for name, value in second.items():
        if isinstance(value, Mapping):
            made[name] = _varied(first[name], value)
        elif "mask" in name or value.dtype == torch.bool or not torch.equal(first[name], value):
            made[name] = value
        else:
            # Of an integer only zero is known to be valid too.
            made[name] = perturbed(value) if value.is_floating_point() else torch.zeros_like(value)
    return made


def _batch(row: Mapping[str, Any], batch: int) -> dict[str, Any]:
    return {
        name: _batch(value, batch) if isinstance(value, Mapping) else value.repeat_interleave(batch, 0)
        for name, value in row.items()
    }
