"""One schedule for good: layers that see the time step alone are replaced by tables of what they put out.

Where these follow a class label or a pooled prompt too, it is one schedule and a finite set of such conditions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.graph import removing
from tempoquant.intervals import Clock, Conditions
from tempoquant.temporal.dependence import (
    arguments_of,
    followed_arguments,
    layers_of_vectors,
    layers_that_follow_nothing_else,
)
from tempoquant.temporal.feature_tables import install_feature_tables
from tempoquant.temporal.replacements import replacements

Conditioning = Mapping[str, Any]
"""Further arguments of a denoiser's call, at batch 1."""
Run = Callable[[Tensor, Conditioning], Tensor]
"""``run(t, conditioning)`` calls the denoiser once, at batch 1; t has shape (1,)."""


def freeze_schedule(
    module: nn.Module,
    shared: Sequence[str],
    projections: Sequence[str],
    clock: Clock,
    run: Run,
    storage: str,
    conditionings: Sequence[Conditioning],
    *,
    closed: bool,
) -> int:
    """Replace the temporal information block by tables, in place; a module whose block is gone already is left alone.

    Every row of a table is one call of the module, so that a stored feature is bit for bit what the replaced layer puts
    out, rounded to its storage. Layers that only fed the block are replaced by zeros.

    Args:
        module: the denoiser.
        shared: layers of the block that feed another one: h.
        projections: those that do not: every g_i.
        clock: of ``module``; it gets the conditions that the tables are for.
        run: calls the denoiser.
        storage: "float16" or "int8".
        conditionings: of the denoiser's calls; at least one, which may be empty.
        closed: whether the denoiser will be called with these alone; if not, its features must follow none of them.

    Returns:
        How many numbers the replaced layers held.

    Raises:
        InputError: there is no such block, or its features follow conditions and ``closed`` is false.
    """
    names = [name for name in (*shared, *projections) if name not in replacements(module)]
    if not projections:
        raise InputError("the denoiser has no layers that see the time step alone: nothing can be frozen")
    if not names:
        return 0
    before, first = _left_out(module), clock.timesteps[:1]

    def once(conditioning: Conditioning = conditionings[0]) -> Tensor:
        return run(first, conditioning)

    names = layers_of_vectors(module, names, once)
    followed = followed_arguments(module, names, clock, once)
    if followed and not closed:
        raise InputError(
            f"what {names[-1]} puts out follows more than the time step ({', '.join(followed)}): give the conditions "
            "that are to be known, for its schedule cannot be frozen for all"
        )
    conditions, rows = _conditions(module, followed, once, conditionings) if followed else (None, conditionings[:1])
    feeding = layers_that_follow_nothing_else(module, followed, clock, once) if followed else []
    features = _called_features(module, names, clock, run, rows)
    clock.conditions = conditions
    maybe_dead = {*names, *feeding} - {*projections}
    install_feature_tables(module, features, storage, clock, maybe_dead, lambda: once(rows[0]))
    return _left_out(module) - before


def _left_out(module: nn.Module) -> int:
    return sum(part.parameter_count for part in replacements(module).values())


def _conditions(
    module: nn.Module, names: Sequence[str], run: Callable[[Conditioning], Any], conditionings: Sequence[Conditioning]
) -> tuple[Conditions, list[Conditioning]]:
    """The distinct values of the named arguments, and a conditioning for each."""
    seen: list[dict[str, Tensor]] = []
    kept: list[Conditioning] = []
    for row in conditionings:
        arguments = arguments_of(module, lambda row=row: run(row))  # type: ignore[misc]
        value = {name: arguments[name].detach().reshape(1, *arguments[name].shape[1:]).clone() for name in names}
        if not seen or not bool(_joined(seen).locate(value)[1]):
            seen.append(value)
            kept.append(row)
    return _joined(seen), kept


def _joined(values: Sequence[Mapping[str, Tensor]]) -> Conditions:
    return Conditions({name: torch.cat([value[name] for value in values]) for name in values[0]})


def _called_features(
    module: nn.Module, names: Sequence[str], clock: Clock, run: Run, conditionings: Sequence[Conditioning]
) -> dict[str, Tensor]:
    """What each layer puts out at every row of the clock's tables, (R, ...) float32: one call of the module a row."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    with removing([module.get_submodule(name).register_forward_hook(_keeping(seen[name])) for name in names]):
        for t in clock.timesteps.split(1):
            for conditioning in conditionings:
                run(t, conditioning)
                for name, outputs in seen.items():
                    rows[name].append(_only_feature(name, outputs))
                    outputs.clear()
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _keeping(outputs: list[Tensor]) -> Callable[..., None]:
    return lambda layer, args, output: outputs.append(output.detach().float())


def _only_feature(name: str, outputs: Sequence[Tensor]) -> Tensor:
    """The one feature, (1, ...), that a layer puts out for every item of its calls."""
    items = torch.cat(list(outputs)) if outputs else torch.empty(0)
    if not len(items) or not torch.equal(items, items[:1].expand_as(items)):
        raise InputError(f"{name} puts out more than one feature a call: its schedule cannot be frozen")
    return items[:1]
