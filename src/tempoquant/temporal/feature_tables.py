"""Tables in the place of temporal layers: one builder, whatever computed the features."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn

from tempoquant.intervals import Clock
from tempoquant.temporal.replacements import drop_dead_layers, replace_with_tables
from tempoquant.temporal.table import TemporalTable


def install_feature_tables(
    module: nn.Module,
    features: Mapping[str, Tensor],
    storage: str,
    clock: Clock,
    feeding: Collection[str],
    run: Callable[[], Any],
) -> None:
    """Replace layers of ``module`` by tables of their features, and what nothing reads any more by zeros, in place.

    Args:
        module: the denoiser.
        features: by layer, what it puts out at every row of the clock's tables, (R, ...) float32.
        storage: "float16" or "int8".
        clock: of ``module``.
        feeding: layers that may have fed the replaced ones alone; which of them are dead is found by running.
        run: one call of the denoiser.

    Raises:
        TempoquantError: a feature is beyond float16's range.
    """
    replace_with_tables(module, {name: TemporalTable.of(x, storage, clock) for name, x in features.items()})
    drop_dead_layers(module, [name for name, _ in module.named_modules() if name in feeding], run)
