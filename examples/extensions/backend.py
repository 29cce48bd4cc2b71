"""A backend: linear layers in NumPy's exact int64; all others are simulated, with the reason.

It is chosen by its name: ``quantized.use_engine("numpy")``, ``--engine numpy``.
"""

import numpy as np
import torch
from torch import nn

from tempoquant.kernels import Backend, Reason, Unsupported, backend


@backend("numpy")
class Numpy(Backend):
    """Linear layers in NumPy's int64, slowly."""

    label = "numpy int64"

    def supports(self, layer):
        if not isinstance(layer, nn.Linear):
            return Unsupported(Reason.OTHER, f"no linear layer but a {type(layer).__name__}")
        if layer.weight_scale is None or layer.input_interval is None:
            return Unsupported(Reason.FLOAT_INPUT)
        return None

    def layer_kernel(self):
        return linear


def linear(layer, x):
    """``((acc * s_x) * s_w + b)`` of a layer whose input has one scale, (..., C_in) -> (..., C_out) float32."""
    q = layer.input_interval.scalar_qparams()
    integers = np.rint(x.detach().numpy().astype(np.float32) / np.float32(q.scale)) + q.zero_point
    integers = np.clip(integers, q.q_min, q.q_max).astype(np.int64) - int(q.zero_point)
    acc = (integers @ layer.weight.detach().numpy().astype(np.int64).T).astype(np.float32)
    out = acc * np.float32(q.output_scale) * layer.weight_scale.numpy()[:, 0]
    return torch.from_numpy(out if layer.bias is None else out + layer.bias.detach().numpy())
