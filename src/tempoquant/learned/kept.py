"""Interval networks kept beside the tables that they folded into, so that tables for other schedules can be made."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from tempoquant.intervals import KeepsPrecision, TableInterval
from tempoquant.learned.networks import Architecture


class KeptNetworks(KeepsPrecision):
    """Interval networks that do not learn any more: their description, and their tensors.

    Args:
        form: ``scheme``, ``architecture`` and ``train_timesteps``, as plain JSON data.
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
        """Networks that have learned, and what beside them makes intervals of their values.

        Args:
            scheme: what the values are, a name of :data:`~tempoquant.learned.SCHEMES`.
            architecture: of the networks.
            train_timesteps: T, the length of the training schedule.
            tensors: of a :class:`~tempoquant.learned.Bank`, by name.
        """
        plain = {**asdict(architecture), "hidden": list(architecture.hidden)}
        return cls({"scheme": scheme, "architecture": plain, "train_timesteps": train_timesteps}, tensors)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, float32."""
        return {name: self.get_buffer(f"tensor_{i}") for i, name in enumerate(self.names)}


def keep_in(tables: Iterable[TableInterval], kept: KeptNetworks) -> None:
    """Let tables, in the order of the bank's quantizers, keep the networks that folded into them."""
    for number, table in enumerate(tables):
        table.networks, table.number = kept, number


def kept_networks(module: nn.Module) -> dict[KeptNetworks, list[TableInterval]]:
    """All networks that ``module`` keeps, in module order, each with the tables that it folded into."""
    found: dict[KeptNetworks, list[TableInterval]] = {}
    for part in module.modules():
        networks = getattr(part, "networks", None)
        if isinstance(networks, KeptNetworks):
            found.setdefault(networks, []).append(part)  # type: ignore[arg-type]
    return found
