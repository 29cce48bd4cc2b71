"""Choosing what computes the quantized layers of a denoiser, and telling what does."""

import warnings

from torch import nn

from tempoquant.errors import unknown
from tempoquant.kernels.check import integers_are_exact
from tempoquant.kernels.names import ENGINES
from tempoquant.kernels.norm_fusion import enable_norm_fusion
from tempoquant.kernels.onednn import IntegerKernel, unsuitable
from tempoquant.kernels.packed_weight import keep_plain
from tempoquant.kernels.products import integer_attention, integer_product
from tempoquant.kernels.quantize import dequantize_centered
from tempoquant.layers import quantized_layers, quantized_products, simulate, simulate_product


def use_engine(module: nn.Module, engine: str = "auto") -> dict[str, str]:
    """Let ``engine`` compute every quantized layer of ``module``, in place.

    Args:
        engine: "simulation" computes with integers held in float32 and float64, anywhere. "integer" uses the
            processor's int8 operators; layers that these cannot run are simulated, and if a check finds them wrong
            on this machine, all are, with a warning. "auto" is "integer" without the warning.

    Returns:
        What runs each layer, see :func:`engine_report`.

    Raises:
        InputError: there is no such engine.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    integer = engine != "simulation" and integers_are_exact()
    if engine == "integer" and not integer:
        warnings.warn("this processor's int8 operators are not exact: layers are simulated in float", stacklevel=2)
    for layer in quantized_layers(module).values():
        layer.kernel = IntegerKernel() if integer and unsuitable(layer) is None else simulate
        if layer.kernel is simulate:
            keep_plain(layer)
    for product in quantized_products(module).values():
        if integer:
            product.compute_with(integer_product, integer_attention, dequantize_centered)
        else:
            product.compute_with(simulate_product)
    enable_norm_fusion(module, integer)
    return engine_report(module)


def engine_report(module: nn.Module) -> dict[str, str]:
    """The kernel of every quantized layer by name: "onednn int8", or "simulation (why)"."""
    report = {}
    for name, layer in quantized_layers(module).items():
        kernel, why = layer.kernel, unsuitable(layer)
        runs = isinstance(kernel, IntegerKernel) and why is None
        report[name] = IntegerKernel.name if runs else f"simulation ({why or 'chosen'})"
    return report
