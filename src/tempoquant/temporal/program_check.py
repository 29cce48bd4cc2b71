"""Building a temporal program, and checking that it computes what the denoiser computes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tempoquant.arguments import perturbed
from tempoquant.errors import TempoquantError
from tempoquant.graph import DenoiserGraph, FunctionTrace, Probe, needed_ops, outside_values, smaller, trace_forward
from tempoquant.temporal.program import Apply, TemporalProgram, call_key

RELATIVE, ABSOLUTE = 1e-4, 1e-5


def temporal_program(probe: Probe, graph: DenoiserGraph) -> TemporalProgram:
    """The temporal information block of ``probe``'s denoiser as a function of its time steps, checked against it.

    Raises:
        TempoquantError: a function between the temporal layers cannot be batched over rows, or cannot be followed.
    """
    program = TemporalProgram(smaller(probe), graph)
    if program.probe is not probe:
        whole = trace_forward(probe, program.modules, probe.timesteps[0])
        if _signature(whole) != _signature(program.trace_row(probe.timesteps[0], probe.conditioning(1, 0))):
            # A time step that is spread over the image on its way to a layer.
            program = TemporalProgram(probe, graph)
    verify(program)
    return program


def _signature(trace: FunctionTrace) -> str:
    """All that a program takes from a trace but the values."""
    ops = needed_ops(trace.ops)
    return repr((ops, [trace.shapes[number] for number in outside_values(ops)]))


def verify(program: TemporalProgram) -> None:
    """Check that several time steps replayed at once give what the denoiser itself computes for each.

    Nothing that comes from outside may follow the layers' outputs when these are changed, as quantization changes them:
    only so does a function show that the trace could not see (a compiled or scripted one).

    Raises:
        TempoquantError: it does not; the message names the function or the layer.
    """
    probe = program.probe
    steps = list(dict.fromkeys(probe.timesteps))[:3]
    conditionings = [probe.conditioning(1, row % 2) for row in range(len(steps))]
    traces = [program.trace_row(t, conditioning) for t, conditioning in zip(steps, conditionings, strict=True)]
    _compare(program, traces, lambda name, x: program.modules[name](x))
    changed = program.trace_row(steps[0], conditionings[0], change=lambda name, output: perturbed(output))
    before, after = program.stack(traces[:1]), program.stack([changed])
    if not all(torch.equal(before[key], after[key]) for key in before):
        raise TempoquantError(
            "a function between the temporal layers cannot be followed: is it compiled or scripted? Use the plain one"
        )


def _compare(program: TemporalProgram, traces: Sequence[FunctionTrace], apply: Apply) -> None:
    with torch.no_grad():
        together = program.run(program.stack(traces), apply)
    for row, trace in enumerate(traces):
        alone: dict[str, Tensor] = {}
        for layer, output in trace.outputs:
            alone[call_key(layer, alone)] = output
        for key, output in alone.items():
            if together[key].shape[1:] != output.shape[1:] or not _close(together[key][row : row + 1], output):
                raise TempoquantError(_blame(program, traces, apply, key))


def _blame(program: TemporalProgram, traces: Sequence[FunctionTrace], apply: Apply, key: str) -> str:
    """The message that names the first function whose result for all rows differs from its result for each."""
    together = program.start(program.stack(traces))
    alone = [program.start(program.stack([trace])) for trace in traces]
    with torch.no_grad():
        for op in program.ops:
            for values, rows in ((together, len(traces)), *((values, 1) for values in alone)):
                program.step(op, values, rows, apply)
            for number in op.outputs:
                parts = [values[number] for values in alone]
                whole = torch.cat(parts) if parts[0].dim() else torch.stack(parts)
                if whole.shape != together[number].shape or not _close(together[number], whole):
                    return f"{op.label} in the temporal layers gives another result for several time steps at once"
    return f"the temporal layer {key!r} cannot be replayed: its input depends on something that could not be followed"


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.float(), b.float(), rtol=RELATIVE, atol=ABSOLUTE)
