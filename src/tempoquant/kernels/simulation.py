"""The backend that runs every layer, anywhere: integers held in float32 and float64."""

from tempoquant.kernels.backends import Backend, Unsupported, backend
from tempoquant.layers import LayerKernel, QuantizedLayer, simulate


@backend("simulation")
class Simulation(Backend):
    """See :mod:`tempoquant.layers.simulation`: what a quantized layer means, and what other backends are tested to."""

    label = "simulation"

    def supports(self, layer: QuantizedLayer) -> Unsupported | None:
        return None

    def layer_kernel(self) -> LayerKernel:
        return simulate
