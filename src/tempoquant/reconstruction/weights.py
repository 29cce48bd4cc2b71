"""Rounding of all weights: grids, temporal layers first, then every unit in execution order during one pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tempoquant.graph import DenoiserGraph, Unit
from tempoquant.layers import QuantizedLayer
from tempoquant.numerics import QParams, weight_qparams
from tempoquant.planning import LayerPlan
from tempoquant.progress import Progress
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.reconstruction.cache import UnitCache
from tempoquant.reconstruction.effort import Effort
from tempoquant.reconstruction.lockstep import Lockstep, halves, take_rows, visit_units
from tempoquant.reconstruction.unit import (
    LayerRounding,
    LearnedLayer,
    UnitCall,
    compensate,
    compensate_about_mean,
    first_tensor,
    learn_rounding,
    round_nearest_in,
)


@dataclass
class WeightState:
    """What rounding of the weights reads and changes.

    Attributes:
        module: the denoiser, its layers already :class:`~tempoquant.layers.QuantizedLayer`, changed in place.
        layers: those layers by name.
        plans: what happens to each.
        cache: finished units.
        full, biases: their full-precision weights, and biases or None.
    """

    module: nn.Module
    graph: DenoiserGraph
    recipe: Recipe
    effort: Effort
    layers: dict[str, QuantizedLayer]
    plans: dict[str, LayerPlan]
    cache: UnitCache
    progress: Progress
    full: dict[str, Tensor] = field(init=False)
    biases: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.full = {name: layer.weight.detach() for name, layer in self.layers.items()}
        self.biases = {name: layer.bias for name, layer in self.layers.items()}

    def grid(self, name: str) -> QParams:
        """The layer's grid (C_out, G) before any fitting."""
        plan, layout = self.plans[name], self.layers[name].layout
        groups = 1 if plan.group_size is None else layout.input_channels // plan.group_size
        rows = layout.to_rows(self.full[name])
        return weight_qparams(rows, plan.weight_bits, plan.symmetric, self.recipe.weights.range, groups)

    def quantizes(self, name: str) -> bool:
        """Whether the layer's weight becomes integers."""
        return self.plans[name].weight_bits != FLOAT_BITS

    @property
    def learns(self) -> bool:
        """Whether units learn their rounding after it was begun in closed form; a user's own rounding stands."""
        return self.recipe.weights.rounding == "reconstruct" and self.effort.iterations > 0

    @property
    def rounds_layers(self) -> bool:
        """Whether every layer is rounded from its own inputs, one after another."""
        return self.recipe.weights.rounding != "reconstruct" or self.effort.compensate

    def restore(self, unit: str) -> bool:
        """Set the weights of a unit that an earlier run finished; False if none did."""
        tensors = self.cache.load(unit)
        if tensors is None:
            return False
        for name in {key.rsplit(".", 1)[0] for key in tensors}:
            bits = self.plans[name].weight_bits
            grid = QParams(tensors[f"{name}.scale"], tensors[f"{name}.zero"], 0, 2**bits - 1)
            self.layers[name].set_weight(tensors[f"{name}.integers"], grid, bits)
            if f"{name}.bias" in tensors:
                self.set_bias(name, tensors[f"{name}.bias"])
        return True

    def keep(self, unit: str, names: tuple[str, ...] | list[str]) -> None:
        """Put the finished weights of a unit into the cache."""
        tensors = {}
        for name in names:
            layer = self.layers[name]
            if layer.weight_scale is not None and layer.weight_zero is not None:
                tensors[f"{name}.integers"] = layer.weight.detach()
                tensors[f"{name}.scale"], tensors[f"{name}.zero"] = layer.weight_scale, layer.weight_zero
                if layer.bias is not self.biases[name]:
                    tensors[f"{name}.bias"] = layer.bias.detach()
        self.cache.save(unit, tensors)

    def set_bias(self, name: str, bias: Tensor) -> None:
        """Give a layer another bias than full precision's."""
        self.layers[name].bias = nn.Parameter(bias, requires_grad=False)


def round_nearest(state: WeightState, names: list[str]) -> None:
    """Rounding to nearest for the named layers; no data."""
    for name in names:
        if state.quantizes(name):
            grid, layer = state.grid(name), state.layers[name]
            integers = round_nearest_in(layer.layout, state.full[name], grid)
            layer.set_weight(integers, grid, state.plans[name].weight_bits)


def reconstruct_units(state: WeightState, units: list[Unit], run: Callable[[], Any], batch: int) -> None:
    """Reconstruct ``units`` while ``run`` does one forward pass over a batch of two equal halves.

    Args:
        units: in execution order; their layers are rounded, all others run as they are.
        run: calls the denoiser on ``batch`` rows, the second half a copy of the first.
    """
    with (
        Lockstep(state.layers, state.full, state.biases, batch) as lockstep,
        state.progress.stage("units", len(units)) as advance,
    ):
        visit_units(state.module, units, _Reconstruction(state, lockstep, advance), run)


@dataclass
class _Reconstruction:
    """Reconstructs a unit when the pass first reaches it."""

    state: WeightState
    lockstep: Lockstep
    advance: Callable[[int], None]

    def __call__(self, unit: Unit, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not self.state.restore(unit.name):
            names = [name for name in unit.layers if self.state.quantizes(name)]
            if names:
                self._reconstruct(unit, module, args, kwargs, names)
            self.state.keep(unit.name, names)
        self.advance(1)

    def _reconstruct(
        self, unit: Unit, module: nn.Module, args: tuple, kwargs: dict[str, Any], names: list[str]
    ) -> None:
        grids = {name: self.state.grid(name) for name in names}
        if self.state.rounds_layers:
            self.lockstep.visits = {name: self._visit(grids) for name in names}
        output = first_tensor(module.forward(*args, **kwargs))
        for name in [n for n in names if n in self.lockstep.visits]:
            self.lockstep.visits.pop(name)
            grids.pop(name)
        if self.state.learns:
            self._learn(unit, module, args, kwargs, grids, output)

    def _visit(self, grids: dict[str, QParams]) -> Callable[[str, QuantizedLayer, Tensor, Tensor], None]:
        def visit(name: str, layer: QuantizedLayer, quantized: Tensor, full: Tensor) -> None:
            state, key = self.state, (self.state.recipe.seed, "unit", name)
            how, bias, vectors = state.recipe.weights, state.biases[name], state.effort.vectors
            job = LayerRounding(
                layer, state.full[name], grids[name], quantized, full, vectors, key, method=how.rounding
            )
            rounded = compensate_about_mean(job) if how.fit_bias and bias is not None else compensate(job)
            if rounded.bias_shift is not None:
                state.set_bias(name, bias + rounded.bias_shift)
            grids[name] = rounded.qparams
            layer.set_weight(rounded.integers, rounded.qparams, state.plans[name].weight_bits)

        return visit

    def _learn(
        self,
        unit: Unit,
        module: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
        grids: Mapping[str, QParams],
        output: Tensor,
    ) -> None:
        state, batch = self.state, self.lockstep.batch
        first = slice(0, batch // 2)
        target = halves(output, batch)[1].clone()
        call = UnitCall(take_rows(args, first, batch), take_rows(kwargs, first, batch), target)
        layers = {name: LearnedLayer(state.layers[name], state.full[name], grid) for name, grid in grids.items()}
        with self.lockstep.paused():
            learned = learn_rounding(module, layers, call, state.effort, (state.recipe.seed, "learn", unit.name))
        for name, integers in learned.items():
            state.layers[name].set_weight(integers, grids[name], state.plans[name].weight_bits)
