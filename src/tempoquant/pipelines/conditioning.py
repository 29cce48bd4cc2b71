"""What a conditional model draws from, checked, and the conditions that its denoiser is then called with."""

import inspect
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import equal, has_rows, perturbed
from tempoquant.errors import InputError, first_line
from tempoquant.modes import evaluating
from tempoquant.pipelines.call import DenoiserCall
from tempoquant.pipelines.families import config_of, family_of
from tempoquant.pipelines.running import Enough
from tempoquant.sampling import Denoiser, Unbatched, device_of, plain_call

if TYPE_CHECKING:
    from tempoquant.pipelines.model import Model

ROWS_AT_ONCE = 8
NEVER_CONDITIONING = ("return_dict", "cross_attention_kwargs")


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


def check_classes(labels: Any, count: int | None) -> None:
    """Raise InputError if a class label is none of ``count``; None: nothing is known of them."""
    for label in labels if count else ():
        if isinstance(label, str | float):
            raise InputError(f"class label {label!r} is no whole number")
        if not 0 <= int(label) < (count or 0):
            raise InputError(f"class label {int(label)} is out of range: 0 to {(count or 0) - 1}")


def class_embeddings(module: nn.Module) -> int | None:
    """How many class labels a denoiser of a known family embeds, that of no class included; None: not known."""
    family = family_of(module)
    count = None if family is None else family.classes(config_of(module))
    return count + family.no_class if family is not None and count else None


def _keywords(denoiser: Denoiser) -> list[str]:
    """Keyword arguments that a bare denoiser takes beside sample and time step: the required ones if there are any."""
    plain = denoiser.call is plain_call
    parameters = inspect.signature(denoiser.module.forward if plain else denoiser.call).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][2 if plain else 3 :]
    named = [p for p in named if p.name not in NEVER_CONDITIONING]
    return [p.name for p in named if p.default is p.empty] or [p.name for p in named]


def condition_variants(
    model: "Model", conditioning: Mapping[str, Any] | None, **run: Any
) -> Callable[[int, int], dict[str, Any]]:
    """``f(batch, variant)``: the denoiser's keyword arguments for two conditions (variants 0 and 1), batch rows each.

    They are what the denoiser is called with at the first step for two of the samples, or for two guidance branches of
    them, whichever differ more. What is the same in all of them differs by value alone: it may still decide a layer.

    Args:
        model: the model.
        conditioning: as ``Model.generate`` takes it, two entries or more.
        run: steps, seed, sampler and eta of ``Model.run_trajectories``.

    Raises:
        InputError: a condition of the denoiser is no tensor with a row a sample.
    """
    if not conditioning and model.plain:
        return lambda batch, variant: {}
    call = _first_call(model, conditioning or {}, run)
    count = call.sample.shape[0]
    rows = [row_of(call.conditioning, i, count) for i in range(count)]
    pairs = list(combinations(rows, 2)) or [(rows[0], rows[0])]
    pair = max(pairs, key=lambda pair: _differing(*pair))
    # Most is compared under variant 0. SDXL's condition of no prompt is all zeros, whose attention shows no sample.
    first, second = sorted(pair, key=_nonzero, reverse=True)
    variants = (first, _varied(first, second))
    return lambda batch, variant: _batch(variants[variant], batch)


def condition_rows(model: "Model", conditioning: Mapping[str, Any], **run: Any) -> list[dict[str, Any]]:
    """The denoiser's keyword arguments for every given sample, batch 1 each: all that guidance makes of them.

    Args:
        conditioning: as ``Model.generate`` takes it.
        run: steps, sampler and eta of ``Model.run_trajectories``.

    Raises:
        InputError: a condition of the denoiser is no tensor with a row a sample.
    """
    many = {name: value for name, value in conditioning.items() if has_rows(value)}
    count = min((len(value) for value in many.values()), default=1)
    model.check_conditioning(conditioning, count)
    rows = []
    for start in range(0, count, ROWS_AT_ONCE):
        some = list(range(start, min(start + ROWS_AT_ONCE, count)))
        part = {name: _pick(value, some) if name in many else value for name, value in conditioning.items()}
        call = _call_of(model, some, part, run)
        rows += [row_of(call.conditioning, i, call.sample.shape[0]) for i in range(call.sample.shape[0])]
    return rows


def _first_call(model: "Model", conditioning: Mapping[str, Any], run: Mapping[str, Any]) -> DenoiserCall:
    """The denoiser's first call for two samples of unlike conditions."""
    many = {name: value for name, value in conditioning.items() if has_rows(value)}
    count = min((len(value) for value in many.values()), default=1)

    def unlike(index: int) -> int:
        return sum(not equal(value[index], value[0]) for value in many.values())

    pair = [0, max(range(1, count), key=unlike)] if count > 1 else [0]
    some = {n: _pick(value, pair) if n in many else value for n, value in conditioning.items()}
    return _call_of(model, pair, some, run)


def _call_of(
    model: "Model", samples: list[int], conditioning: Mapping[str, Any], run: Mapping[str, Any]
) -> DenoiserCall:
    """The first of the denoiser's calls."""
    calls: list[DenoiserCall] = []

    def stop(call: DenoiserCall) -> None:
        calls.append(call)
        raise Enough

    try:
        model.run_trajectories(samples, stop, conditioning=conditioning, batch_size=len(samples), **run)
    except Enough:
        return calls[0]
    raise InputError(f"{model.name} made no denoiser call")


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
        elif isinstance(part, Unbatched):
            row[name] = Unbatched(part.value.clone()) if isinstance(part.value, Tensor) else part
        elif part is not None:
            found = f"of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
            raise InputError(f"conditioning {prefix + name!r} is {found}: a tensor with a row a sample is needed")
    return row


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """How many tensors differ."""
    return sum(
        _differing(value, b[name]) if isinstance(value, Mapping) else not torch.equal(value, b[name])
        for name, value in a.items()
        if not isinstance(value, Unbatched)
    )


def _nonzero(row: Mapping[str, Any]) -> int:
    values = (value for value in row.values() if not isinstance(value, Unbatched))
    return sum(_nonzero(value) if isinstance(value, Mapping) else int(value.count_nonzero()) for value in values)


def _varied(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``second``, with other values where it equals ``first``; masks and zeros of a choice stay what they are."""
    varied: dict[str, Any] = {}
    for name, value in second.items():
        if isinstance(value, Mapping):
            varied[name] = _varied(first[name], value)
        elif _is_fixed(name, value) or not torch.equal(first[name], value):
            varied[name] = value
        else:
            # Of an integer only zero is known to be valid too.
            varied[name] = perturbed(value) if value.is_floating_point() else torch.zeros_like(value)
    return varied


def _is_fixed(name: str, value: Any) -> bool:
    """Whether a condition must keep its value."""
    return isinstance(value, Unbatched) or "mask" in name or value.dtype == torch.bool


def _batch(row: Mapping[str, Any], batch: int) -> dict[str, Any]:
    def repeated(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _batch(value, batch)
        return value.repeat_interleave(batch, 0) if isinstance(value, Tensor) else value

    return {name: repeated(value) for name, value in row.items()}
