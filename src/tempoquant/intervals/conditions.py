"""The conditions of a frozen denoiser, recognized by its arguments: a class label, a pooled prompt."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from tempoquant.arguments import argument_at
from tempoquant.errors import InputError
from tempoquant.sharing import PerThread

SAME_CONDITION = 5e-3
"""Embeddings this close, relative to their norm, are one: rounding differs with the batch, and in bfloat16."""


class _Now(PerThread):
    """The conditions of a thread's latest call."""

    index: Tensor | None = None


class Conditions:
    """Which of a finite set of conditions every item of the denoiser's current call has, in each thread.

    Args:
        values: by argument of the module, dotted where it is nested (``"class_labels"``,
            ``"added_cond_kwargs.text_embeds"``), its value in each of the C conditions: (C, ...).
    """

    def __init__(self, values: Mapping[str, Tensor]):
        self.values = dict(values)
        self._now = _Now()

    @property
    def index(self) -> Tensor | None:
        """The conditions of the current call: of shape () or, where items differ, (B,)."""
        return self._now.index

    @contextmanager
    def at(self, index: Tensor) -> Iterator[None]:
        """Let conditions be the current ones of this thread in a ``with`` block.

        Args:
            index: int64 of shape (), or (B,) where items differ.
        """
        before, self._now.index = self._now.index, index
        try:
            yield
        finally:
            self._now.index = before

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def locate(self, arguments: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The condition of every item, (B,) int64, and whether it has one, (B,) bool.

        Args:
            arguments: by name as in ``values``, (B, ...) each.
        """
        matches = [_matches(arguments[name], value.to(arguments[name].device)) for name, value in self.values.items()]
        both = reduce(torch.logical_and, matches)
        return both.int().argmax(1), both.any(1)

    def set(self, named: Mapping[str, Any]) -> None:
        """Find the conditions of a call.

        Args:
            named: the call's arguments by name, see :func:`~tempoquant.arguments.named_arguments`.

        Raises:
            InputError: one is missing, or its value is that of no condition.
        """
        arguments: dict[str, Tensor] = {}
        for name in self.values:
            value = argument_at(named, name)
            if value is None:
                raise InputError(f"the denoiser was called without {name}, which its frozen features follow")
            arguments[name] = torch.as_tensor(value)
        index, found = self.locate(arguments)
        if not found.all():
            self._refuse(arguments, int((~found).nonzero()[0]))
        self._now.index = index[0] if bool((index == index[0]).all()) else index

    def _refuse(self, arguments: Mapping[str, Tensor], item: int) -> None:
        """Raise InputError for an item of no condition: it names the first argument whose value is that of none."""
        for name, values in self.values.items():
            argument = arguments[name]
            found = _matches(argument, values.to(argument.device)).any(1)
            if found.expand(max(len(found), item + 1))[item]:
                continue
            value = argument.reshape(-1)[item % argument.numel()] if values.dim() == 1 else None
            what = f"{name} of item {item}" if value is None else f"{name} {value:g}"
            these = f": {', '.join(f'{number:g}' for number in values.tolist())}" if values.dim() == 1 else ""
            raise InputError(f"{what} is none of the {len(self)} conditions that this denoiser is frozen to{these}")
        raise InputError(f"item {item} is none of the {len(self)} conditions that this denoiser is frozen to")


def _matches(argument: Tensor, values: Tensor) -> Tensor:
    """Whether each item of (B, ...) has each of C values (C, ...): (B, C)."""
    rows = argument.reshape(-1, 1) if argument.dim() < 2 else argument.flatten(1)
    columns = values.reshape(len(values), -1)
    if not values.is_floating_point():
        return (rows[:, None] != columns[None]).sum(-1) == 0
    rows, columns = rows.float(), columns.float()
    distance = (rows[:, None] - columns[None]).square().sum(-1).sqrt()
    return distance <= SAME_CONDITION * columns.square().sum(-1).sqrt()[None]
