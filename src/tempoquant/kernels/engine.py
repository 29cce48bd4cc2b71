"""Choosing the backend that computes a denoiser's quantized layers, and reporting which does."""

import warnings

from torch import nn

from tempoquant.extension import guarded
from tempoquant.kernels.backends import Fusion, Reason, Unsupported, unsupported
from tempoquant.kernels.names import BACKENDS, backend_name
from tempoquant.kernels.norm_fusion import enable_norm_fusion
from tempoquant.kernels.packed_weight import unpack_weight
from tempoquant.layers import QuantizedLayer, quantized_layers, quantized_products

SIMULATION = "simulation"


def use_engine(module: nn.Module, engine: str = "auto") -> dict[str, str]:
    """Let a backend compute every quantized layer and attention product of ``module``, in place.

    Args:
        module: quantized.
        engine: a backend's name. "simulation" computes with integers held in float32 and float64, anywhere. "onednn",
            or "integer", uses the processor's int8 operators. Layers that a backend does not support are simulated,
            and all are, with a warning, if its check fails on this machine. "auto" is "integer" without the warning.

    Returns:
        What runs each layer, see :func:`engine_report`.

    Raises:
        InputError: there is no such engine, or a backend of the user's own fails.
    """
    name = backend_name(engine)
    chosen = name if guarded(f"engine {name!r}", BACKENDS[name].available) else SIMULATION
    if chosen != name and engine != "auto":
        warnings.warn(f"{BACKENDS[name].label} is not exact on this machine: layers are simulated", stacklevel=2)
    for layer in quantized_layers(module).values():
        layer.backend = chosen if unsupported(chosen, layer) is None else SIMULATION
        layer.kernel = BACKENDS[layer.backend].layer_kernel()
        unpack_weight(layer)
    for product in quantized_products(module).values():
        product.compute_with(*BACKENDS[chosen].product_kernels())
    enable_norm_fusion(module, Fusion.GROUP_NORM in BACKENDS[chosen].fusions)
    # Whoever wants simulation learns of each layer whether anything else could run it.
    return engine_report(module, "auto" if name == SIMULATION else name)


def engine_report(module: nn.Module, engine: str = "auto") -> dict[str, str]:
    """What runs every quantized layer, by name: a backend's label, or "simulation (why)".

    Args:
        module: quantized.
        engine: the backend that says why it does not run a layer.
    """
    name = backend_name(engine)
    return {layer_name: _what_runs(layer, name) for layer_name, layer in quantized_layers(module).items()}


def _what_runs(layer: QuantizedLayer, name: str) -> str:
    simulated = layer.backend == SIMULATION
    # A layer may have changed, or moved to another device, since the backend was chosen.
    why = unsupported(name if simulated else layer.backend, layer)
    if why is None and not simulated:
        return BACKENDS[layer.backend].label
    return f"{BACKENDS[SIMULATION].label} ({why or Unsupported(Reason.CHOSEN)})"
