"""Arguments of calls: bound to their names, nested mappings by dotted names (``"added_cond_kwargs.text_embeds"``)."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten


def named_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, those that ``**kwargs`` of ``function`` takes among the others."""
    signature = inspect.signature(function)
    named = dict(signature.bind_partial(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Everything inside nested mappings that is no mapping itself, by dotted name; :func:`nested` is the inverse."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from values by dotted name."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        inside = tree
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return tree


def argument_at(named: Mapping[str, Any], name: str) -> Any:
    """The argument of a dotted name; None if the call had none."""
    value: Any = named
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def tensor_arguments(named: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors among a call's arguments, by dotted name."""
    return {name: value for name, value in flattened(named).items() if isinstance(value, Tensor)}


def samples_of(conditioning: Mapping[str, Any] | None, rows: slice) -> dict[str, Any]:
    """The conditioning of some samples: entries that are lists, tuples or tensors have one row a sample.

    Args:
        conditioning: keyword arguments, as a model's ``generate`` takes them; what is no list or tensor serves all.
        rows: of the samples.
    """
    return {name: value[rows] if has_rows(value) else value for name, value in (conditioning or {}).items()}


def has_rows(value: Any) -> bool:
    """Whether a conditioning argument has one entry a sample, as lists, tuples and tensors do."""
    return isinstance(value, (list, tuple, Tensor))


def equal(a: Any, b: Any) -> bool:
    """Whether two values of one structure are equal: tensors in dtype, device, shape and every element."""
    left, right = tree_flatten(a)[0], tree_flatten(b)[0]
    return len(left) == len(right) and all(map(_equal, left, right))


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and bool(a == b)
    return (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape) and torch.equal(a, b)


def perturbed(x: Tensor) -> Tensor:
    """Values unlike ``x``, of its shape and dtype: ``1.5 x + 0.5``, of booleans the opposite, of labels a neighbour.

    What depends on x changes with it, which shows the dependence.
    """
    if x.dtype == torch.bool:
        return ~x
    return 1.5 * x + 0.5 if x.is_floating_point() else torch.where(x > 0, x - 1, x + 1)
