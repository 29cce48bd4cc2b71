"""Error-compensated rounding in closed form.

Columns are rounded one after another; the error of each is spread over the columns not yet rounded so that the layer's
output on its own inputs changes least (Optimal Brain Quantization in the Cholesky form of GPTQ, Frantar et al., ICLR
2023, section 3). Before that, the weight is moved to the one whose output on the *quantized* network's inputs is
closest to the full-precision output (the asymmetric reconstruction of the BRECQ family, in closed form).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tempoquant.numerics import QParams, quantize

BLOCK = 128


@dataclass
class Moments:
    """Second moments of a layer's inputs, float32.

    Attributes:
        gram: (K, K), X_q X_q^T / M over M input vectors of the partly quantized network.
        cross: (K, K), (X_f - X_q) X_q^T / M with the full-precision network's inputs, or None when they are equal.
    """

    gram: Tensor
    cross: Tensor | None

    @classmethod
    def of(cls, quantized: Tensor, full: Tensor | None) -> "Moments":
        """Moments of input vectors (M, K); ``full`` are the same vectors in the full-precision network."""
        count = quantized.shape[0]
        gram = quantized.T @ quantized / count
        cross = None if full is None else (full - quantized).T @ quantized / count
        return cls(gram, cross)


def damped(gram: Tensor, damping: float) -> Tensor:
    """``gram`` plus ``damping`` times its mean diagonal: invertible however few inputs made it."""
    mean = gram.diagonal().mean().clamp(min=1e-12)
    return gram + (damping * mean) * torch.eye(gram.shape[0], dtype=gram.dtype)


def compensated_rounding(weight: Tensor, moments: Moments, qparams: QParams, damping: float = 0.01) -> Tensor:
    """Integers whose layer output on the recorded inputs is close to the full-precision one.

    Args:
        weight: (C_out, K) float32, full precision.
        moments: of the layer's inputs.
        qparams: scale and zero point (C_out,), fixed.
        damping: share of the mean diagonal that is added to the Gram matrix.

    Returns:
        (C_out, K): ``q - z``, integer-valued float32.
    """
    gram = damped(moments.gram, damping)
    factor = torch.linalg.cholesky(gram)
    if moments.cross is not None:
        weight = weight + torch.cholesky_solve(moments.cross.T @ weight.T, factor).T
    order = gram.diagonal().argsort(descending=True)
    factor = torch.linalg.cholesky(gram[order][:, order])
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    rounded = _sweep(weight.T[order].contiguous(), upper, qparams)
    result = torch.empty_like(rounded)
    result[order] = rounded
    return result.T.contiguous()


def _sweep(columns: Tensor, upper: Tensor, qparams: QParams) -> Tensor:
    """Round the rows of ``columns`` (K, C_out), which are a weight's columns, in order: (K, C_out) of ``q - z``."""
    scale, zero = qparams.scale, qparams.zero.float()
    result = torch.empty_like(columns)
    for start in range(0, columns.shape[0], BLOCK):
        stop = min(start + BLOCK, columns.shape[0])
        block, inner = columns[start:stop], upper[start:stop, start:stop]
        errors = torch.empty_like(block)
        for i in range(stop - start):
            result[start + i] = quantize(block[i], scale, zero, qparams.q_min, qparams.q_max) - zero
            errors[i] = (block[i] - result[start + i] * scale) / inner[i, i]
            block[i + 1 :].addr_(inner[i, i + 1 :], errors[i], alpha=-1)
        columns[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return result


def fitted_scale(weight: Tensor, integers: Tensor, moments: Moments, scale: Tensor) -> Tensor:
    """The scale of every output channel with the least output error for given integers: (C_out,).

    Minimizes ``|w X_f - s q X_q|^2`` over s; channels whose optimum is not within a factor of two of ``scale`` (all
    integers zero, say) keep it.
    """
    target = weight @ (moments.gram if moments.cross is None else moments.gram + moments.cross)
    numerator = (target * integers).sum(1)
    denominator = ((integers @ moments.gram) * integers).sum(1)
    fitted = numerator / denominator.clamp(min=1e-20)
    sane = (fitted > 0.5 * scale) & (fitted < 2 * scale)
    return torch.where(sane, fitted, scale)
