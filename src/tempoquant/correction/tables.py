"""A correction as tables by time step: gain and bias of the noise prediction, and the variance that remains."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tempoquant.correction.noise import least_squares_gain, quantization_noise
from tempoquant.correction.sums import PairSums
from tempoquant.errors import FormatError

PREFIX = "tempoquant.correction_"


class CorrectionTables(NamedTuple):
    """The correction ``e~ = (q - bias) gain`` by row and channel, float32.

    Attributes:
        gain: (R, C).
        bias: (R, C).
        variance: (R,) the variance that e~ has beyond e's.
    """

    gain: Tensor
    bias: Tensor
    variance: Tensor

    def prediction(self, row: int, output: Tensor) -> Tensor:
        """The corrected noise prediction, of ``output``'s shape (B, C or more, ...) and dtype.

        Channels after the first C (a learned variance) pass unchanged.
        """
        channels = self.gain.shape[1]
        shape = (1, channels, *(1,) * (output.dim() - 2))
        gain, bias = (field[row].to(output.device).view(shape) for field in (self.gain, self.bias))
        corrected = ((output[:, :channels].float() - bias) * gain).to(output.dtype)
        return torch.cat([corrected, output[:, channels:]], 1) if output.shape[1] > channels else corrected

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors that a folder stores, by name."""
        return {PREFIX + name: field.contiguous() for name, field in self._asdict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], rows: int) -> "CorrectionTables":
        """The inverse of :meth:`to_tensors`.

        Raises:
            FormatError: a table is missing, or has not ``rows`` rows.
        """
        missing = [name for name in cls._fields if PREFIX + name not in tensors]
        if missing:
            raise FormatError(
                f"the recipe corrects the predicted noise, but the folder has no statistics for it: "
                f"no tensor {PREFIX + missing[0]!r}"
            )
        tables = cls(*(tensors[PREFIX + name] for name in cls._fields))
        gain, bias, variance = (tuple(table.shape) for table in tables)
        if gain != bias or len(gain) != 2 or gain[0] != rows or variance != (rows,):
            raise FormatError(f"the correction's tables {gain}, {bias} and {variance} do not fit {rows} time steps")
        return tables


def correction_tables(sums: PairSums, kind: str) -> CorrectionTables:
    """Compute the correction tables of a recipe's ``correction.kind`` from sums over pairs of predictions.

    ``correlated`` (PTQD, section 4.2): ``e~ = (q - bias) / (1 + max(k, 0))``, which leaves the variance
    ``sigma_q^2 = var(D') / (1 + max(k, 0))^2``. ``mmse``: ``e~ = K q``, nearest to e in the least squares.
    """
    noise = quantization_noise(sums)
    if kind == "mmse":
        gain = least_squares_gain(sums)
        return CorrectionTables(gain.float(), torch.zeros_like(gain).float(), torch.zeros_like(noise.k).float())
    factor = 1 / (1 + noise.k.clamp_min(0))
    gain = factor[:, None].expand_as(noise.bias)
    return CorrectionTables(gain.float(), noise.bias.float(), (noise.variance * factor**2).float())
