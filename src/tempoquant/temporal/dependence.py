"""Which of a denoiser's arguments its temporal features follow beside the time step: found by changing them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import equal, named_arguments, perturbed, tensor_arguments
from tempoquant.graph import removing
from tempoquant.intervals import Clock


def arguments_of(module: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """All tensors that a call of ``module`` is given, by dotted argument name."""
    seen: dict[str, Tensor] = {}

    def see(part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.update(tensor_arguments(named_arguments(module.forward, args, kwargs)))

    with removing([module.register_forward_pre_hook(see, with_kwargs=True)]):
        run()
    return seen


def layers_of_vectors(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> list[str]:
    """Those of the named layers that put out one vector an item, where others do for every word of a prompt."""
    seen = _outputs(module, names, run)
    return [
        name
        for name in names
        if all(
            output[0].numel() == module.get_submodule(name).get_parameter("weight").shape[0] for output in seen[name]
        )
    ]


def followed_arguments(
    module: nn.Module, names: Sequence[str], clock: Clock, run: Callable[[], Any]
) -> tuple[str, ...]:
    """Arguments with which the output of one of the named layers changes, the time step aside.

    Args:
        run: one call of the denoiser, always the same.
    """
    base = _outputs(module, names, run)
    arguments = [name for name in arguments_of(module, run) if name != clock.name]
    return tuple(name for name in arguments if _moved(base, _outputs(module, names, run, [name])))


def layers_that_follow_nothing_else(
    module: nn.Module, arguments: Sequence[str], clock: Clock, run: Callable[[], Any]
) -> list[str]:
    """Linear and Embedding layers whose output follows the time step and these arguments alone, if anything."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Embedding)]
    others = [name for name in arguments_of(module, run) if name not in (*arguments, clock.name)]
    moved = _moved(_outputs(module, names, run), _outputs(module, names, run, others))
    return [name for name in names if name not in moved]


def _outputs(
    module: nn.Module, names: Sequence[str], run: Callable[[], Any], changed: Sequence[str] = ()
) -> dict[str, list[Tensor]]:
    """What the named layers put out, call by call, with some of the module's arguments changed."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def change(part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = named_arguments(module.forward, args, kwargs)
        for name in changed:
            named = _changed(named, name.split("."))
        return (), named

    def seeing(name: str) -> Callable[..., None]:
        return lambda layer, args, output: seen[name].append(output.detach().clone())

    handles = [module.get_submodule(name).register_forward_hook(seeing(name)) for name in names]
    if changed:
        handles.append(module.register_forward_pre_hook(change, with_kwargs=True))
    with removing(handles), torch.no_grad():
        run()
    return seen


def _changed(named: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    value = named[path[0]]
    return {**named, path[0]: _changed(value, path[1:]) if len(path) > 1 else perturbed(value)}


def _moved(a: Mapping[str, Sequence[Tensor]], b: Mapping[str, Sequence[Tensor]]) -> set[str]:
    """Names whose outputs differ."""
    return {name for name in a if not equal(a[name], b[name])}
