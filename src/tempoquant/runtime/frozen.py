"""One schedule for good: layers that see the time step alone are replaced by tables of what they put out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.intervals import Clock, TemporalTable
from tempoquant.layers import CachedLayer, UnreadLayer, install_stand_ins, stand_ins

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
    counts = {name: sum(p.numel() for p in module.get_submodule(name).parameters()) for name in names}
    tables = {
        name: CachedLayer(TemporalTable.of(features[name], storage, clock), counts[name])
        for name in projections
        if name in counts
    }
    install_stand_ins(module, tables)
    rest = [name for name in shared if name in counts]
    if _reaches_output(module, rest, lambda: run(clock.timesteps[:1])):
        kept = {name: CachedLayer(TemporalTable.of(features[name], storage, clock), counts[name]) for name in rest}
        install_stand_ins(module, kept)
    else:
        install_stand_ins(module, {n: UnreadLayer(tuple(features[n].shape[1:]), counts[n]) for n in rest})
    return sum(counts.values())


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


def _reaches_output(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> bool:
    """Whether NaN in the place of these layers' outputs is seen in the denoiser's: something else reads them."""
    handles = [
        module.get_submodule(name).register_forward_hook(lambda layer, args, output: torch.full_like(output, torch.nan))
        for name in names
    ]
    try:
        with torch.no_grad():
            return bool(run().isnan().any())
    finally:
        for handle in handles:
            handle.remove()
