"""Step-aware mixed precision (PTQD, NeurIPS 2023, section 4.4): few activation bits where the sample is noise anyway.

At every time step the activations take the smallest candidate width b whose quantization noise stays below the noise of
the forward process: ``SNR_Q,b(t) = |e|^2 / |q_b - e|^2 > a_bar / (1 - a_bar)``; the largest where none does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.correction.measure import Trajectories, compare_predictions
from tempoquant.intervals import Clock, IntervalProvider, SteppedInterval
from tempoquant.layers import Site, layer_sites, quantized_layers, quantized_products
from tempoquant.numerics import QParams, affine_qparams
from tempoquant.pipelines import Model
from tempoquant.progress import Progress


@dataclass(frozen=True)
class SteppedSite:
    """A quantizer whose width may change with the step.

    Attributes:
        site: where its provider is.
        provider: as calibrated.
        widths: bits at every candidate.
    """

    site: Site
    provider: IntervalProvider
    widths: tuple[int, ...]


def set_step_bits(
    full: Model,
    quantized: Model,
    clock: Clock,
    trajectories: Trajectories,
    candidates: Sequence[int],
    widths: Mapping[str, Sequence[int]],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Choose the activation bits of every time step by signal-to-noise ratio, and set them in ``quantized``, in place.

    Args:
        full: the full-precision model.
        quantized: the quantized model.
        clock: whose rows the bits are chosen for.
        trajectories: full-precision ones that the ratios are measured on.
        candidates: widths in ascending order.
        widths: for every layer its activation bits at each candidate.
        progress: where it is shown.

    Returns:
        The widths by row, both signal-to-noise ratios in dB: plain JSON data.
    """
    sites = stepped_sites(quantized.denoiser.module, candidates, widths)
    variants = [partial(install, sites, clock, torch.full((len(clock),), i)) for i in range(len(candidates))]
    sums = compare_predictions(full, quantized, clock, trajectories, variants, progress)
    snr = torch.stack([pair_sums.snr() for pair_sums in sums])
    forward = forward_snr(full.denoiser.scheduler, clock.timesteps)
    choice = smallest_sufficient(snr, forward)
    install(sites, clock, choice)
    return {
        "bits": [int(candidates[i]) for i in choice],
        "snr_db": {str(b): _decibels(row) for b, row in zip(candidates, snr, strict=True)},
        "forward_snr_db": _decibels(forward),
    }


def forward_snr(scheduler: Any, timesteps: Tensor) -> Tensor:
    """The forward process's signal-to-noise ratio ``a_bar / (1 - a_bar)`` at (R,) time steps: (R,) float64."""
    a_bar = scheduler.alphas_cumprod.cpu().double()[timesteps.long()]
    return a_bar / (1 - a_bar)


def smallest_sufficient(snr: Tensor, forward: Tensor) -> Tensor:
    """Index (R,) int64 of the first candidate whose ``snr`` (C, R) exceeds ``forward`` (R,); the last if none does."""
    enough = snr > forward
    enough[-1] = True
    return enough.int().argmax(0)


def stepped_sites(
    module: nn.Module, candidates: Sequence[int], widths: Mapping[str, Sequence[int]]
) -> list[SteppedSite]:
    """Layer inputs whose width is not the same at all candidates, and q, k and v of every attention product.

    Softmax outputs keep their own bits.
    """
    inputs = [site for site in layer_sites(quantized_layers(module)) if len(set(widths[site.name])) > 1]
    operands = [
        Site(f"{name}.{operand}", product.intervals, operand)
        for name, product in quantized_products(module).items()
        for operand in ("qkv" if product.intervals else "")
    ]
    chosen = [(site, widths[site.name]) for site in inputs] + [(site, candidates) for site in operands]
    return [SteppedSite(site, site.provider, tuple(bits)) for site, bits in chosen]


def install(sites: Sequence[SteppedSite], clock: Clock, choice: Tensor) -> None:
    """Set every site's provider to the intervals of the chosen candidate, ``choice`` (R,) int64, at each row.

    Sites that share a provider, and have equal widths, share the new one.
    """
    providers: dict[tuple[int, tuple[int, ...]], SteppedInterval] = {}
    for site in sites:
        key = (id(site.provider), site.widths)
        if key not in providers:
            bits = torch.tensor(site.widths)[choice]
            tables = {b: at_width(site.provider, len(clock), b) for b in bits.unique().tolist()}
            rows = [(tables[b].scale[r], tables[b].zero_point[r]) for r, b in enumerate(bits.tolist())]
            scale, zero = (torch.stack(field) for field in zip(*rows, strict=True))
            providers[key] = SteppedInterval(scale, zero.float(), bits, clock)
        site.site.provider = providers[key]


def at_width(provider: IntervalProvider, rows: int, bits: int) -> QParams:
    """A provider's quantization parameters, (R,) each, at another bit width over the same ranges."""
    qparams = provider.at(torch.arange(rows)).map(lambda field: field.expand(rows))
    scale, zero, q_min, q_max = qparams.scale, qparams.zero_point, qparams.q_min, qparams.q_max
    if bool((q_max - q_min == 2**bits - 1).all()):
        return QParams(scale, zero - q_min, 0, 2**bits - 1)
    return affine_qparams(scale * (q_min - zero), scale * (q_max - zero), bits)


def _decibels(ratio: Tensor) -> list[float]:
    return [round(float(value), 3) for value in 10 * torch.log10(ratio)]
