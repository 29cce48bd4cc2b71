"""Weights held in oneDNN's own memory layout alone: half the memory of keeping a plain copy beside it."""

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tempoquant.layers import QuantizedLayer


class PackedWeight(Tensor):
    """An int8 weight (C_out, ...) on the CPU in oneDNN's layout, unpacked again at every read.

    The layout is another order of the same integers, so nothing is lost. Every torch operator takes such a tensor as it
    would the plain one, and gives plain results; copies of it are plain. It cannot be written to.

    Attributes:
        packed: the result of ``onednn.qconv_prepack`` or ``onednn.qlinear_prepack``.
    """

    packed: Tensor

    def __new__(cls, data: Tensor, requires_grad: bool = False) -> Any:
        """A plain parameter: how accelerate, moving a module's parameters, calls the class of the old one."""
        return nn.Parameter(data, requires_grad)

    @classmethod
    def of(cls, packed: Tensor, shape: torch.Size) -> "PackedWeight":
        """The weight of ``shape`` whose packed form is ``packed``."""
        # Not a tensor of inference mode: it outlives the call that packed it.
        with torch.inference_mode(False):
            weight: Any = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.int8, device="cpu")  # type: ignore
        weight.packed = packed
        return weight

    def plain(self) -> Tensor:
        """The weight in the layout of a plain tensor, int8 of its shape."""
        weight = self.packed.to_dense()
        # Matrices are packed the other way round, weights of a Conv1d as those of height 1.
        return (weight.T if weight.dim() == 2 else weight).reshape(self.shape).contiguous()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return PackedWeight.of(args[0].packed, args[0].shape)
        if func._schema.is_mutable:
            raise RuntimeError("a packed weight cannot be changed in place: give the layer another one by set_weight")
        args, kwargs = tree_map_only(PackedWeight, PackedWeight.plain, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        memo[id(self)] = nn.Parameter(self.plain(), requires_grad=False)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return nn.Parameter(self.plain(), requires_grad=False).__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"PackedWeight({self.plain()!r})"

    def numpy(self, **options: Any) -> Any:
        """The plain weight as an array."""
        return self.plain().numpy(**options)


def keep_packed(layer: QuantizedLayer, packed: Tensor) -> None:
    """Replace a layer's weight by its packed form, if that unpacks to the same integers."""
    weight = PackedWeight.of(packed, layer.weight.shape)
    if torch.equal(weight.plain(), layer.weight.detach()):
        layer.weight = nn.Parameter(weight, requires_grad=False)
        release_freed_memory()


def release_freed_memory() -> None:
    """Return freed memory to the system, where glibc manages it.

    It would keep most of it: the holes of plain weights are just too small for packed ones of the same size.
    """
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)


def unpack_weight(layer: QuantizedLayer) -> None:
    """Replace a packed weight of a layer by the plain tensor; others stay as they are."""
    if isinstance(layer.weight, PackedWeight):
        layer.weight = nn.Parameter(layer.weight.plain(), requires_grad=False)
