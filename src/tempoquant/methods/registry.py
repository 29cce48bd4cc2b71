"""Methods by name. A method is a function from bits to a recipe; the stages it names do the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tempoquant.errors import InputError, unknown
from tempoquant.extension import guarded, is_foreign
from tempoquant.plugins import load_plugins
from tempoquant.recipe import Recipe

RecipeFactory = Callable[..., dict[str, Any]]
NEEDS = "recorded trajectories"


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        name: as of ``--method``.
        paper: its source.
        summary: one line.
        readings: the readings it knows.
        factory: ``factory(reading, activation_bits) -> recipe entries`` that differ from the defaults.
        needs: what it takes beside the model.
        engine: whether the integer engine runs its models, for tables: "yes", or what it would take.
    """

    name: str
    paper: str
    summary: str
    readings: tuple[str, ...]
    factory: RecipeFactory
    needs: str = NEEDS
    engine: str = "yes"

    def entries(self, reading: str, activations: int) -> dict[str, Any]:
        """The factory's recipe entries; InputError naming the method if a user's own factory fails."""
        if not is_foreign(self.factory):
            return self.factory(reading, activations)
        entries = guarded(f"method {self.name!r}", self.factory, reading, activations)
        if not isinstance(entries, dict):
            raise InputError(f"method {self.name!r} must return a dict of recipe entries, not {type(entries).__name__}")
        return entries


METHODS: dict[str, Method] = {}


def ends_at_8_bits(activations: int) -> tuple[dict[str, Any], ...]:
    """Policy entries: inputs of the first and last image layer keep 8 bits where the recipe has fewer (PTQD)."""
    if activations >= 8:
        return ()
    return tuple({"match": role, "activation_bits": 8} for role in ("@first", "@last"))


def method(
    name: str,
    *,
    paper: str,
    summary: str,
    readings: tuple[str, ...] = ("paper",),
    needs: str = NEEDS,
    engine: str = "yes",
) -> Callable[[RecipeFactory], RecipeFactory]:
    """Register a method's recipe factory under ``name``; arguments are those of :class:`Method`.

    Raises:
        InputError: another method has that name.
    """

    def register(factory: RecipeFactory) -> RecipeFactory:
        if name in METHODS:
            raise InputError(f"method {name!r} exists already: choose another name")
        METHODS[name] = Method(name, paper, summary, readings, factory, needs, engine)
        return factory

    return register


def find_method(name: str) -> Method:
    """The method called ``name``, installed plugins' included; InputError if there is none."""
    if name not in METHODS:
        load_plugins()
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def method_recipe(
    name: str, *, weights: int = 4, activations: int = 8, reading: str = "paper", effort: str = "fast", **changes: Any
) -> Recipe:
    """The recipe of a method at given bits.

    Args:
        name: of the method.
        weights: bits, 2 to 8, 16, or 32 for float.
        activations: likewise.
        reading: the paper's text ("paper") or its released code ("released").
        effort: "fast", "balanced" or "paper".
        changes: further recipe entries, e.g. ``calibration={"samples": 16}``; mappings are merged.

    Raises:
        InputError: an unknown method or reading, or a recipe entry that is not valid.
    """
    published = find_method(name)
    if reading not in published.readings:
        raise InputError(f"{name} has no reading {reading!r}: valid are {', '.join(published.readings)}")
    data: dict[str, Any] = {"method": name, "reading": reading, "effort": effort}
    bits = {"weights": {"bits": weights}, "activations": {"bits": activations}}
    for entries in (bits, published.entries(reading, activations), changes):
        for key, value in entries.items():
            data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return Recipe.parse(data)
