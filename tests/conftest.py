"""Shared by all tests: one thread, so that many small tensors are not slowed by coordination."""

import pytest
import torch

from tempoquant.reconstruction.effort import EFFORTS, Effort

torch.set_num_threads(1)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconstruction of a few iterations, for tests of everything but its quality."""
    short = Effort(compensate=True, iterations=0, batch=4, temporal_iterations=10, lr=1e-2)
    learned = Effort(compensate=True, iterations=4, batch=4, temporal_iterations=10, lr=1e-2)
    monkeypatch.setitem(EFFORTS, "fast", short)
    monkeypatch.setitem(EFFORTS, "balanced", learned)
