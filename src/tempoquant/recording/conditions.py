"""A denoiser call's conditions, told apart by how they are stored."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tempoquant.arguments import equal, flattened
from tempoquant.errors import InputError
from tempoquant.pipelines import DenoiserCall
from tempoquant.sampling import Unbatched


@dataclass(frozen=True)
class Conditions:
    """A denoiser call's further keyword arguments by dotted name, tensors as copies on the CPU.

    Attributes:
        batched: tensors of R rows.
        unbatched: tensors that all rows share.
        constants: numbers, strings and truth values.
    """

    batched: dict[str, Tensor] = field(default_factory=dict)
    unbatched: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, call: DenoiserCall) -> "Conditions":
        """Those of one call.

        Raises:
            InputError: a value has no form on disk, or a tensor no row for every sample.
        """
        found = cls()
        for name, value in flattened(call.conditioning).items():
            if value is None:
                continue
            if isinstance(value, Unbatched) and isinstance(value.value, Tensor):
                found.unbatched[name] = value.value.detach().cpu().clone()
            elif isinstance(value, Unbatched):
                found.constants[name] = value.value
            elif not isinstance(value, Tensor):
                raise InputError(f"conditioning {name!r} is a {type(value).__name__}: only tensors can be recorded")
            elif value.shape[:1] != call.sample.shape[:1]:
                raise InputError(f"conditioning {name!r} has no batch dimension: such a denoiser cannot be recorded")
            else:
                found.batched[name] = value.detach().cpu().clone()
        return found

    def is_same(self, other: "Conditions") -> bool:
        """Whether all values are the same bits."""
        return all(
            equal(a, b)
            for a, b in (
                (self.batched, other.batched),
                (self.unbatched, other.unbatched),
                (self.constants, other.constants),
            )
        )
