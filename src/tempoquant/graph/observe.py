"""Which layers execute, in which order, and what each one's input depends on: found by observation."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError, NumericsError
from tempoquant.graph.kinds import is_strided, kind_of
from tempoquant.graph.nested import first_argument
from tempoquant.graph.probing import fingerprint, quantizable_layers, removing, run_example
from tempoquant.graph.repeatable import check_repeatable
from tempoquant.graph.types import Category, LayerInfo, Probe

MIXED_TOLERANCE = 1e-2


@dataclass
class Run:
    """Input hashes, called modules and output of one run.

    Attributes:
        prints: by layer, in order of execution, a hash of every call's input.
        called: modules whose forward ran.
        output: the denoiser's output.
    """

    prints: dict[str, list[bytes]] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    output: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Observed:
    """Layers and their categories, from comparing runs.

    Attributes:
        layers: those that execute, in order.
        unused: names of those that never do.
        called: modules whose forward ran.
        shared_inputs: groups of temporal layers with bit-identical inputs.
    """

    layers: tuple[LayerInfo, ...]
    unused: tuple[str, ...]
    called: frozenset[str]
    shared_inputs: tuple[tuple[str, ...], ...]


def observe_layers(probe: Probe) -> Observed:
    """Find the layers that execute, and what each one's input depends on.

    A layer's input is compared, byte for byte, between runs that differ in the sample, the time step or the
    conditioning alone. Three time steps are compared, so that two equal by accident do not hide the dependence.

    Raises:
        InputError: no layer depends on the time step alone, a batch of mixed time steps is not served item by item, or
            the output is no function of the inputs.
        NumericsError: an output is not finite.
    """
    t = list(dict.fromkeys(probe.timesteps))
    for step in t[:3]:
        check_repeatable(probe, step)
    base = observe_run(probe, t[0])
    other_steps = [observe_run(probe, step) for step in t[1:3]]
    _check_mixed(probe, t, base.output, other_steps[0].output)
    runs = [base, observe_run(probe, t[0], variant=1), observe_run(probe, t[0], condition=1), *other_steps]
    layers = []
    for order, name in enumerate(dict.fromkeys(name for run in runs for name in run.prints)):
        first, by_sample, by_condition, *by_time = (run.prints.get(name) for run in runs)
        category = categorize(by_sample != first, any(prints != first for prints in by_time), by_condition != first)
        calls = max(len(run.prints.get(name, ())) for run in runs)
        layers.append(_describe(name, probe.module.get_submodule(name), category, order, calls))
    if not any(layer.category.is_temporal for layer in layers):
        raise InputError(_no_temporal_layer(base, other_steps))
    executed = {layer.name for layer in layers}
    return Observed(
        tuple(layers),
        tuple(n for n in quantizable_layers(probe.module) if n not in executed),
        frozenset().union(*(run.called for run in runs)),
        _shared_inputs(layers, runs),
    )


def _no_temporal_layer(base: Run, other_steps: list[Run]) -> str:
    if all(torch.equal(run.output, base.output) for run in other_steps):
        return "the denoiser's output does not follow the time step: is the time step passed on by its call?"
    return (
        "no layer of this denoiser sees the time step alone: it meets the sample before any layer, so that there is "
        "no temporal information block to quantize"
    )


def categorize(sample: bool, time: bool, condition: bool) -> Category:
    """The category of a layer whose input changes with the sample, the time step, or the conditioning."""
    if sample:
        return Category.IMAGE
    if time:
        return Category.TEMPORAL_CONDITION if condition else Category.TEMPORAL
    return Category.CONDITION if condition else Category.CONSTANT


def observe_run(probe: Probe, timestep: float, variant: int = 0, condition: int = 0) -> Run:
    """Run one example and hash every layer call's input.

    Raises:
        NumericsError: the output is not finite.
    """
    run = Run()

    def note_call(name: str) -> Any:
        return lambda module, args: run.called.add(name)

    def hash_input(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            run.prints.setdefault(name, []).append(fingerprint(first_argument(args, kwargs)))

        return hook

    handles = [m.register_forward_pre_hook(note_call(n)) for n, m in probe.module.named_modules()]
    for name, layer in quantizable_layers(probe.module).items():
        handles.append(layer.register_forward_pre_hook(hash_input(name), with_kwargs=True))
    with removing(handles):
        run.output = run_example(probe, timestep, variant=variant, condition=condition)
    if not torch.isfinite(run.output).all():
        raise NumericsError(f"the denoiser's output is not finite at time step {timestep:g}")
    return run


def _check_mixed(probe: Probe, t: list[float], *alone: Tensor) -> None:
    """Calibration and reconstruction batch time steps: each item must see its own one."""
    mixed = run_example(probe, torch.tensor(t[:2]))
    for item, (step, output) in enumerate(zip(t, alone, strict=False)):
        error, scale = (mixed[item] - output[item]).abs().max(), output[item].abs().max()
        # Not "error > ...": a NaN must fail too.
        if not error <= MIXED_TOLERANCE * scale:
            raise InputError(f"in a batch of mixed time steps the denoiser gives another result at time step {step:g}")


def _describe(name: str, layer: nn.Module, category: Category, order: int, calls: int) -> LayerInfo:
    kind = kind_of(layer)
    assert kind is not None
    shape = tuple(layer.get_parameter("weight").shape)
    return LayerInfo(name, kind.name, category, order, calls, shape, kind.input_channels(layer), is_strided(layer))


def _shared_inputs(layers: list[LayerInfo], runs: list[Run]) -> tuple[tuple[str, ...], ...]:
    groups: dict[Any, list[str]] = {}
    for layer in layers:
        if layer.category.is_temporal:
            key = tuple(tuple(run.prints.get(layer.name, ())) for run in runs)
            groups.setdefault(key, []).append(layer.name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
