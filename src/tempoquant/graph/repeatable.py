"""Refusing denoisers whose output is no function of their inputs: those that draw noise, drop out, or keep a state.

And those that change their inputs in place, since a sampler uses the same tensors after the call.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.graph.nested import tensors_in
from tempoquant.graph.probing import fingerprint, removing, run_example
from tempoquant.graph.types import Probe

REPEATED_TOLERANCE = 1e-4
"""Of the largest output: kernels that add up in another order every time, as some of an accelerator do, stay below."""


@dataclass
class _Call:
    """Hashes of the input and output tensors of one module call."""

    module: str
    inputs: list[bytes]
    outputs: list[bytes] = field(default_factory=list)


def check_repeatable(probe: Probe, timestep: float) -> None:
    """Check that two calls on equal inputs, with different random states, return one output and change no input.

    Raises:
        InputError: they do not; names the first module whose output differs, or the input that is changed.
    """
    first, second = (run_example(_seeded(probe, seed), timestep) for seed in (0, 1))
    difference, scale = (first - second).abs().max(), first.abs().max()
    # A NaN is refused elsewhere.
    if difference > REPEATED_TOLERANCE * scale:
        raise InputError(
            f"{_first_difference(probe, timestep)} gives two outputs for one input at time step {timestep:g}, in "
            f"evaluation mode (the denoiser's differ by {difference / scale:.2g} of the largest value): noise or "
            "dropout inside, or a state that is kept between calls, cannot be quantized"
        )


def _seeded(probe: Probe, seed: int) -> Probe:
    """``probe`` whose calls start with this random state; they raise InputError if an input is changed in place."""

    def run(sample: Tensor, timestep: Tensor, **conditioning: Any) -> Any:
        torch.manual_seed(seed)
        inputs = {"sample": sample, "time step": timestep, **conditioning}
        before = {name: [t.clone() for t in tensors_in(value)] for name, value in inputs.items()}
        output = probe.run(sample, timestep, **conditioning)
        for name, value in inputs.items():
            if not all(map(torch.equal, before[name], tensors_in(value))):
                raise InputError(f"the denoiser changes its {name} in place: let it change a copy")
        return output

    return replace(probe, run=run)


def _first_difference(probe: Probe, timestep: float) -> str:
    """In words, the first module to finish whose output differs between two calls though its input does not."""
    for a, b in zip(*(_calls(_seeded(probe, seed), timestep) for seed in (0, 1)), strict=False):
        if (a.module, a.inputs) == (b.module, b.inputs) and a.outputs != b.outputs and a.module:
            return f"the denoiser's {a.module!r} ({type(probe.module.get_submodule(a.module)).__name__})"
    return "the denoiser"


def _calls(probe: Probe, timestep: float) -> list[_Call]:
    """The calls of all modules in the order in which they finish."""
    running: list[_Call] = []
    finished: list[_Call] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            running.append(_Call(name, list(map(fingerprint, tensors_in((args, kwargs))))))

        return hook

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        finished.append(running.pop())
        finished[-1].outputs += map(fingerprint, tensors_in(output))

    handles: list[Any] = []
    for name, module in probe.module.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    with removing(handles):
        run_example(probe, timestep)
    return finished
