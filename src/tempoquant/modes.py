"""Modes of a module for the time of a block."""

from tempoquant.sharing import SharedBlock


class evaluating(SharedBlock):
    """Within the block ``module`` is in evaluation mode (dropout off); afterwards every part is as it was."""

    def start(self) -> None:
        """See the base class."""
        self.training = [part for part in self.module.modules() if part.training]
        self.module.eval()

    def stop(self) -> None:
        """See the base class."""
        for part in self.training:
            part.training = True
