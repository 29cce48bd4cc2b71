"""Watching torch functions of one forward, with the module call that is running at each moment."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn
from torch.overrides import TorchFunctionMode

from tempoquant.graph.probing import BATCH, removing, run_example
from tempoquant.graph.types import Probe


class Frame(NamedTuple):
    """The ``call``-th call of the module ``name`` within one forward, from 0."""

    name: str
    call: int


OnFunction = Callable[[Callable, tuple, dict, Any, Frame], None]
"""``on_function(func, args, kwargs, output, frame)``."""


class Watch(TorchFunctionMode):
    """Tracks the stack of running modules, and calls ``on_function`` after every torch function within one."""

    def __init__(self, on_function: OnFunction):
        super().__init__()
        self.on_function = on_function
        self.running: list[Frame] = []
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.running:
            self.on_function(func, args, kwargs or {}, out, self.running[-1])
        return out

    def enter(self, name: str) -> Callable:
        """A forward pre-hook for the module ``name``."""

        def hook(module: nn.Module, args: tuple) -> None:
            self.running.append(Frame(name, self.calls[name]))
            self.calls[name] += 1

        return hook

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """A forward hook for every module."""
        self.running.pop()


def watch_forward(probe: Probe, on_function: OnFunction, variant: int = 0, batch: int = BATCH) -> None:
    """Run one example and call ``on_function`` after every torch function inside the module.

    Args:
        probe: how the denoiser runs.
        on_function: called as ``on_function(func, args, kwargs, output, frame)``.
        variant: number of the random sample.
        batch: number of items.
    """
    run_watched(probe, Watch(on_function), variant, batch)


def run_watched(probe: Probe, watch: Watch, variant: int = 0, batch: int = BATCH) -> None:
    """Run one example under ``watch``."""
    handles: list[Any] = []
    for name, module in probe.module.named_modules():
        handles += [module.register_forward_pre_hook(watch.enter(name)), module.register_forward_hook(watch.leave)]
    with removing(handles), watch:
        run_example(probe, probe.timesteps[0], variant=variant, batch=batch)
