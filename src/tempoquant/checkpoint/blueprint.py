"""The structure of a quantized denoiser as JSON data: with its tensors, enough to rebuild it from a stock module."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from tempoquant.checkpoint.entries import check_entries
from tempoquant.checkpoint.features import described_replacements
from tempoquant.errors import FormatError
from tempoquant.graph import AttentionProduct, TimeArgument
from tempoquant.intervals import IntervalProvider
from tempoquant.layers import QuantizedLayer, quantized_layers, quantized_products
from tempoquant.learned import kept_networks
from tempoquant.recipe import Recipe
from tempoquant.registration import QUANT_METHOD
from tempoquant.transforms import LayerTransform

FORMAT_VERSION = 2
"""1: up to November 2026; 2: inputs quantized per token or dynamically, weights by group, transforms."""


@dataclass(frozen=True)
class Blueprint:
    """The quantized denoiser's structure.

    Attributes:
        recipe: that it was quantized by.
        time_argument: where the module's forward takes the time step.
        shared: layers of the temporal information block that others follow: h.
        projections: its last layers: every g_i.
        attention: the attention products that can be quantized.
        transforms: of layers, in order.
    """

    recipe: Recipe
    time_argument: TimeArgument
    shared: tuple[str, ...]
    projections: tuple[str, ...]
    attention: tuple[AttentionProduct, ...]
    transforms: tuple[LayerTransform, ...] = ()

    def to_config(self, module: nn.Module) -> dict[str, Any]:
        """The ``quantization_config`` of ``module``: plain JSON data, without tensors."""
        providers = interval_providers(module)
        index = {id(provider): i for i, provider in enumerate(providers)}
        networks = _described_networks(module, index)
        return {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "recipe": self.recipe.model_dump(mode="json"),
            "time_argument": asdict(self.time_argument),
            "shared": list(self.shared),
            "projections": list(self.projections),
            "intervals": [provider.to_entry() for provider in providers],
            "layers": {
                name: {
                    "bits": layer.weight_bits,
                    "symmetric": is_symmetric(layer),
                    **({"group_size": layer.group_size} if layer.group_size is not None else {}),
                    "input": None if layer.input_interval is None else index[id(layer.input_interval)],
                }
                for name, layer in quantized_layers(module).items()
            },
            "transforms": [transform.to_entry() for transform in self.transforms],
            "stand_ins": described_replacements(module),
            "attention": [asdict(product) for product in self.attention],
            "operands": {
                name: {operand: index[id(p)] for operand, p in product.intervals.items()}
                for name, product in quantized_products(module).items()
            },
            **({"networks": networks} if networks else {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Blueprint":
        """The inverse of :meth:`to_config`.

        Raises:
            FormatError: not ours, of a newer format version, or an entry is not what it should be.
        """
        if config.get("quant_method") != QUANT_METHOD:
            raise FormatError(f"quant_method is {config.get('quant_method')!r}, not {QUANT_METHOD!r}")
        if int(config.get("format_version", 0)) > FORMAT_VERSION:
            raise FormatError(
                f"format version {config['format_version']} is newer than {FORMAT_VERSION}, the newest this "
                "tempoquant reads: upgrade tempoquant"
            )
        check_entries(config)
        attention = tuple(AttentionProduct(**{**a, "calls": tuple(a["calls"])}) for a in config["attention"])
        return cls(
            Recipe.parse(config["recipe"], stored=True),
            TimeArgument(**config["time_argument"]),
            tuple(config["shared"]),
            tuple(config["projections"]),
            attention,
            tuple(LayerTransform.from_entry(entry) for entry in _transforms(config)),
        )


def _transforms(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Entries of transforms; older folders store split layers alone, under ``splits``, or none."""
    splits = config.get("splits", {}).items()
    older = [{"layer": layer, "kind": "split", "channels": channels} for layer, channels in splits]
    return [*older, *config.get("transforms", ())]


def interval_providers(module: nn.Module) -> list[IntervalProvider]:
    """Every interval provider of ``module`` once, in module order."""
    return list(dict.fromkeys(m for m in module.modules() if isinstance(m, IntervalProvider)))


def _described_networks(module: nn.Module, index: Mapping[int, int]) -> list[dict[str, Any]]:
    """Kept networks, their tables by place in the list of intervals."""
    return [
        {
            "form": kept.form,
            "tensors": [[name, list(tensor.shape)] for name, tensor in kept.tensors.items()],
            "tables": [[table.number, index[id(table)]] for table in tables],
        }
        for kept, tables in kept_networks(module).items()
    ]


def is_symmetric(layer: QuantizedLayer) -> bool:
    """Whether a layer's weight needs no zero points on disk: all stand in the middle of the grid."""
    middle = 2 ** (layer.weight_bits - 1)
    return layer.weight_zero is None or bool((layer.weight_zero == middle).all())
