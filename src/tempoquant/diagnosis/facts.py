"""Facts of a diagnosis beside its measurements: conditioning, speed and size of the models."""

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


def describe_conditioning(conditioning: Mapping[str, Any]) -> dict[str, Any]:
    """Conditioning as JSON data: prompts, labels and scales in full, other values (embeddings) as their class name.

    Args:
        conditioning: keyword arguments of ``Model.generate``; tensors (N,) are labels.
    """
    values = {name: value.tolist() if _are_labels(value) else value for name, value in conditioning.items()}
    return {name: value if _is_plain(value) else type(value).__name__ for name, value in values.items()}


def _are_labels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, list) and all(isinstance(part, PLAIN) for part in value))


@torch.inference_mode()
def speed(pair: Pair, store: Store) -> float:
    """Time of a full-precision denoiser call divided by that of a quantized one, at batch 1: median of nine rounds.

    Args:
        pair: the two models, each called on its own device.
        store: the recording that the inputs are read from, at its middle step.
    """
    inputs = store.read(torch.tensor([store.steps // 2]), torch.tensor([0]))
    ratios = []
    for _ in range(TIMED_ROUNDS + 1):
        seconds = []
        for denoiser in (pair.full.denoiser, pair.quantized.denoiser):
            to_device = methodcaller("to", device_of(denoiser.module))
            sample, t, conditioning = map_kind(inputs, Tensor, to_device)
            with evaluating(denoiser.module):
                start = time.perf_counter()
                # Copying the result waits for an accelerator.
                denoiser(sample, t, **conditioning).cpu()
                seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    # The first round warms up.
    return max(SLOWEST, round(float(torch.tensor(ratios[1:]).median()), 3))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters in their dtypes."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
