"""Which of a denoiser's arguments its temporal features depend on beside the time step, by perturbing each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import equal, named_arguments, perturbed, tensor_arguments
from tempoquant.graph import kind_of, removing
from tempoquant.intervals import Clock


def arguments_of(module: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """All tensors among the arguments of a call of ``module``, by dotted name.

    Args:
        module: the denoiser.
        run: one call of it.
    """
    arguments: dict[str, Tensor] = {}

    def read(part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        arguments.update(tensor_arguments(named_arguments(module.forward, args, kwargs)))

    with removing([module.register_forward_pre_hook(read, with_kwargs=True)]):
        run()
    return arguments


def layers_of_vectors(module: nn.Module, names: Sequence[str], run: Callable[[], Any]) -> list[str]:
    """Those of the named layers that put out one vector an item, not one for every token of a prompt."""
    outputs = _outputs(module, names, run)
    return [
        name
        for name in names
        if all(
            output[0].numel() == module.get_submodule(name).get_parameter("weight").shape[0] for output in outputs[name]
        )
    ]


def followed_arguments(
    module: nn.Module, names: Sequence[str], clock: Clock, run: Callable[[], Any]
) -> tuple[str, ...]:
    """Dotted names of the arguments that the outputs of the named layers depend on, without the time step.

    Args:
        module: the denoiser.
        names: of its layers.
        clock: names the time step's argument.
        run: one call of the denoiser, always the same.
    """
    base = _outputs(module, names, run)
    arguments = [name for name in arguments_of(module, run) if name != clock.name]
    return tuple(name for name in arguments if _differing(base, _outputs(module, names, run, [name])))


def layers_that_follow_nothing_else(
    module: nn.Module, arguments: Sequence[str], clock: Clock, run: Callable[[], Any]
) -> list[str]:
    """Layers of vectors or of indices whose outputs depend on no arguments but the time step and these."""
    kinds = ((name, kind_of(part)) for name, part in module.named_modules())
    names = [name for name, kind in kinds if kind is not None and kind.spatial == 0]
    others = [name for name in arguments_of(module, run) if name not in (*arguments, clock.name)]
    differing = _differing(_outputs(module, names, run), _outputs(module, names, run, others))
    return [name for name in names if name not in differing]


def _outputs(
    module: nn.Module, names: Sequence[str], run: Callable[[], Any], changed: Sequence[str] = ()
) -> dict[str, list[Tensor]]:
    """What the named layers put out, call by call, with some of the module's arguments perturbed."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def change(part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = named_arguments(module.forward, args, kwargs)
        for name in changed:
            named = _perturbed_at(named, name.split("."))
        return (), named

    def keep(name: str) -> Callable[..., None]:
        return lambda layer, args, output: outputs[name].append(output.detach().clone())

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    if changed:
        handles.append(module.register_forward_pre_hook(change, with_kwargs=True))
    with removing(handles), torch.no_grad():
        run()
    return outputs


def _perturbed_at(named: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """``named`` with the tensor at ``path`` perturbed."""
    value = named[path[0]]
    return {**named, path[0]: _perturbed_at(value, path[1:]) if len(path) > 1 else perturbed(value)}


def _differing(a: Mapping[str, Sequence[Tensor]], b: Mapping[str, Sequence[Tensor]]) -> set[str]:
    """Names whose outputs differ."""
    return {name for name in a if not equal(a[name], b[name])}
