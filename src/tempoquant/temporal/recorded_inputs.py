"""External inputs of the temporal information block: time steps combined with recorded conditions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tempoquant.arguments import tensor_arguments
from tempoquant.graph import Category, DenoiserGraph
from tempoquant.intervals import Clock
from tempoquant.pipelines import tensor_hash
from tempoquant.randomness import rng
from tempoquant.recording import Store
from tempoquant.temporal.program import TemporalProgram

MOST_CONDITIONS = 16


def temporal_inputs(
    program: TemporalProgram, store: Store, clock: Clock, conditions: int = 1, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """External inputs of the temporal information block at every recorded time step.

    Args:
        program: the block.
        store: the recording.
        clock: with a row for each of its time steps.
        conditions: how many of the recorded conditions every time step is combined with, see :func:`most_conditions`.
        seed: keys which are drawn.

    Returns:
        The inputs by key, N rows each; and (N,) int64, the clock's row of each.
    """
    # Denoisers that look time steps up need them as integers wherever the schedule has integers.
    steps = [int(t) if t == int(t) else t for t in clock.timesteps.tolist()]
    rows = distinct_conditions(store, seed, conditions)
    return _combined(program, steps, rows), torch.arange(len(clock)).repeat_interleave(len(rows))


def most_conditions(graph: DenoiserGraph) -> int:
    """How many conditions the temporal layers are to be seen with: 1 where none of them sees any."""
    return MOST_CONDITIONS if any(la.category is Category.TEMPORAL_CONDITION for la in graph.layers) else 1


def distinct_conditions(store: Store, seed: int, most: int) -> list[dict[str, Any]]:
    """At most ``most`` different conditions of the recording, drawn by ``seed``, as keyword arguments at batch 1."""
    if not store.manifest["conditioning"] and not store.manifest.get("constants"):
        return [{}]
    found: dict[str, dict[str, Any]] = {}
    for row in torch.randperm(store.samples, generator=rng(seed, "conditions")).split(1):
        _, _, conditioning = store.read(torch.zeros_like(row), row)
        found.setdefault(" ".join(map(tensor_hash, tensor_arguments(conditioning).values())), conditioning)
        if len(found) == most:
            break
    return list(found.values())


def _combined(
    program: TemporalProgram, steps: Sequence[float], conditions: Sequence[dict[str, Any]]
) -> dict[str, Tensor]:
    """Externals of every time step with every condition, conditions fastest.

    An embedded time step follows the time step alone, and an embedded class the class alone, so T + C runs of the
    denoiser give all T * C rows. Should one follow both, all T * C are run.
    """
    times = program.collect(steps, [conditions[0]] * len(steps))
    if len(conditions) == 1:
        return times
    classes = program.collect([steps[0]] * len(conditions), conditions)
    corner = program.collect(steps[-1:], conditions[-1:])
    combined = {}
    for key, by_time in times.items():
        by_class = classes[key]
        shape = (len(steps), *(1,) * (by_class.dim() - 1))
        combined[key] = by_class.repeat(shape) if _varies(by_class) else by_time.repeat_interleave(len(conditions), 0)
        if (_varies(by_class) and _varies(by_time)) or not torch.equal(combined[key][-1:], corner[key]):
            every = [(step, conditioning) for step in steps for conditioning in conditions]
            return program.collect([step for step, _ in every], [conditioning for _, conditioning in every])
    return combined


def _varies(rows: Tensor) -> bool:
    return bool((rows != rows[:1]).any())
