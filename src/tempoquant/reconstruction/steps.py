"""Learning activation steps: the second stage of BRECQ (Li et al., ICLR 2021), as Q-Diffusion and TDQ use it.

Weights are integers and ranges are calibrated. Unit after unit in execution order, the step sizes of all activations
inside learn together against the unit's full-precision output, zero points fixed, by ``|y_hat - y|^2.4`` and Adam.
Inputs and targets come from one pass of two streams, as for the weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tempoquant.graph import Unit
from tempoquant.intervals import Clock
from tempoquant.layers import AttentionProducts, Site, layer_sites, operand_sites
from tempoquant.learned import ARCHITECTURES, Architecture, KeptNetworks, keep_in
from tempoquant.patching import surround
from tempoquant.reconstruction.cache import UnitCache
from tempoquant.reconstruction.lockstep import Lockstep, halves, take_rows, visit_units
from tempoquant.reconstruction.step_learning import STEP_SIZES, Call, StepLearner, kept_in, with_scale
from tempoquant.reconstruction.unit import first_tensor
from tempoquant.reconstruction.weights import WeightState

NETWORKS = "networks:"


@dataclass
class StepState:
    """What learning of activation steps reads and changes.

    Attributes:
        weights: state of the weights, rounded; their layers are calibrated.
        attention: quantized products by owner.
        clock: of the module, attached.
        train_timesteps: T, the length of the training schedule.
        cache: step sizes of finished units.
    """

    weights: WeightState
    attention: Mapping[str, AttentionProducts]
    clock: Clock
    train_timesteps: int
    cache: UnitCache

    @property
    def architecture(self) -> Architecture | None:
        """Of the networks that give step sizes; None where these learn themselves."""
        how = self.weights.recipe.activations
        return ARCHITECTURES[how.generator] if how.steps == "generator" else None

    def sites(self, unit: Unit) -> list[Site]:
        """The quantized activations of a unit: inputs of its layers, operands of products that run inside of it."""
        layers = {name: self.weights.layers[name] for name in unit.layers if name in self.weights.layers}
        inside = {o: products for o, products in self.attention.items() if f"{o}.".startswith(f"{unit.name}.")}
        return layer_sites(layers) + operand_sites(inside)

    def restore(self, unit: str, sites: list[Site]) -> bool:
        """Set the step sizes of a unit that an earlier run finished; False if none did."""
        tensors = self.cache.load(unit)
        if tensors is None:
            return False
        for site in sites:
            site.provider = with_scale(site.provider, tensors[site.name], self.clock)
        networks = {n.removeprefix(NETWORKS): t for n, t in tensors.items() if n.startswith(NETWORKS)}
        if networks and self.architecture is not None:
            kept = KeptNetworks.of(STEP_SIZES, self.architecture, self.train_timesteps, networks)
            keep_in((site.provider for site in sites), kept)
        return True

    def keep(self, unit: str, sites: list[Site]) -> None:
        """Put the step sizes of a finished unit into the cache."""
        kept = kept_in(sites)
        networks = {} if kept is None else {NETWORKS + name: tensor for name, tensor in kept.tensors.items()}
        self.cache.save(unit, {site.name: site.provider.scale for site in sites} | networks)

    def at_quantized_half(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of the denoiser at the time steps of the quantized stream alone: nothing else asks the clock."""
        timestep = self.clock.timestep
        if timestep is None or not timestep.dim():
            return forward(*args, **kwargs)
        with self.clock.at(timestep.chunk(2)[0]):
            return forward(*args, **kwargs)


def learn_activation_steps(state: StepState, units: list[Unit], run: Callable[[], Any], batch: int) -> None:
    """Learn the step sizes of ``units`` while ``run`` does one forward pass over a batch of two equal halves.

    Args:
        state: changed in place.
        units: in execution order.
        run: calls the denoiser on ``batch`` rows, the second half a copy of the first.
        batch: rows of both halves.
    """
    weights = state.weights
    products: Any = [product for attention in state.attention.values() for product in attention.products]
    undo = surround(weights.module, state.at_quantized_half)
    try:
        with (
            Lockstep(weights.layers, weights.full, weights.biases, batch, products) as lockstep,
            weights.progress.stage("activation steps", len(units)) as advance,
        ):
            visit_units(weights.module, units, _Learning(state, lockstep, advance), run)
    finally:
        undo()


@dataclass
class _Learning:
    """Learns a unit's step sizes when the pass first reaches it."""

    state: StepState
    lockstep: Lockstep
    advance: Callable[[int], None]

    def __call__(self, unit: Unit, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        sites = self.state.sites(unit)
        if sites and not self.state.restore(unit.name, sites):
            self._learn(unit, module, args, kwargs, sites)
            self.state.keep(unit.name, sites)
        self.advance(1)

    def _learn(self, unit: Unit, module: nn.Module, args: tuple, kwargs: dict[str, Any], sites: list[Site]) -> None:
        state, batch, clock = self.state.weights, self.lockstep.batch, self.state.clock
        how, key = state.recipe.activations, (state.recipe.seed, "activation steps", unit.name)
        target = halves(first_tensor(module.forward(*args, **kwargs)), batch)[1].clone()
        stream = slice(0, batch // 2) if how.learn_inputs == "quantized" else slice(batch // 2, batch)
        timestep = clock.timestep
        assert timestep is not None
        call = Call(take_rows(args, stream, batch), take_rows(kwargs, stream, batch), target, timestep)
        learner = StepLearner(module, call, clock, state.effort.steps, key, how.keep_generators)
        with self.lockstep.paused(), clock.at(timestep):
            learner.learn(sites, self.state.architecture, self.state.train_timesteps)
