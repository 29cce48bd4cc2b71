"""One forward as a graph of operators, captured and replayed."""

from tempoquant.capture.replay import Replay, has_hooks

__all__ = [
    "Replay",
    "has_hooks",
]
