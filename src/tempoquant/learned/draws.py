"""The random numbers of one training step, for everything inside a network that needs some."""

from dataclasses import dataclass

import torch


@dataclass
class Draws:
    """Shared by all quantizers of a network.

    Attributes:
        now: the current step's, or None outside of training: nothing drops out, and no noise stands for rounding.
    """

    now: torch.Generator | None = None

    # Copies of a network share it: a generator cannot be copied, and only one of them trains at a time.
    def __deepcopy__(self, memo: dict) -> "Draws":
        return self
