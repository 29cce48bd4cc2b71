"""Shared by all tests: one thread, so that many small tensors are not slowed by coordination."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before diffusers is imported: no test asks the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from tempoquant import plugins
from tempoquant.exporting import TARGETS
from tempoquant.extension import ACTIVATION_RANGES, PROVIDERS, STAGES, WEIGHT_RANGES, WEIGHT_ROUNDINGS
from tempoquant.graph import KINDS
from tempoquant.kernels import BACKENDS
from tempoquant.layers import LAYER_KINDS
from tempoquant.methods import METHODS
from tempoquant.pipelines import FAMILIES
from tempoquant.reconstruction.effort import EFFORTS, Effort

pytest_plugins = ["pipeline_models"]
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def brief() -> Iterator[None]:
    """Reconstruction of a few iterations in all tests; those of what it gains set an effort of their own."""
    short = Effort(compensate=True, iterations=0, batch=4, temporal_iterations=10, lr=1e-2)
    learned = Effort(compensate=True, iterations=4, batch=4, temporal_iterations=10, lr=1e-2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "fast", short)
        patch.setitem(EFFORTS, "balanced", learned)
        yield


@pytest.fixture
def fresh_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test, all that its plugins registered is forgotten, and their modules too."""
    functions = (WEIGHT_RANGES, ACTIVATION_RANGES, WEIGHT_ROUNDINGS)
    for registry in (*functions, TARGETS, BACKENDS):
        assert all(registry[name] for name in registry.built_in)
    registries: tuple[dict, ...] = (
        METHODS,
        FAMILIES,
        STAGES,
        PROVIDERS,
        KINDS,
        LAYER_KINDS,
        TARGETS,
        BACKENDS,
        *functions,
    )
    before = [dict(registry) for registry in registries]
    monkeypatch.setattr(plugins, "_loaded", set())
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
