"""Model families: one file each, chosen for a pipeline by its denoiser's class; all others are observed."""

from typing import Any

from torch import nn

from tempoquant.errors import InputError
from tempoquant.pipelines.families import flux, sd3, transformer2d, unet
from tempoquant.pipelines.families.family import (
    COMPONENTS,
    EXAMPLES,
    FAMILIES,
    Family,
    config_of,
    family,
    family_of,
)
from tempoquant.pipelines.families.observed import Observed, observed
from tempoquant.plugins import load_plugins

__all__ = [
    "COMPONENTS",
    "EXAMPLES",
    "FAMILIES",
    "Family",
    "Observed",
    "config_of",
    "family",
    "family_of",
    "find_family",
    "flux",
    "observed",
    "sd3",
    "transformer2d",
    "unet",
]


def find_family(pipe: Any) -> tuple[Family, str]:
    """The family of a pipeline and the name of the component that is its denoiser.

    Installed plugins are asked before a pipeline is observed.

    Raises:
        InputError: it has several denoisers, or none.
    """
    found = _found(pipe)
    if not found:
        load_plugins()
        found = _found(pipe)
    if not found:
        by_observation = observed(pipe)
        return by_observation, by_observation.component
    if len(found) > 1:
        raise InputError(
            f"{type(pipe).__name__} has no single unet or transformer to quantize but {len(found)}: "
            f"{', '.join(sorted(found))}; wrap one of them in a Denoiser"
        )
    return next((family, component) for component, family in found.items())


def _found(pipe: Any) -> dict[str, Family]:
    """Denoisers of a known family by their names in a pipeline."""
    found: dict[str, Family] = {}
    for name, entry in pipe.config.items():
        part = None if name.startswith("_") else getattr(pipe, name, None)
        index = str(entry[-1]) if isinstance(entry, list | tuple) and entry else ""
        belongs_to = family_of(part, name, index) if isinstance(part, nn.Module) else None
        if belongs_to is not None:
            found[name] = belongs_to
    return found
