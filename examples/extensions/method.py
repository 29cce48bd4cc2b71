"""Three-sigma weight ranges, nearest integers, and scales fitted to what each layer puts out."""

import torch

from tempoquant.extension import ACTIVATION_RANGES, WEIGHT_RANGES, WEIGHT_ROUNDINGS
from tempoquant.methods import method
from tempoquant.numerics import nearest, over_rows


@WEIGHT_RANGES.register("three-sigma")
def three_sigma(rows, bits, symmetric):
    mean, deviation = rows.mean(1), rows.std(1, correction=0)
    return mean - 3 * deviation, mean + 3 * deviation


@ACTIVATION_RANGES.register("central-99")
def central_99(values, bits, symmetric):
    return values.quantile(0.005, dim=1), values.quantile(0.995, dim=1)


@WEIGHT_ROUNDINGS.register("nearest-fitted")
def nearest_fitted(weight, qparams, quantized, full):
    integers = nearest(weight, qparams)
    rounded = integers * over_rows(qparams.scale, weight.shape[1])
    target, output = weight @ full.T, rounded @ quantized.T
    factor = (target * output).sum(1, keepdim=True) / output.square().sum(1, keepdim=True).clamp(min=1e-12)
    return integers, qparams.with_scale(qparams.scale * torch.where(factor > 0, factor, 1))


@method("three-sigma", paper="mine", summary="three-sigma ranges, scales fitted to outputs")
def three_sigma_recipe(reading, activations):
    return {
        "weights": {"range": "three-sigma", "rounding": "nearest-fitted"},
        "activations": {"range": "central-99", "steps": "per-step"},
        "temporal": {"reconstruction": "block", "calibration": "finite-set"},
    }
