"""Preparing a copy of the denoiser: layers transformed, then made quantizable; it still computes full precision."""

import copy
from dataclasses import replace

from tempoquant.layers import install_attention, install_layers
from tempoquant.planning import quantized_names
from tempoquant.stages.stage import Stage
from tempoquant.stages.state import JobState
from tempoquant.transforms import install_transforms


class Transform(Stage):
    """Transforms the layers of a copy as the recipe says, and makes layers and attention products quantizable."""

    name = "transform"
    needs = ("reading", "plans", "clock")
    gives = ("denoiser", "layers", "attention")

    def run(self, state: JobState) -> None:
        """See :class:`Stage`."""
        module = copy.deepcopy(state.model.denoiser.module).eval().requires_grad_(False)
        install_transforms(module, state.reading.transforms)
        state.layers = dict(install_layers(module, quantized_names(state.plans)))
        state.attention = install_attention(module, state.reading.products)
        state.clock.attach(module)
        state.denoiser = replace(state.model.denoiser, module=module)
