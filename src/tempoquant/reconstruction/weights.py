"""The weight stage: grids, temporal layers first, then every unit in execution order during one pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph import DenoiserGraph, Unit
from tempoquant.layers import QuantizedLayer
from tempoquant.numerics import QParams
from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.progress import Progress
from tempoquant.recipe import FLOAT_BITS, Recipe
from tempoquant.reconstruction.cache import UnitCache
from tempoquant.reconstruction.effort import Effort
from tempoquant.reconstruction.lockstep import Lockstep, halves, take_rows
from tempoquant.reconstruction.plan import LayerPlan
from tempoquant.reconstruction.unit import compensate, first_tensor, learn_rounding


@dataclass
class WeightStage:
    """Everything the weight stage reads and changes.

    Attributes:
        module: the denoiser, its layers already :class:`~tempoquant.layers.QuantizedLayer`, changed in place.
        layers: those layers by name. plans: what happens to each. full: their full-precision weights.
        cache: finished units.
    """

    module: nn.Module
    graph: DenoiserGraph
    recipe: Recipe
    effort: Effort
    layers: dict[str, QuantizedLayer]
    plans: dict[str, LayerPlan]
    full: dict[str, Tensor]
    cache: UnitCache
    progress: Progress

    def grid(self, name: str) -> QParams:
        """The layer's per-channel grid before any fitting."""
        plan = self.plans[name]
        return weight_qparams(self.full[name], plan.weight_bits, plan.symmetric, self.recipe.weights.range)

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
        return True

    def keep(self, unit: str, names: tuple[str, ...] | list[str]) -> None:
        """Put the finished weights of a unit into the cache."""
        tensors = {}
        for name in names:
            layer = self.layers[name]
            if layer.weight_scale is not None and layer.weight_zero is not None:
                tensors[f"{name}.integers"] = layer.weight.detach()
                tensors[f"{name}.scale"], tensors[f"{name}.zero"] = layer.weight_scale, layer.weight_zero
        self.cache.save(unit, tensors)


def round_nearest(stage: WeightStage, names: list[str]) -> None:
    """Rounding to nearest for the named layers; no data."""
    for name in names:
        if stage.quantizes(name):
            grid = stage.grid(name)
            stage.layers[name].set_weight(nearest(stage.full[name], grid), grid, stage.plans[name].weight_bits)


def reconstruct_units(stage: WeightStage, units: list[Unit], run: Callable[[], Any], batch: int) -> None:
    """Reconstruct ``units`` while ``run`` does one forward pass over a batch of two equal halves.

    Args:
        units: in execution order; their layers are rounded, all others run as they are.
        run: calls the denoiser on ``batch`` rows, the second half a copy of the first.
    """
    modules = dict(stage.module.named_modules())
    with Lockstep(stage.layers, stage.full, batch) as lockstep, stage.progress.stage("units", len(units)) as advance:
        handles = []
        for unit in units:
            hook = _UnitHook(stage, unit, lockstep, advance)
            handles.append(modules[unit.name].register_forward_pre_hook(hook, with_kwargs=True))
        try:
            with torch.no_grad():
                run()
        finally:
            for handle in handles:
                handle.remove()


@dataclass
class _UnitHook:
    """Reconstructs a unit when the pass first reaches it."""

    stage: WeightStage
    unit: Unit
    lockstep: Lockstep
    advance: Callable[[int], None]
    done: bool = False

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.done:
            return
        self.done = True
        if not self.stage.restore(self.unit.name):
            names = [name for name in self.unit.layers if self.stage.quantizes(name)]
            if names:
                self._reconstruct(module, args, kwargs, names)
            self.stage.keep(self.unit.name, names)
        self.advance(1)

    def _reconstruct(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], names: list[str]) -> None:
        grids = {name: self.stage.grid(name) for name in names}
        if self.stage.rounds_layers:
            self.lockstep.visits = {name: self._visit(grids) for name in names}
        output = first_tensor(module.forward(*args, **kwargs))
        for name in [n for n in names if n in self.lockstep.visits]:
            self.lockstep.visits.pop(name)
            grids.pop(name)
        if self.stage.learns:
            self._learn(module, args, kwargs, grids, output)

    def _visit(self, grids: dict[str, QParams]) -> Callable[[str, QuantizedLayer, Tensor, Tensor], None]:
        def visit(name: str, layer: QuantizedLayer, quantized: Tensor, full: Tensor) -> None:
            key = (self.stage.recipe.seed, "unit", name)
            weight = self.stage.full[name]
            rounding = self.stage.recipe.weights.rounding
            integers, grids[name] = compensate(
                layer, weight, grids[name], quantized, full, self.stage.effort, key, rounding
            )
            layer.set_weight(integers, grids[name], self.stage.plans[name].weight_bits)

        return visit

    def _learn(
        self, module: nn.Module, args: tuple, kwargs: dict[str, Any], grids: Mapping[str, QParams], output: Tensor
    ) -> None:
        stage, batch = self.stage, self.lockstep.batch
        first = slice(0, batch // 2)
        call = (take_rows(args, first, batch), take_rows(kwargs, first, batch))
        with self.lockstep.paused():
            learned = learn_rounding(
                module,
                {name: stage.layers[name] for name in grids},
                stage.full,
                grids,
                call,
                halves(output, batch)[1].clone(),
                stage.effort,
                (stage.recipe.seed, "learn", self.unit.name),
            )
        for name, integers in learned.items():
            stage.layers[name].set_weight(integers, grids[name], stage.plans[name].weight_bits)
