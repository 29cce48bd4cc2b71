"""The temporal information block as a program: what happens between the layers that never see the sample.

One forward is traced. The slice of the trace that leads back from the temporal layers' inputs needs no image, so it can
be replayed for all time steps at once (TFMQ-DM, CVPR 2024: the features g_i(h(t)) form a finite set).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tempoquant.errors import TempoquantError
from tempoquant.graph import (
    SHAPE_ERRORS,
    DenoiserGraph,
    FunctionTrace,
    Op,
    Probe,
    Ref,
    Rows,
    batched,
    map_kind,
    needed_ops,
    numbers_in,
    outside_values,
    same_path,
    tensors_in,
    trace_forward,
)

Apply = Callable[[str, Tensor], Tensor]


class TemporalProgram:
    """The layers that see the time step but not the sample, and the functions between them, batched over rows.

    Args:
        probe: how the denoiser is run.
        graph: what was read of it.

    Attributes:
        layers: names in execution order.
        shared: those that feed another one: h.
        projections: those that do not: every g_i.
        modules: the layers themselves, by name.
        externals: keys of what comes from outside, a row each: embedded time steps, class embeddings.

    Raises:
        TempoquantError: the layers are run differently in a batch, or a value between them has no row an item.
    """

    def __init__(self, probe: Probe, graph: DenoiserGraph):
        self.probe = probe
        self.layers = tuple(layer.name for layer in graph.layers if layer.category.is_temporal)
        self.modules = {name: probe.module.get_submodule(name) for name in self.layers}
        self.shared, self.projections = graph.shared, graph.projections
        t = probe.timesteps[0]
        one, two = (trace_forward(probe, self.modules, t, batch=batch) for batch in (1, 2))
        if not same_path(one.ops, two.ops):
            raise TempoquantError("the temporal layers are run differently in a batch of two than alone")
        self.traced = one.ops
        self.ops = needed_ops(batched(one.ops, two.ops))
        outside = outside_values(self.ops)
        self.numbers = [n for n in outside if one.shapes[n] != two.shapes[n]]
        self._check_shapes(one, two)
        fixed = [n for n in outside if n not in self.numbers]
        self.constants = trace_forward(probe, self.modules, t, keep=fixed).kept
        self.externals = tuple(f"external{i}" for i in range(len(self.numbers)))

    def collect(self, timesteps: Sequence[float], conditioning: Sequence[dict] | None = None) -> dict[str, Tensor]:
        """The externals at each time step, stacked to (R, ...); the denoiser runs once a row, at batch 1.

        Args:
            timesteps: R values, as the probe's: integers stay integers.
            conditioning: keyword arguments of each row at batch 1; None: the probe's variant 0.

        Returns:
            By key of :attr:`externals`.

        Raises:
            TempoquantError: the denoiser takes another path at one of the rows, or a value that should differ from
                item to item is one for the whole batch.
        """
        rows = [self.probe.conditioning(1, 0) for _ in timesteps] if conditioning is None else conditioning
        return self.stack([self.trace_row(t, row) for t, row in zip(timesteps, rows, strict=True)])

    def trace_row(self, timestep: float, conditioning: dict[str, Any], change: Apply | None = None) -> FunctionTrace:
        """Trace one row, keeping what the program takes from outside; see :func:`tempoquant.graph.trace_forward`.

        Args:
            timestep: of the row.
            conditioning: keyword arguments of the denoiser at batch 1.
            change: ``change(name, output)`` replaces a layer's output.

        Raises:
            TempoquantError: as :meth:`collect`.
        """
        outside = {*self.numbers, *self.constants}
        trace = trace_forward(
            self.probe, self.modules, timestep, conditioning=conditioning, keep=outside, change=change
        )
        if not same_path(self.traced, trace.ops):
            raise TempoquantError(f"the temporal layers are run differently at time step {timestep:g}")
        if not all(torch.equal(trace.kept[n], value) for n, value in self.constants.items()):
            raise TempoquantError(
                "the temporal layers take a value that follows the time step but has no batch of items"
            )
        return trace

    def stack(self, traces: Sequence[FunctionTrace]) -> dict[str, Tensor]:
        """Externals of traced rows, (R, ...) each."""
        return {k: torch.cat([t.kept[n] for t in traces]) for n, k in zip(self.numbers, self.externals, strict=True)}

    def run(self, externals: Mapping[str, Tensor], apply: Apply) -> dict[str, Tensor]:
        """Replay the block; differentiable where ``apply`` is.

        Args:
            externals: from :meth:`collect`, or R rows of them.
            apply: ``apply(name, x)`` computes a layer's output from its input, (R, d_in) for a Linear.

        Returns:
            Every layer's output, (R, d_out). Where one forward calls a layer again, the later outputs are called
            ``name#2``, ``name#3``, ...

        Raises:
            TempoquantError: a function between the layers fails on R rows.
        """
        values = self.start(externals)
        outputs: dict[str, Tensor] = {}
        rows = next(iter(externals.values())).shape[0]
        for op in self.ops:
            self.step(op, values, rows, apply)
            if op.layer:
                outputs[call_key(op.layer, outputs)] = values[op.outputs[0]]
        return outputs

    def start(self, externals: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """The values before the first op, by number: constants and externals."""
        return {**self.constants, **{n: externals[k] for n, k in zip(self.numbers, self.externals, strict=True)}}

    def step(self, op: Op, values: dict[int, Tensor], rows: int, apply: Apply) -> None:
        """Run one op, and add its outputs to ``values``.

        Args:
            op: of :attr:`ops`.
            values: by number.
            rows: R.
            apply: see :meth:`run`.

        Raises:
            TempoquantError: the function fails on R rows.
        """
        # An op that changes a tensor in place gets a copy: the tensor may be a layer's output, or an external.
        inputs = values if not op.changed else {**values, **{n: values[n].clone() for n in op.changed}}
        arguments = map_kind((op.args, op.kwargs), Ref, lambda ref: inputs[ref.number])
        args, kwargs = map_kind(arguments, Rows, lambda count: count.multiple * rows)
        if op.func is None:
            outputs = [apply(op.layer, args[0])]
        else:
            try:
                outputs = tensors_in(op.func(*args, **kwargs))
            except SHAPE_ERRORS as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise TempoquantError(
                    f"{op.label} in the temporal layers cannot be run for several time steps at once: {reason}"
                ) from None
        values.update(zip(op.outputs, [*outputs, *(inputs[n] for n in op.changed)], strict=True))

    def _check_shapes(self, one: FunctionTrace, two: FunctionTrace) -> None:
        for number in self.numbers:
            a, b = one.shapes[number], two.shapes[number]
            if (a[:1], b[:1], a[1:]) != ((1,), (2,), b[1:]):
                taker = next(op for op in self.ops if number in numbers_in(op))
                raise TempoquantError(
                    f"{taker.label} in the temporal layers cannot be run for several time steps at once: it takes a "
                    f"value of shape {a} at batch 1 and {b} at batch 2"
                )


def call_key(layer: str, outputs: Mapping[str, Any]) -> str:
    """The key of a layer's next output beside ``outputs``: its name, then ``name#2`` and so on."""
    key, call = layer, 1
    while key in outputs:
        call += 1
        key = f"{layer}#{call}"
    return key
