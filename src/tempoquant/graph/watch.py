"""Watching torch functions of one forward, with the module that is running at each moment."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from tempoquant.graph.observe import evaluating, example
from tempoquant.graph.types import Probe

See = Callable[[Callable, tuple, dict, Any, str], None]


class _Watch(TorchFunctionMode):
    def __init__(self, see: See):
        super().__init__()
        self.see, self.running = see, [""]

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.see(func, args, kwargs or {}, out, self.running[-1])
        return out


def watch_forward(probe: Probe, see: See) -> None:
    """Run one example; ``see(func, args, kwargs, output, module_name)`` is called after every torch function."""
    watch = _Watch(see)

    def enter(name: str) -> Any:
        return lambda module, args: watch.running.append(name)

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        watch.running.pop()

    handles = []
    for name, module in probe.module.named_modules():
        if name:
            handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    (sample, steps), conditioning = example(probe, 0, probe.timesteps[0], 0)
    try:
        with evaluating(probe.module), watch:
            probe.run(sample, steps, **conditioning)
    finally:
        for handle in handles:
            handle.remove()
