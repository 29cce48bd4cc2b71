"""How large a quantized denoiser is: sums of tensor bytes, file headers beside them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from tempoquant.checkpoint.component import WEIGHTS, read_config


@dataclass(frozen=True)
class SizeReport:
    """Bytes of a stored denoiser.

    Attributes:
        total: all tensors.
        weights: packed weights.
        tables: scales, zero points and widths of activations that have more than one, by time step or token.
        headers: file headers.
        features: cached temporal features.
        networks: interval networks that are kept for other schedules.
        full: all tensors of the float32 original.
    """

    total: int
    weights: int
    tables: int
    headers: int
    full: int
    features: int = 0
    networks: int = 0

    @property
    def ratio(self) -> float:
        """How many times smaller than float32."""
        return self.full / self.total

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "ratio": self.ratio}


def component_sizes(folder: Path, full_bytes: int) -> SizeReport:
    """Sizes of the denoiser stored in ``folder``; ``full_bytes`` are the float32 original's."""
    config = read_config(folder)["quantization_config"]
    path = folder / WEIGHTS
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    total = sum(_bytes(t) for t in tensors.values())
    quantized = [n for n, layer in config["layers"].items() if layer["bits"] != 32]
    weights = sum(_bytes(tensors[f"{name}.weight"]) for name in quantized)
    scales = sum(_bytes(t) for name, t in tensors.items() if name.startswith("tempoquant.interval_"))
    single = [entry for entry in config["intervals"] if entry["kind"] == "constant"]
    one = 4 + tensors["tempoquant.interval_zero"].element_size()
    tables = scales - one * len(single) - 4 * sum(entry.get("scale_out", False) for entry in single)
    features = sum(_bytes(t) for name, t in tensors.items() if name.startswith("tempoquant.feature"))
    networks = sum(_bytes(t) for name, t in tensors.items() if name == "tempoquant.networks")
    return SizeReport(total, weights, tables, path.stat().st_size - total, full_bytes, features, networks)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
