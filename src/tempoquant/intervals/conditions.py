"""The conditions that a frozen denoiser knows, told apart by its own arguments: a class label, a pooled prompt."""

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

    def locate(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The condition of every item, (B,) int64, and whether it is a known one, (B,); of arguments (B, ...)."""
        matches = [_matches(given[name], known.to(given[name].device)) for name, known in self.values.items()]
        both = reduce(torch.logical_and, matches)
        return both.int().argmax(1), both.any(1)

    def set(self, named: Mapping[str, Any]) -> None:
        """Find the conditions of a call.

        Args:
            named: the call's arguments by name, see :func:`~tempoquant.arguments.named_arguments`.

        Raises:
            InputError: one is missing, or none of the known ones.
        """
        given: dict[str, Tensor] = {}
        for name in self.values:
            value = argument_at(named, name)
            if value is None:
                raise InputError(f"the denoiser was called without {name}, which its frozen features follow")
            given[name] = torch.as_tensor(value)
        index, known = self.locate(given)
        if not known.all():
            self._refuse(given, int((~known).nonzero()[0]))
        self._now.index = index[0] if bool((index == index[0]).all()) else index

    def _refuse(self, given: Mapping[str, Tensor], item: int) -> None:
        for name, known in self.values.items():
            found = _matches(given[name], known.to(given[name].device)).any(1)
            if found.expand(max(len(found), item + 1))[item]:
                continue
            value = given[name].reshape(-1)[item % given[name].numel()] if known.dim() == 1 else None
            what = f"{name} of item {item}" if value is None else f"{name} {value:g}"
            these = f": {', '.join(f'{number:g}' for number in known.tolist())}" if known.dim() == 1 else ""
            raise InputError(f"{what} is none of the {len(self)} conditions that this denoiser is frozen to{these}")
        raise InputError(f"item {item} is none of the {len(self)} conditions that this denoiser is frozen to")


def _matches(given: Tensor, known: Tensor) -> Tensor:
    """Whether each item has each known value: (B, C)."""
    rows = given.reshape(-1, 1) if given.dim() < 2 else given.flatten(1)
    columns = known.reshape(len(known), -1)
    if not known.is_floating_point():
        return (rows[:, None] != columns[None]).sum(-1) == 0
    rows, columns = rows.float(), columns.float()
    distance = (rows[:, None] - columns[None]).square().sum(-1).sqrt()
    return distance <= SAME_CONDITION * columns.square().sum(-1).sqrt()[None]
