"""Small vectors in few long ones, so that a file's header stays small."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tempoquant.errors import FormatError

PREFIX = "tempoquant."


def joined(parts: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor:
    """Concatenate the flattened tensors to one vector of ``dtype``; None is skipped."""
    flat = [part.detach().flatten() for part in parts if part is not None]
    return torch.cat(flat).to(dtype) if flat else torch.empty(0, dtype=dtype)


class Reader:
    """Takes consecutive slices of the long vectors."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors
        self.position: dict[str, int] = {}

    def take(self, name: str, count: int) -> Tensor:
        """The next ``count`` values of a vector, (count,), copied.

        Raises:
            FormatError: there are fewer.
        """
        key, start = PREFIX + name, self.position.get(name, 0)
        if key not in self.tensors or start + count > self.tensors[key].numel():
            raise FormatError(f"the folder's tensor {key!r} is missing or too short")
        self.position[name] = start + count
        return self.tensors[key][start : start + count].clone()

    def finish(self) -> None:
        """Raise FormatError if a vector was not taken to its end."""
        for name, end in self.position.items():
            if end != self.tensors[PREFIX + name].numel():
                raise FormatError(f"the folder's tensor {PREFIX + name!r} is longer than the denoiser needs")
