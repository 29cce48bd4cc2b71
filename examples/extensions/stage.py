"""A stage: weight scales that are 1 % larger; and a method whose recipe has it run."""

from tempoquant.methods import find_method, method
from tempoquant.stages import Stage, stage


@stage(after="units")
class WiderScales(Stage):
    """Multiplies the scales of all weights that the job has rounded by 1.01."""

    name = "wider scales"
    needs = ("layers",)

    def run(self, state):
        for layer in state.layers.values():
            if layer.weight_scale is not None:
                layer.weight_scale.mul_(1.01)


@method("wide-rtn", paper="mine", summary="rounding to nearest, scales 1 % larger")
def wide_rtn(reading, activations):
    return {**find_method("rtn").entries(reading, activations), "stages": ["wider scales"]}
