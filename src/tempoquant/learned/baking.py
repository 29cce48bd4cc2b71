"""Tables for another schedule than the trained one, from the networks that a folder kept."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import FormatError
from tempoquant.intervals import Clock, ConstantInterval, IntervalProvider
from tempoquant.learned.bank import Bank, LearnedInterval
from tempoquant.learned.draws import Draws
from tempoquant.learned.kept import KeptNetworks, kept_networks
from tempoquant.learned.networks import ENCODINGS, Architecture
from tempoquant.learned.schemes import SCHEMES
from tempoquant.numerics import QParams
from tempoquant.temporal import TemporalTable


def can_bake(module: nn.Module) -> bool:
    """Whether all tables of ``module`` are of networks that it keeps."""
    parts = list(module.modules())
    tables: list[Any] = [part for part in parts if isinstance(part, IntervalProvider) and part.by_row]
    fixed = any(isinstance(part, TemporalTable) for part in parts)
    return bool(tables) and not fixed and all(p.keeps_networks and p.networks is not None for p in tables)


@torch.inference_mode(False)
@torch.no_grad()
def bake(module: nn.Module, clock: Clock, timesteps: Tensor) -> Tensor:
    """Make all tables of ``module`` for ``timesteps``, in place; the same time steps give the same bits.

    Args:
        module: with tables of kept networks alone, see :func:`can_bake`.
        clock: of ``module``; it gets the new time steps.
        timesteps: of the schedule, in any order.

    Returns:
        (R,) the rows' time steps, ascending.

    Raises:
        FormatError: the networks are of a kind that is not known.
    """
    if torch.equal(torch.unique(timesteps.float().cpu()), clock.timesteps):
        return clock.timesteps
    banks = [(bank_of(kept), tables) for kept, tables in kept_networks(module).items()]
    clock.use(timesteps)
    for bank, tables in banks:
        at_rows = bank.at_rows(clock)
        for table in tables:
            folded = LearnedInterval(table, bank, table.number, clock).fold(at_rows)
            for name in ("scale", "zero_point", "output_scale"):
                values = getattr(folded, name)
                setattr(table, name, None if values is None else values.to(table.scale.device))
    return clock.timesteps


def _check_widths(architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
    """Raise RuntimeError unless networks of ``architecture`` have weights of the stored shapes."""
    inputs = ENCODINGS[architecture.encoding][0] + architecture.statistics
    for i, widths in enumerate(pairwise((inputs, *architecture.hidden, 1))):
        if tuple(tensors[f"generators.weights.{i}"].shape[1:]) != widths:
            raise RuntimeError(f"no weight of {widths[0]} inputs and {widths[1]} outputs")


def bank_of(kept: KeptNetworks) -> Bank:
    """The bank of kept networks, on the processor, where it was folded.

    Raises:
        FormatError: it is of a kind that is not known, or its tensors are others'.
    """
    form, tensors = kept.form, {name: tensor.cpu() for name, tensor in kept.tensors.items()}
    try:
        plain = form["architecture"]
        architecture = Architecture(**{**plain, "hidden": tuple(plain["hidden"])})
        _check_widths(architecture, tensors)
        # Everything but its length is overwritten.
        start = [ConstantInterval(QParams(torch.ones(()), torch.zeros(()), 0, 1), 1)] * len(tensors["zero"])
        if not int(form["train_timesteps"]) > 0:
            raise ValueError(f"train_timesteps = {form['train_timesteps']}")
        bank = Bank(start, SCHEMES[form["scheme"]], architecture, form["train_timesteps"], Draws(), ("kept",))
        bank.load_state_dict(tensors)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise FormatError(f"the kept interval networks are not known here: {type(error).__name__}: {first}") from None
    return bank
