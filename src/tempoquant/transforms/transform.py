"""What a transform is, and the registry of their kinds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple

from torch import nn

from tempoquant.errors import FormatError
from tempoquant.extension import Names
from tempoquant.layers import places_of


@dataclass(frozen=True)
class Transform(ABC):
    """Replaces a layer by a module of stock layers that computes the same in full precision.

    The stock layers are what is then rounded and calibrated, by every method. A kind is one file: a frozen dataclass of
    integers, registered by :func:`register`, whose fields are its form on disk.

    Attributes:
        kind: its name in recipes and on disk.
        parts: attribute names of the stock layers in the replacement.
    """

    kind: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]

    @abstractmethod
    def replacement(self, layer: Any) -> nn.Module:
        """The module that takes the place of ``layer``, which is left as it is."""

    @abstractmethod
    def part_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parts' weights, from that of the layer's."""

    @abstractmethod
    def suits(self, layer: nn.Module) -> bool:
        """Whether ``layer`` can be replaced."""

    @abstractmethod
    def __str__(self) -> str:
        """What is done, for messages: ``to split at channel 8``."""

    def part_names(self, layer: str) -> tuple[str, ...]:
        """Full names of the parts of ``layer``."""
        return tuple(f"{layer}.{part}" for part in self.parts)


class LayerTransform(NamedTuple):
    """A transform of one layer, by the name that it has when the transforms before it are done."""

    layer: str
    transform: Transform

    def to_entry(self) -> dict[str, Any]:
        """Its form on disk: plain JSON data."""
        return {"layer": self.layer, "kind": self.transform.kind, **asdict(self.transform)}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "LayerTransform":
        """The inverse of :meth:`to_entry`.

        Raises:
            FormatError: no such kind, or its fields are others.
        """
        values = {name: value for name, value in entry.items() if name not in ("layer", "kind")}
        kind = TRANSFORMS.get(entry["kind"])
        if kind is None or set(values) != {field.name for field in fields(kind)}:
            raise FormatError(f"this tempoquant knows no transform {dict(entry)}")
        return cls(entry["layer"], kind(**values))


TRANSFORMS: Names[type[Transform]] = Names("transform")


def register(kind: str) -> Callable[[type[Transform]], type[Transform]]:
    """Decorator: let ``kind`` name a subclass of :class:`Transform`; InputError if the name is taken."""

    def add(transform: type[Transform]) -> type[Transform]:
        TRANSFORMS.add(kind, transform)
        transform.kind = kind
        return transform

    return add


def install_transforms(module: nn.Module, transforms: Iterable[LayerTransform]) -> None:
    """Replace the named layers of ``module`` in place, in order; the parts of one may be the layer of the next.

    Raises:
        FormatError: ``module`` has no such layer, or it cannot be replaced so.
    """
    places = places_of(module)
    for name, transform in transforms:
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            layer = nn.Identity()
        if not transform.suits(layer):
            raise FormatError(f"the denoiser has no layer called {name!r} {transform}")
        replacement = transform.replacement(layer)
        for parent, child in places.pop(id(layer)):
            setattr(parent, child, replacement)
        places |= places_of(replacement)
