"""One schedule for good: layers that see the time step alone are replaced by tables of what they put out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.intervals import Clock, TemporalTable
from tempoquant.layers import look_up, look_up_or_drop, parameter_count, stand_ins

Run = Callable[[Tensor], Any]


def freeze_schedule(
    module: nn.Module, shared: Sequence[str], projections: Sequence[str], clock: Clock, run: Run, storage: str
) -> int:
    """Replace the temporal information block by tables, in place; a module whose block is gone already is left alone.

    The features are the module's own: every row is one call of it, so that a stored feature is bit for bit what the
    replaced layer puts out, rounded to its storage.

    Args:
        shared, projections: layers of the block: h, and every g_i.
        run: ``run(t)`` calls the denoiser once, at batch 1; at the same t twice with different conditions if it has
            any, so that features that follow these are seen.
        storage: "float16" or "int8".

    Returns:
        How many numbers the replaced layers held.

    Raises:
        InputError: there is no such block, or its features follow more than the time step.
    """
    names = [name for name in (*shared, *projections) if name not in stand_ins(module)]
    if not projections:
        raise InputError("the denoiser has no layers that see the time step alone: nothing can be frozen")
    features = _features(module, names, clock, run)
    tables = {name: TemporalTable.of(features[name], storage, clock) for name in names}
    count = sum(parameter_count(module.get_submodule(name)) for name in names)
    look_up(module, {name: table for name, table in tables.items() if name in projections})
    rest = {name: table for name, table in tables.items() if name not in projections}
    look_up_or_drop(module, rest, lambda: run(clock.timesteps[:1]))
    return count


def _features(module: nn.Module, names: Sequence[str], clock: Clock, run: Run) -> dict[str, Tensor]:
    """What each layer puts out at every row, (R, ...) float32."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable[..., None]:
        return lambda layer, args, output: seen[name].append(output.detach().float())

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    try:
        with torch.no_grad():
            for t in clock.timesteps.split(1):
                run(t)
                for name, outputs in seen.items():
                    rows[name].append(_the_same(name, outputs))
                    outputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _the_same(name: str, outputs: Sequence[Tensor]) -> Tensor:
    items = torch.cat(list(outputs)) if outputs else torch.empty(0)
    if not len(items) or not torch.equal(items, items[:1].expand_as(items)):
        raise InputError(
            f"what {name} puts out follows more than the time step (a class label, a prompt): "
            "its schedule cannot be frozen"
        )
    return items[:1]
