"""The intervals of all activations that train: parameters, or networks of the time step computed in one call.

Both are :class:`~tempoquant.intervals.IntervalProvider` to the layers, which are those of any quantized model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tempoquant.errors import TempoquantError
from tempoquant.intervals import Clock, ConstantInterval, IntervalProvider, TableInterval
from tempoquant.layers import Site
from tempoquant.learned.draws import Draws
from tempoquant.learned.kept import KeptNetworks, keep_in
from tempoquant.learned.networks import Architecture, IntervalNetworks
from tempoquant.learned.rules import straight_round
from tempoquant.learned.schemes import Reach, Scheme, Values, name_of
from tempoquant.numerics import QParams

SILU_MINIMUM = 0.2785


class Bank(nn.Module):
    """Learned values of the quantizers of L activations, each with the K fields of one scheme.

    Args:
        start: the L calibrated intervals.
        scheme: what is learned.
        architecture: of networks that give the fields at every time step; None: one parameter each.
        train_timesteps: T, the length of the training schedule.
        draws: random numbers of the current step of training.
        key: names the networks' random start.
    """

    zero: Tensor
    low: Tensor
    high: Tensor
    moves: Tensor

    def __init__(
        self,
        start: list[ConstantInterval],
        scheme: Scheme,
        architecture: Architecture | None,
        train_timesteps: int,
        draws: Draws,
        key: tuple,
    ):
        super().__init__()
        self.scheme, self.draws, self.count = scheme, draws, len(start)
        scale, zero = torch.stack([p.scale for p in start]), torch.stack([p.zero_point for p in start])
        low, high = zero - torch.stack([p.q_min for p in start]), torch.stack([p.q_max for p in start]) - zero
        bounded = zero * scale <= SILU_MINIMUM + scale / 2
        moves = torch.full_like(bounded, scheme.learns_offset) | (bounded & scheme.moves_zero)
        for name, tensor in {"zero": zero, "low": low, "high": high, "moves": moves}.items():
            self.register_buffer(name, tensor)
        offset = zero * scale
        self.offset = nn.Parameter(-(offset if scheme.learns_offset else offset.clamp(max=SILU_MINIMUM)))
        self.offset.requires_grad_(scheme.learns_offset)
        fields = torch.cat(scheme.start(scale, Reach(low, high)))
        self.generators: IntervalNetworks | None = None
        self.raw: nn.Parameter | None = None
        if architecture is None:
            self.raw = nn.Parameter(scheme.raw(fields))
        else:
            fields = fields.clamp(min=1e-8)
            self.generators = IntervalNetworks(fields, architecture, train_timesteps, key)
        self.current: Tensor | None = None

    def fix_zero_points(self) -> None:
        """Let all zero points stay as they were calibrated, whatever the step sizes become."""
        self.moves.zero_()
        self.offset.data.zero_()

    def forward(self, timestep: Tensor) -> Tensor:
        """Values of all fields of all quantizers at once: (K L,), or with networks (K L, *timestep.shape)."""
        if self.generators is None:
            assert self.raw is not None
            return self.scheme.value(self.raw)
        return self.generators(timestep, self.draws.now)

    def set(self, timestep: Tensor) -> None:
        """Compute what every :class:`LearnedInterval` gives until the next call."""
        self.current = self(timestep)

    @torch.no_grad()
    def at_rows(self, clock: Clock) -> Tensor:
        """Values of all fields at all R time steps of a clock: (K L, R), or (K L,) of parameters."""
        return self(clock.timesteps.to(self.zero.device))

    def keep(self) -> KeptNetworks | None:
        """The networks, and what beside them makes intervals of their values; None where parameters give them."""
        if self.generators is None:
            return None
        own = self.generators
        return KeptNetworks.of(name_of(self.scheme), own.architecture, own.train_timesteps, self.state_dict())

    def values(self, index: int, fields: Tensor) -> Values:
        """One quantizer's fields among those of all, see :meth:`forward`."""
        return tuple(fields[index :: self.count])

    def interval(self, index: int, values: Values, q_min: Tensor, q_max: Tensor) -> QParams:
        """One quantizer's interval from its fields, () or (B,) each."""
        s_in, s_out = self.scheme.scales(values, Reach(self.low[index], self.high[index]))
        real = self.scheme.zero(values, s_in)
        if real is None and bool(self.moves[index]):
            real = -self.offset[index] / s_in
        zero = self.zero[index] if real is None else straight_round(real).clamp(q_min, q_max)
        return QParams(s_in, zero, q_min, q_max, s_out)

    def penalty(self) -> Tensor:
        """What the scheme adds to the loss for the current values (PACT: their squares, averaged over a batch)."""
        assert self.current is not None
        squares = self.current.square()
        return self.scheme.penalty * (squares if squares.dim() == 1 else squares.mean(1)).sum()


class LearnedInterval(IntervalProvider):
    """Quantization parameters of one quantizer of a :class:`Bank`, for every item of a batch of mixed time steps.

    Args:
        start: the calibrated provider that it replaces; its grid stays.
        bank: with the learned values.
        index: of the quantizer in the bank.
        clock: of the denoiser.
    """

    def __init__(self, start: IntervalProvider, bank: Bank, index: int, clock: Clock):
        super().__init__(start.bits, int(start.q_min), int(start.q_max))
        self.bank, self.index, self.clock = bank, index, clock

    def at(self, row: Tensor | None) -> QParams:
        if row is None:
            raise TempoquantError("a learned interval was asked for without a time step")
        return self._of(self.bank(self.clock.timesteps.to(row.device)[row]))

    def current(self) -> QParams:
        if self.bank.current is None:
            raise TempoquantError("a learned interval was asked for before its bank was set to a time step")
        return self._of(self.bank.current)

    def fake_quantize(self, x: Tensor) -> Tensor:
        return self.bank.scheme.fake_quantize(x, self(x), self.bank.draws.now)

    def _of(self, fields: Tensor) -> QParams:
        return self.bank.interval(self.index, self.bank.values(self.index, fields), self.q_min, self.q_max)

    @torch.no_grad()
    def fold(self, at_rows: Tensor) -> ConstantInterval | TableInterval:
        """The same quantization parameters as a constant, or as a table with a row a time step of the clock.

        Args:
            at_rows: of the bank, see :meth:`Bank.at_rows`.
        """
        learned = self._of(at_rows)
        scale, out = learned.scale.detach().cpu(), learned.output_scale.detach().cpu()
        zero = learned.zero_point.detach().cpu().expand_as(scale).clone()
        qparams = QParams(scale.clone(), zero, int(self.q_min), int(self.q_max))
        output_scale = None if learned.output_scale is learned.scale else out.clone()
        if scale.dim() == 0:
            return ConstantInterval(qparams, self.bits, output_scale)
        return TableInterval(qparams, self.bits, self.clock, output_scale)


def fold_intervals(sites: Sequence[Site], bank: Bank, clock: Clock, keep: bool) -> None:
    """Replace the :class:`LearnedInterval` of every site by a constant or a table of the same values, in place.

    Args:
        sites: in the order of the bank's quantizers.
        bank: that has learned.
        clock: whose time steps tables have rows for.
        keep: let tables keep the networks that made them.
    """
    at_rows, kept = bank.at_rows(clock), bank.keep() if keep else None
    for site in sites:
        site.provider = site.provider.fold(at_rows)
    if kept is not None:
        keep_in((site.provider for site in sites), kept)
