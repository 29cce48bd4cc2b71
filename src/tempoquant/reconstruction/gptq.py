"""Error-compensated rounding in closed form.

Columns are rounded one after another; the error of each is spread over the columns not yet rounded so that the layer's
output on its own inputs changes least (Optimal Brain Quantization as in GPTQ, Frantar et al., ICLR 2023, section 3).
Before that, the weight is moved to the one whose output on the *quantized* network's inputs is closest to the
full-precision output (the asymmetric reconstruction of the BRECQ family, in closed form).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tempoquant.numerics import QParams, over_rows, quantize

BLOCK = 128
GRAM_NUMBERS = 2**24
"""Numbers of the small Gram matrices that scales are fitted by, at a time."""
SCALE_SWEEPS = 4
"""Passes over the groups of a weight whose scales are fitted one after another."""
GRAM_BLOCK = 512


@dataclass
class Moments:
    """Second moments of a layer's inputs over M input vectors, float32.

    Attributes:
        gram: (K, K), X_q^T X_q / M, with the inputs X_q (M, K) of the partly quantized network.
        drift: (K, C_out), X_q^T (X_f - X_q) W^T / M with the full-precision network's inputs X_f and the weight W:
            what the output lacks because the inputs are others. None when they are equal.
    """

    gram: Tensor
    drift: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, quantized: Tensor, full: Tensor | None) -> "Moments":
        """Moments of a (C_out, K) weight's input vectors (M, K); ``full`` are the same vectors in full precision."""
        count = quantized.shape[0]
        moments = gram(quantized).div_(count)
        if full is None:
            return cls(moments, None)
        return cls(moments, torch.linalg.multi_dot([quantized.T, full - quantized, weight.T]).div_(count))


def gram(x: Tensor) -> Tensor:
    """``x.T @ x`` of (M, K), each pair of columns multiplied once."""
    result = x.new_empty(x.shape[1], x.shape[1])
    _fill_gram(result, x)
    return result


def _fill_gram(result: Tensor, x: Tensor) -> None:
    if x.shape[1] <= GRAM_BLOCK:
        result.copy_(x.T @ x)
        return
    half = x.shape[1] // 2
    left, right = x[:, :half], x[:, half:]
    _fill_gram(result[:half, :half], left)
    _fill_gram(result[half:, half:], right)
    result[half:, :half] = right.T @ left
    result[:half, half:] = result[half:, :half].T


def compensated_rounding(weight: Tensor, moments: Moments, qparams: QParams, damping: float = 0.01) -> Tensor:
    """Integers whose layer output on the recorded inputs is close to the full-precision one.

    Args:
        weight: (C_out, K) float32, full precision.
        moments: of the layer's inputs.
        qparams: scale and zero point (C_out, G), fixed: G groups of K / G consecutive weights.
        damping: share of the mean diagonal that is added to the Gram matrix: invertible however few inputs made it.

    Returns:
        (C_out, K): ``q - z``, integer-valued float32.
    """
    energy = moments.gram.diagonal()
    order = energy.argsort(stable=True)
    ordered = moments.gram[order][:, order]
    ordered.diagonal().add_(damping * energy.mean().clamp(min=1e-12))
    lower = torch.linalg.cholesky(ordered)
    columns = weight.T[order]
    if moments.drift is not None:
        columns = columns + torch.cholesky_solve(moments.drift[order], lower)
    result = torch.empty_like(columns)
    result[order] = _sweep(columns, lower, _by_column(qparams, order))
    return result.T.contiguous()


def _by_column(qparams: QParams, order: Tensor) -> QParams:
    """Scale and zero point of every column in ``order``, (K, C_out): that of the group it belongs to."""

    def columns(part: Tensor) -> Tensor:
        return over_rows(part, len(order)).expand(-1, len(order)).T[order]

    return qparams.map(columns)


def _sweep(columns: Tensor, lower: Tensor, qparams: QParams) -> Tensor:
    """Round the rows of ``columns`` (K, C_out), which are a weight's columns, from the last to the first.

    With G = L L^T the error of the output is |L^T e|^2, e the columns' errors. Its row i is
    ``L[i, i] e[i] + sum over j > i of L[j, i] e[j]``: each is made least by rounding column i with what the columns
    before it in this order have left there. This is GPTQ's rule without the inverse of G (LDLQ: Chee et al., QuIP,
    NeurIPS 2023, theorem 6).

    Args:
        columns: of the weight, in the order of ``lower``.
        lower: (K, K), L.
        qparams: of every column, (K, C_out).

    Returns:
        (K, C_out) of ``q - z``.
    """
    scale, zero = qparams.scale, qparams.zero_point.float()
    result, errors = torch.empty_like(columns), torch.empty_like(columns)
    for stop in range(columns.shape[0], 0, -BLOCK):
        start = max(stop - BLOCK, 0)
        left = lower[stop:, start:stop].T @ errors[stop:]
        inner = lower[start:stop, start:stop]
        for i in range(stop - start - 1, -1, -1):
            at = start + i
            target = columns[at] + left[i] / inner[i, i]
            result[at] = quantize(target, scale[at], zero[at], qparams.q_min, qparams.q_max) - zero[at]
            errors[at] = columns[at] - result[at] * scale[at]
            left[:i].addr_(inner[i, :i], errors[at])
    return result


def fitted_scale(weight: Tensor, integers: Tensor, moments: Moments, scale: Tensor) -> Tensor:
    """The scales of every output channel with the least output error for given integers: (C_out, G).

    Minimizes ``|w X_f - sum over g of s_g q_g X_q|^2`` over one s_g after another (Gauss-Seidel), so that no step
    raises it. One whose optimum is not within a factor of two of ``scale`` (all integers zero, say) stays as it is.

    Args:
        weight: (C_out, K) float32, full precision.
        integers: (C_out, K), ``q - z``.
        moments: of the layer's inputs.
        scale: (C_out, G), where it begins.
    """
    target = weight @ moments.gram
    if moments.drift is not None:
        target = target + moments.drift.T
    channels = max(1, GRAM_NUMBERS // scale.shape[1] ** 2)
    parts = zip(target.split(channels), integers.split(channels), scale.split(channels), strict=True)
    return torch.cat([_fitted(t, q, s, moments.gram) for t, q, s in parts])


def _fitted(target: Tensor, integers: Tensor, scale: Tensor, gram: Tensor) -> Tensor:
    """:func:`fitted_scale` of some channels; ``target`` (C, K) are their ``X_q^T X_f w / M``."""
    products = (target * integers).view(*scale.shape, -1).sum(2)
    grams = _group_grams(integers, gram, scale.shape[1])
    fitted = scale.clone()
    for _ in range(SCALE_SWEEPS):
        for g, start in enumerate(scale.unbind(1)):
            energy = grams[:, g, g]
            others = (grams[:, g] * fitted).sum(1) - energy * fitted[:, g]
            best = (products[:, g] - others) / energy.clamp(min=1e-20)
            sane = (best > 0.5 * start) & (best < 2 * start)
            fitted[:, g] = torch.where(sane, best, fitted[:, g])
    return fitted


def _group_grams(integers: Tensor, gram: Tensor, groups: int) -> Tensor:
    """``q_g G[g, h] q_h`` for every output channel and pair of groups: (C, G, G)."""
    width = integers.shape[1] // groups
    rows = []
    for part, block in zip(integers.split(width, 1), gram.split(width, 0), strict=True):
        rows.append(((part @ block) * integers).view(len(integers), groups, width).sum(2))
    return torch.stack(rows, 1)
