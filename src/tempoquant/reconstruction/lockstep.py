"""Two streams in one pass: the first half of a batch runs the partly quantized network, the second the full one.

Every layer sees both of its inputs at the moment it executes, so each unit is reconstructed while a single forward
pass goes by: inputs come from the quantized prefix, targets from full precision, and nothing is run twice from the
start or kept beyond its use.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.graph import Unit
from tempoquant.layers import QuantizedLayer, QuantizedProduct, simulate, simulate_product, temporary_kernels

OnCall = Callable[[str, QuantizedLayer, Tensor, Tensor], None]
VisitUnit = Callable[[Unit, nn.Module, tuple, dict[str, Any]], None]


class Lockstep:
    """Gives layers and attention products the two-stream kernel for the time of a ``with`` block.

    Args:
        layers: by name; a layer as it is serves the first half of a batch.
        full, biases: full-precision weights and biases by name, serving the second half.
        batch: rows of both halves together.
        products: attention products; their operands are quantized in the first half alone.
    """

    def __init__(
        self,
        layers: Mapping[str, QuantizedLayer],
        full: Mapping[str, Tensor],
        biases: Mapping[str, Any],
        batch: int,
        products: Iterable[QuantizedProduct] = (),
    ):
        self.layers, self.full, self.biases, self.batch = layers, full, biases, batch
        self.products = tuple(products)
        self.visits: dict[str, OnCall] = {}

    def __enter__(self) -> "Lockstep":
        kernels = {layer: self._kernel(name) for name, layer in self.layers.items()}
        self._kernels = temporary_kernels(kernels, self.products, self._product)
        self._kernels.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._kernels.__exit__(*error)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Layers compute one stream for the time of a ``with`` block, as they are."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def _kernel(self, name: str) -> Callable[[QuantizedLayer, Tensor], Tensor]:
        def dual(layer: QuantizedLayer, x: Tensor) -> Tensor:
            quantized, full = halves(x, self.batch)
            if name in self.visits:
                self.visits.pop(name)(name, layer, quantized, full)
            out = simulate(layer, quantized)
            if full is quantized:
                return out
            return torch.cat([out, layer.product(full, self.full[name], self.biases[name])])

        return dual

    def _product(self, product: QuantizedProduct, names: str, left: Tensor, right: Tensor) -> Tensor:
        (a, c), (b, d) = halves(left, self.batch), halves(right, self.batch)
        out = simulate_product(product, names, a, b)
        return out if c is a and d is b else torch.cat([out, torch.matmul(c, d)])


def visit_units(module: nn.Module, units: Iterable[Unit], visit: VisitUnit, run: Callable[[], Any]) -> None:
    """Call ``visit(unit, its module, args, kwargs)`` when the forward pass that ``run`` makes first reaches each unit.

    The module runs after its visit, as the visit left it.
    """
    modules = dict(module.named_modules())
    handles: list[Any] = []
    seen: set[str] = set()

    def hook(unit: Unit) -> Callable[[nn.Module, tuple, dict[str, Any]], None]:
        def reached(part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if unit.name not in seen:
                seen.add(unit.name)
                visit(unit, part, args, kwargs)

        return reached

    try:
        for unit in units:
            handles.append(modules[unit.name].register_forward_pre_hook(hook(unit), with_kwargs=True))
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()


def halves(x: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Both streams of a tensor; the tensor twice where it has no batch (a constant the network computes for itself)."""
    if x.dim() == 0 or x.shape[0] % batch:
        return x, x
    first, second = x.chunk(2)
    return first, second


def doubled(value: Any) -> Any:
    """Arguments of a call with every tensor inside twice in a row: once for each stream."""
    if isinstance(value, Tensor):
        return torch.cat([value, value])
    return {k: doubled(v) for k, v in value.items()} if isinstance(value, dict) else value


def take_rows(value: Any, rows: Tensor | slice, batch: int) -> Any:
    """The given rows of every tensor with ``batch`` rows inside arguments of a call."""
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and value.shape[0] == batch else value
    if isinstance(value, tuple | list):
        return type(value)(take_rows(v, rows, batch) for v in value)
    if isinstance(value, dict):
        return {k: take_rows(v, rows, batch) for k, v in value.items()}
    return value
