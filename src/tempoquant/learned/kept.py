"""The networks that made tables, kept beside them: tables for another schedule can be made from them again."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from tempoquant.intervals import KeepsPrecision, TableInterval
from tempoquant.learned.networks import Architecture


class KeptNetworks(KeepsPrecision):
    """Interval networks at rest: what they are, and their tensors. Tables refer to those that made them.

    Args:
        form: plain JSON data: ``scheme``, ``architecture``, ``train_timesteps``.
        tensors: by name, of any shape.
    """

    def __init__(self, form: Mapping[str, Any], tensors: Mapping[str, Tensor]):
        super().__init__()
        # Sorted: a folder's bytes follow this order, whoever made the mapping.
        self.form, self.names = dict(form), tuple(sorted(tensors))
        for i, name in enumerate(self.names):
            self.register_buffer(f"tensor_{i}", tensors[name].detach().float().clone())

    @classmethod
    def of(
        cls, scheme: str, architecture: Architecture, train_timesteps: int, tensors: Mapping[str, Tensor]
    ) -> "KeptNetworks":
        """Networks that have learned, and what beside them makes intervals of the values they give.

        Args:
            scheme: what the values are, a name of the training schemes.
        """
        plain = {**asdict(architecture), "hidden": list(architecture.hidden)}
        return cls({"scheme": scheme, "architecture": plain, "train_timesteps": train_timesteps}, tensors)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, float32."""
        return {name: self.get_buffer(f"tensor_{i}") for i, name in enumerate(self.names)}


def keep_in(tables: Iterable[TableInterval], kept: KeptNetworks) -> None:
    """Let tables keep the networks that made them, in this order."""
    for number, table in enumerate(tables):
        table.networks, table.number = kept, number


def kept_networks(module: nn.Module) -> dict[KeptNetworks, list[TableInterval]]:
    """All networks that ``module`` keeps, in module order, each with the tables that are its own."""
    found: dict[KeptNetworks, list[TableInterval]] = {}
    for part in module.modules():
        networks = getattr(part, "networks", None)
        if isinstance(networks, KeptNetworks):
            found.setdefault(networks, []).append(part)  # type: ignore[arg-type]
    return found
