"""From a calibrated float network to one that trains, and from that to a quantized one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from tempoquant.graph import Category
from tempoquant.intervals import Clock, ConstantInterval
from tempoquant.layers import AttentionProducts, QuantizedLayer, Site, layer_sites, learn_with_gradients, operand_sites
from tempoquant.learned import (
    ARCHITECTURES,
    SCHEMES,
    STATISTICS,
    Architecture,
    Bank,
    Draws,
    LearnedInterval,
    RangeInterval,
    StatisticsInterval,
    fold_intervals,
)
from tempoquant.planning import LayerPlan
from tempoquant.recipe import FLOAT_BITS, Recipe, Training
from tempoquant.training.weights import LowRank, WeightQuantizer, fold_weight, train_weight


@dataclass
class Trainee:
    """A network that trains.

    Attributes:
        module: the denoiser; everything that learns is a parameter of it.
        bank: the learned intervals of its activations, or None where none is learned.
        draws: random numbers of the current step.
        layers: with quantized weights or inputs, by name.
        sites: activations whose intervals are learned.
        clock: of the module.
        hook: computes the intervals at every call of the module.
    """

    module: nn.Module
    bank: Bank | None
    draws: Draws
    layers: dict[str, QuantizedLayer]
    sites: list[Site]
    clock: Clock
    hook: RemovableHandle


def make_trainable(
    module: nn.Module,
    layers: Mapping[str, QuantizedLayer],
    attention: Mapping[str, AttentionProducts],
    plans: Mapping[str, LayerPlan],
    clock: Clock,
    recipe: Recipe,
    train_timesteps: int,
) -> Trainee:
    """Let every parameter of a calibrated network learn, with its quantizers, in place.

    Args:
        module: the denoiser.
        layers: with float weights and calibrated inputs, by name.
        attention: calibrated products by owner.
        plans: what happens to each layer.
        clock: attached to ``module``.
        recipe: with a training part.
        train_timesteps: T, the length of the training schedule.
    """
    how = recipe.training
    assert how is not None
    scheme, draws = SCHEMES[how.scheme], Draws()
    module.requires_grad_(True)
    sites = _sites(layers, attention, plans)
    bank = _learned(sites, clock, recipe, how, train_timesteps, draws)
    for name, layer in layers.items():
        if plans[name].weight_bits == FLOAT_BITS:
            continue
        quantizer = WeightQuantizer(layer.weight, scheme, plans[name], layer.layout, recipe.weights.range, draws)
        adapter = [] if how.lora is None else [LowRank(layer.weight, how.lora, (recipe.seed, "adapter", name))]
        train_weight(layer, *adapter, quantizer)
    if how.lora is not None:
        _freeze_all_but_quantizers(module)
    learn_with_gradients(module)

    def set_bank(*_: Any) -> None:
        if bank is not None and clock.timestep is not None and not _from_inputs(sites):
            bank.set(clock.timestep)

    # Registered after the clock's own hook, and so called after it.
    hook = module.register_forward_pre_hook(set_bank)
    return Trainee(module, bank, draws, dict(layers), sites, clock, hook)


def fold(trainee: Trainee, keep: bool = False) -> nn.Module:
    """The network quantized, in place: integers, constants and tables, nothing that learns.

    Intervals that follow the input itself stay what they are: such a network runs, but has no form on disk.

    Args:
        keep: let tables keep the networks that made them.
    """
    trainee.hook.remove()
    for layer in trainee.layers.values():
        fold_weight(layer)
    dynamic = _from_inputs(trainee.sites)
    if trainee.bank is not None and not dynamic:
        fold_intervals(trainee.sites, trainee.bank, trainee.clock, keep)
    learn_with_gradients(trainee.module, dynamic)
    return trainee.module.requires_grad_(False).eval()


def architecture_of(recipe: Recipe, how: Training) -> Architecture | None:
    """The interval networks that a recipe names, or None for parameters."""
    if recipe.activations.steps != "generator" and how.sees == "time":
        return None
    plain = ARCHITECTURES[recipe.activations.generator]
    encoding = plain.encoding if recipe.activations.generator == "thin" else how.encoding
    own = replace(plain, encoding=encoding, initialization=how.initialization)
    if how.sees == "time":
        return own
    return replace(own, encoding="absent" if how.sees == "statistics" else encoding, statistics=STATISTICS)


def _learned(
    sites: list[Site], clock: Clock, recipe: Recipe, how: Training, train_timesteps: int, draws: Draws
) -> Bank | None:
    start = [site.provider for site in sites]
    if not sites:
        return None
    if how.sees == "range":
        for site, provider in zip(sites, start, strict=True):
            site.provider = RangeInterval(provider)
        return None
    key = (recipe.seed, "interval networks")
    bank = Bank(start, SCHEMES[how.scheme], architecture_of(recipe, how), train_timesteps, draws, key)
    kind = LearnedInterval if how.sees == "time" else StatisticsInterval
    for index, (site, provider) in enumerate(zip(sites, start, strict=True)):
        site.provider = kind(provider, bank, index, clock)
    return bank


def _sites(
    layers: Mapping[str, QuantizedLayer], attention: Mapping[str, AttentionProducts], plans: Mapping[str, LayerPlan]
) -> list[Site]:
    """Activations that learn. An input that never changes has no row an item, and so no time steps."""
    varying = {name: layer for name, layer in layers.items() if plans[name].category is not Category.CONSTANT}
    inputs = [site for site in layer_sites(varying) if isinstance(site.provider, ConstantInterval)]
    return inputs + operand_sites(attention)


def _from_inputs(sites: list[Site]) -> bool:
    return any(isinstance(site.provider, RangeInterval | StatisticsInterval) for site in sites)


def _freeze_all_but_quantizers(module: nn.Module) -> None:
    parts = [part for part in module.modules() if isinstance(part, LowRank | WeightQuantizer | Bank)]
    learn = {id(p) for part in parts for p in part.parameters() if p.requires_grad}
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in learn)
