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
from tempoquant.temporal.replacements import drop_dead_layers, replace_with_tables, stand_ins
from tempoquant.temporal.dependence import (
    arguments_of,
    followed_arguments,
    layers_of_vectors,
    layers_that_follow_nothing_else,
)
from tempoquant.temporal.table import TemporalTable

Run = Callable[[Tensor, Mapping[str, Any]], Tensor]
"""``run(t, given)`` calls the denoiser once, at batch 1; t has shape (1,), given are its conditions."""


def freeze_schedule(
    module: nn.Module,
    shared: Sequence[str],
    projections: Sequence[str],
    clock: Clock,
    run: Run,
    storage: str,
    given: Sequence[Mapping[str, Any]],
    *,
    known: bool,
) -> int:
    """Replace the temporal information block by tables, in place; a module whose block is gone already is left alone.

    The features are the module's own: every row is one call of it, so that a stored feature is bit for bit what the
    replaced layer puts out, rounded to its storage. Layers that only fed the block leave with it.

    Args:
        shared, projections: layers of the block: h, and every g_i.
        storage: "float16" or "int8".
        given: conditions of the denoiser, a row each; at least one, which may be empty.
        known: whether these are all that the denoiser will ever be given; if not, its features must follow none.

    Returns:
        How many numbers the replaced layers held.

    Raises:
        InputError: there is no such block, or its features follow conditions that are not ``known``.
    """
    names = [name for name in (*shared, *projections) if name not in stand_ins(module)]
    if not projections:
        raise InputError("the denoiser has no layers that see the time step alone: nothing can be frozen")
    if not names:
        return 0
    before, first = _left_out(module), clock.timesteps[:1]

    def once(row: Mapping[str, Any] = given[0]) -> Tensor:
        return run(first, row)

    names = layers_of_vectors(module, names, once)
    followed = followed_arguments(module, names, clock, once)
    if followed and not known:
        raise InputError(
            f"what {names[-1]} puts out follows more than the time step ({', '.join(followed)}): give the conditions "
            "that are to be known, for its schedule cannot be frozen for all"
        )
    conditions, rows = _conditions(module, followed, once, given) if followed else (None, given[:1])
    feeding = layers_that_follow_nothing_else(module, followed, clock, once) if followed else []
    features = _features(module, names, clock, run, rows)
    clock.conditions = conditions
    replace_with_tables(module, {name: TemporalTable.of(features[name], storage, clock) for name in names})
    maybe_unread = {*names, *feeding} - {*projections}
    drop_dead_layers(
        module, [name for name, _ in module.named_modules() if name in maybe_unread], lambda: once(rows[0])
    )
    return _left_out(module) - before


def _left_out(module: nn.Module) -> int:
    return sum(part.parameter_count for part in stand_ins(module).values())


def _conditions(
    module: nn.Module, names: Sequence[str], run: Callable[[Mapping[str, Any]], Any], given: Sequence[Mapping[str, Any]]
) -> tuple[Conditions, list[Mapping[str, Any]]]:
    """The conditions among the given rows that differ in the named arguments, and a row for each."""
    seen: list[dict[str, Tensor]] = []
    kept: list[Mapping[str, Any]] = []
    for row in given:
        arguments = arguments_of(module, lambda row=row: run(row))  # type: ignore[misc]
        value = {name: arguments[name].detach().reshape(1, *arguments[name].shape[1:]).clone() for name in names}
        if not seen or not bool(_joined(seen).locate(value)[1]):
            seen.append(value)
            kept.append(row)
    return _joined(seen), kept


def _joined(values: Sequence[Mapping[str, Tensor]]) -> Conditions:
    return Conditions({name: torch.cat([value[name] for value in values]) for name in values[0]})


def _features(
    module: nn.Module, names: Sequence[str], clock: Clock, run: Run, given: Sequence[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """What each layer puts out at every row of the clock's tables, (R, ...) float32."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    with removing([module.get_submodule(name).register_forward_hook(_keeping(seen[name])) for name in names]):
        for t in clock.timesteps.split(1):
            for row in given:
                run(t, row)
                for name, outputs in seen.items():
                    rows[name].append(_the_same(name, outputs))
                    outputs.clear()
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _keeping(outputs: list[Tensor]) -> Callable[..., None]:
    return lambda layer, args, output: outputs.append(output.detach().float())


def _the_same(name: str, outputs: Sequence[Tensor]) -> Tensor:
    items = torch.cat(list(outputs)) if outputs else torch.empty(0)
    if not len(items) or not torch.equal(items, items[:1].expand_as(items)):
        raise InputError(f"{name} puts out more than one feature a call: its schedule cannot be frozen")
    return items[:1]
