"""The tensors of a quantized denoiser: integers packed, and small vectors in few long ones so that headers stay small.

| key | dtype | what |
|---|---|---|
| ``<layer>.weight`` | uint8 (bytes,) | a quantized weight's ``q``, packed at its width |
| ``<name>`` | its own | any other tensor with two or more dimensions, or not float |
| ``tempoquant.vectors`` | float32 | all other float vectors (biases, norms), in order of their names in the module |
| ``tempoquant.weight_scale`` | float32 | scales of quantized weights, C_out each, in order of the config's layers |
| ``tempoquant.weight_zero`` | uint8 | zero points of those that are not symmetric |
| ``tempoquant.interval_scale`` | float32 | scales of the config's intervals: one, one a row, or one a group |
| ``tempoquant.interval_zero`` | uint8 or int32 | their zero points |
| ``tempoquant.timesteps`` | float32 (R,) | the rows' time steps |
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.checkpoint.blueprint import interval_providers, is_symmetric, quantized_layers
from tempoquant.errors import FormatError
from tempoquant.intervals import Clock, ConstantInterval, GroupInterval, IntervalProvider, TableInterval
from tempoquant.layers import QuantizedLayer
from tempoquant.numerics import QParams, grid, pack, unpack

PREFIX = "tempoquant."


def packed_tensors(module: nn.Module, clock: Clock) -> dict[str, Tensor]:
    """Every tensor that a folder stores for ``module``."""
    layers = {n: layer for n, layer in quantized_layers(module).items() if layer.weight_scale is not None}
    own = {f"{name}.weight" for name in layers}
    tensors = {f"{name}.weight": _packed_weight(layer) for name, layer in layers.items()}
    vectors = []
    for name, tensor in plain_state(module).items():
        if name in own:
            continue
        if _is_vector(tensor):
            vectors.append(tensor.detach().float().flatten())
        else:
            # A copy, because safetensors refuses tensors that share memory (tied weights do).
            tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    scales = [layer.weight_scale for layer in layers.values()]
    zeros = [layer.weight_zero for layer in layers.values() if not is_symmetric(layer)]
    providers: list[Any] = interval_providers(module)
    tensors[f"{PREFIX}vectors"] = _joined(vectors, torch.float32)
    tensors[f"{PREFIX}weight_scale"] = _joined(scales, torch.float32)
    tensors[f"{PREFIX}weight_zero"] = _joined(zeros, torch.uint8)
    tensors[f"{PREFIX}interval_scale"] = _joined([p.scale for p in providers], torch.float32)
    wide = any(p.bits > 8 for p in providers)
    zero_points = [p.zero for p in providers]
    tensors[f"{PREFIX}interval_zero"] = _joined(zero_points, torch.int32 if wide else torch.uint8)
    tensors[f"{PREFIX}timesteps"] = clock.timesteps.clone()
    return tensors


def unpack_into(module: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, Tensor], clock: Clock) -> None:
    """Fill ``module``, whose layers and attention products are already installed, with stored tensors.

    Raises:
        FormatError: a tensor is missing, left over, or has the wrong length or shape.
    """
    rest = dict(tensors)
    reader = _Reader(rest)
    providers = [_provider(entry, reader, clock) for entry in config["intervals"]]
    for name, entry in config["layers"].items():
        _fill_layer(module.get_submodule(name), name, entry, reader, rest)  # type: ignore[arg-type]
        if entry["input"] is not None:
            module.get_submodule(name).input_interval = providers[entry["input"]]
    for name, operands in config["operands"].items():
        intervals = nn.ModuleDict({operand: providers[i] for operand, i in operands.items()})
        module.get_submodule(name).intervals = intervals
    _fill_plain(module, reader, rest)
    reader.finish()
    left = sorted(name for name in rest if not name.startswith(PREFIX))
    if left:
        raise FormatError(f"the folder stores a tensor {left[0]!r} that the denoiser has no place for")


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's own parameters and buffers: what the stock module would have in its state_dict."""
    ours = {id(tensor) for provider in interval_providers(module) for tensor in provider.buffers()}
    for layer in quantized_layers(module).values():
        ours |= {id(layer.weight_scale), id(layer.weight_zero)}
    return {name: t for name, t in module.state_dict(keep_vars=True).items() if id(t) not in ours}


