"""What a diagnosis says of its models beside what it measures of them: speed, size, conditions."""

import time
from collections.abc import Mapping
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.diagnosis.pair import Pair
from tempoquant.graph import map_kind
from tempoquant.modes import evaluating
from tempoquant.recording import Store
from tempoquant.sampling import device_of

TIMED_ROUNDS = 9
SLOWEST = 0.001
PLAIN = (bool, int, float, str)


def told(conditioning: Mapping[str, Any]) -> dict[str, Any]:
    """Prompts, labels and scales as plain JSON data; of all else, such as embeddings, the kind alone."""
    found = {name: value.tolist() if _labels(value) else value for name, value in conditioning.items()}
    return {name: value if _plain(value) else type(value).__name__ for name, value in found.items()}


def _labels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1


def _plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, list) and all(isinstance(part, PLAIN) for part in value))


@torch.inference_mode()
def speed(pair: Pair, store: Store) -> float:
    """Time of a full-precision call over that of a quantized one at batch 1: the median over rounds of one each."""
    given = store.read(torch.tensor([store.steps // 2]), torch.tensor([0]))
    ratios = []
    for _ in range(TIMED_ROUNDS + 1):
        taken = []
        for denoiser in (pair.full.denoiser, pair.quantized.denoiser):
            to_device = methodcaller("to", device_of(denoiser.module))
            sample, t, conditioning = map_kind(given, Tensor, to_device)
            with evaluating(denoiser.module):
                start = time.perf_counter()
                # Copying the result waits for an accelerator.
                denoiser(sample, t, **conditioning).cpu()
                taken.append(time.perf_counter() - start)
        ratios.append(taken[0] / taken[1])
    # The first warms up.
    return max(SLOWEST, round(float(torch.tensor(ratios[1:]).median()), 3))


def stored_bytes(module: nn.Module) -> int:
    """What a denoiser's parameters take."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
