"""Threads that draw from one model at the same time, against the same draws one after another."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

import tempoquant
from tiny import small_recipe, unet_pipeline

WORKERS, DRAWS = 4, 32


def run(report: Any, options: Any) -> None:
    """Run all cases of this file."""
    before = sys.getswitchinterval()
    # As often as the interpreter can: threads of this model's size would seldom meet otherwise.
    sys.setswitchinterval(1e-5)
    try:
        for name in ("rtn", "tfmq-dm", "ptqd", "tfmq-cache"):
            _draw(report, name)
    finally:
        sys.setswitchinterval(before)


def _draw(report: Any, method: str) -> None:
    quantized = tempoquant.quantize(unet_pipeline(), small_recipe(method, weights=8))

    def draw(seed: int) -> torch.Tensor:
        return quantized.generate(1, steps=4, seed=seed)

    alone = [draw(seed) for seed in range(DRAWS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        together = list(pool.map(draw, range(DRAWS)))
    for seed, (a, b) in enumerate(zip(alone, together, strict=True)):
        same = torch.equal(a, b)
        outcome = "same bits" if same else "another picture"
        report.add(f"{WORKERS} threads, one model", outcome, held=same, case=f"{method}, seed {seed}")