def layout(module: nn.Module) -> str:
    """blake2b (16 bytes, hex) of the names and shapes of :func:`plain_state`, in order: what long vectors rely on."""
    shapes = [(name, *tensor.shape) for name, tensor in plain_state(module).items()]
    return hashlib.blake2b(repr(shapes).encode(), digest_size=16).hexdigest()


def _is_vector(tensor: Tensor) -> bool:
    return tensor.dim() <= 1 and tensor.is_floating_point()


def _packed_weight(layer: QuantizedLayer) -> Tensor:
    assert layer.weight_zero is not None
    q = layer.weight.detach().int() + layer.weight_zero.view(-1, *(1,) * (layer.weight.dim() - 1))
    if layer.weight_bits == 16:
        return torch.stack([q.flatten() & 255, q.flatten() >> 8], dim=1).flatten().to(torch.uint8)
    return pack(q, layer.weight_bits)


def _joined(parts: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor:
    kept = [part.detach().flatten() for part in parts if part is not None]
    return torch.cat(kept).to(dtype) if kept else torch.empty(0, dtype=dtype)


class _Reader:
    """Takes consecutive slices of the long vectors."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors
        self.position: dict[str, int] = {}

    def take(self, name: str, count: int) -> Tensor:
        key, start = PREFIX + name, self.position.get(name, 0)
        if key not in self.tensors or start + count > self.tensors[key].numel():
            raise FormatError(f"the folder's tensor {key!r} is missing or too short")
        self.position[name] = start + count
        return self.tensors[key][start : start + count].clone()

    def finish(self) -> None:
        for name, end in self.position.items():
            if end != self.tensors[PREFIX + name].numel():
                raise FormatError(f"the folder's tensor {PREFIX + name!r} is longer than the denoiser needs")


def _provider(entry: Mapping[str, Any], reader: _Reader, clock: Clock) -> IntervalProvider:
    kind = entry["kind"]
    if kind not in ("constant", "table", "groups"):
        raise FormatError(f"the folder has an interval of kind {kind!r}, which this tempoquant does not know")
    count = {"constant": 1, "table": len(clock)}.get(kind) or entry["groups"]
    scale, zero = reader.take("interval_scale", count), reader.take("interval_zero", count)
    qparams = QParams(scale, zero, *grid(entry["bits"]))
    if kind == "table":
        return TableInterval(qparams, entry["bits"], clock)
    if kind == "groups":
        return GroupInterval(qparams, entry["bits"], clock, entry["train_timesteps"])
    return ConstantInterval(qparams, entry["bits"])


def _fill_layer(
    layer: QuantizedLayer, name: str, entry: Mapping[str, Any], reader: _Reader, rest: dict[str, Tensor]
) -> None:
    bits, shape = entry["bits"], layer.weight.shape
    if bits == 32:
        return
    packed = rest.pop(f"{name}.weight", None)
    if packed is None:
        raise FormatError(f"the folder has no tensor {name + '.weight'!r}")
    scale = reader.take("weight_scale", shape[0])
    symmetric = torch.full((shape[0],), 2 ** (bits - 1), dtype=torch.int32)
    zero = symmetric if entry["symmetric"] else reader.take("weight_zero", shape[0]).to(torch.int32)
    q = _unpacked(packed, bits, shape.numel()).view(shape)
    centred = q - zero.view(-1, *(1,) * (len(shape) - 1))
    layer.set_weight(centred, QParams(scale, zero, 0, 2**bits - 1), bits)


def _unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    if bits != 16:
        return unpack(packed, bits, count)
    pairs = unpack(packed, 8, 2 * count).view(-1, 2)
    return pairs[:, 0] | (pairs[:, 1] << 8)


def _fill_plain(module: nn.Module, reader: _Reader, rest: dict[str, Tensor]) -> None:
    quantized = {f"{n}.weight" for n, layer in quantized_layers(module).items() if layer.weight_scale is not None}
    with torch.no_grad():
        for name, place in plain_state(module).items():
            if name in quantized:
                continue
            stored = reader.take("vectors", place.numel()) if _is_vector(place) else rest.pop(name, None)
            if stored is None or (stored.shape != place.shape and not _is_vector(place)):
                raise FormatError(f"the folder's tensor {name!r} is missing or of another shape")
            place.copy_(stored.view(place.shape))
