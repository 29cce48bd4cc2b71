"""The tensors of a quantized denoiser: integers packed, and small vectors in few long ones so that headers stay small.

| key | dtype | what |
|---|---|---|
| ``<layer>.weight`` | uint8 (bytes,) | a quantized weight's ``q``, packed at its width |
| ``<name>`` | its own | any other tensor with two or more dimensions, or not float |
| ``tempoquant.vectors`` | float32 | all other float vectors (biases, norms), in order of their names in the module |
| ``tempoquant.weight_scale`` | float32 | (C_out, G) scales of each quantized weight, in order of the config's layers |
| ``tempoquant.weight_zero`` | uint8 | zero points of those that are not symmetric |
| ``tempoquant.interval_scale`` | float32 | scales of the config's intervals: one, one a row, or one a group |
| ``tempoquant.interval_zero`` | uint8 or int32 | their zero points |
| ``tempoquant.interval_scale_out`` | float32 | output scales of the intervals that have their own (DuQ, QIL), if any |
| ``tempoquant.interval_widths`` | uint8 | bits of every row of the intervals that are ``stepped``, if any |
| ``tempoquant.interval_<name>`` | float32 | tensors of other provider kinds, likewise |
| ``tempoquant.networks`` | float32 | tensors of the config's interval networks, one after another, if they are kept |
| ``tempoquant.correction_*`` | float32 | gain (R, C), bias (R, C) and variance (R,) of a correction, if any |
| ``tempoquant.timesteps`` | float32 (R,) | the rows' time steps |
| ``tempoquant.features`` | float16 or uint8 | cached temporal features, R rows a layer, or R C |
| ``tempoquant.condition.<argument>`` | its own | (C, ...) the C conditions that features are frozen to, if any |
| ``tempoquant.feature_scale`` | float32 | those of uint8 features, one a row of each layer |
| ``tempoquant.feature_zero`` | uint8 | their zero points |
| ``tempoquant.digest`` | uint8 (16,) | blake2b of the quantization_config and all of these but the weights |
"""

import hashlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.checkpoint.blueprint import interval_providers, is_symmetric
from tempoquant.checkpoint.features import condition_tensors, feature_tensors
from tempoquant.checkpoint.values import FLOATS
from tempoquant.checkpoint.vectors import PREFIX, Reader, joined
from tempoquant.errors import FormatError
from tempoquant.extension import PROVIDERS
from tempoquant.intervals import Clock, IntervalProvider
from tempoquant.layers import QuantizedLayer, QuantizedProduct, quantized_layers
from tempoquant.learned import KeptNetworks, kept_networks
from tempoquant.numerics import QParams, pack, unpack
from tempoquant.temporal import TemporalTable, replacements


def packed_tensors(module: nn.Module, clock: Clock) -> dict[str, Tensor]:
    """The tensors that a folder stores for ``module``, by key, as the table above lists them."""
    layers = {n: layer for n, layer in quantized_layers(module).items() if layer.weight_scale is not None}
    quantized_weights = {f"{name}.weight" for name in layers}
    tensors = {f"{name}.weight": _packed_weight(layer) for name, layer in layers.items()}
    vectors = []
    for name, tensor in plain_state(module).items():
        if name in quantized_weights:
            continue
        if _is_vector(tensor):
            vectors.append(tensor.detach().float().flatten())
        else:
            # A copy, because safetensors refuses tensors that share memory (tied weights do).
            tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    scales = [layer.weight_scale for layer in layers.values()]
    zeros = [layer.weight_zero for layer in layers.values() if not is_symmetric(layer)]
    tensors[f"{PREFIX}vectors"] = joined(vectors, torch.float32)
    tensors[f"{PREFIX}weight_scale"] = joined(scales, torch.float32)
    tensors[f"{PREFIX}weight_zero"] = joined(zeros, torch.uint8)
    tensors |= _interval_tensors(interval_providers(module))
    networks = [tensor for kept in kept_networks(module) for tensor in kept.tensors.values()]
    if networks:
        tensors[f"{PREFIX}networks"] = joined(networks, torch.float32)
    tensors[f"{PREFIX}timesteps"] = clock.timesteps.clone()
    return tensors | feature_tensors(module) | condition_tensors(clock)


def unpack_into(module: nn.Module, config: Mapping[str, Any], tensors: dict[str, Tensor], clock: Clock) -> None:
    """Fill ``module``, whose layers and attention products are already installed, with stored tensors.

    Args:
        module: the denoiser.
        config: the ``quantization_config``, layers in module order.
        tensors: as stored; weights are removed from it, so that none is held twice.
        clock: of its time steps.

    Raises:
        FormatError: a tensor is missing, left over, or has the wrong length or shape.
    """
    reader = Reader(tensors)
    providers = [_provider(entry, reader, clock) for entry in config["intervals"]]
    for entry in config.get("networks", ()):
        _keep(entry, reader, providers)
    for name, entry in config["layers"].items():
        _fill_layer(module.get_submodule(name), name, entry, reader, tensors)  # type: ignore[arg-type]
        if entry["input"] is not None:
            module.get_submodule(name).input_interval = providers[entry["input"]]
    for name, operands in config["operands"].items():
        intervals = nn.ModuleDict({operand: providers[i] for operand, i in operands.items()})
        product = module.get_submodule(name)
        if not isinstance(product, QuantizedProduct):
            raise FormatError(f"the denoiser has no attention product {name!r} for the stored operands")
        product.intervals = intervals
    _fill_plain(module, reader, tensors)
    reader.finish()
    left = sorted(name for name in tensors if not name.startswith(PREFIX))
    if left:
        raise FormatError(f"the folder stores a tensor {left[0]!r} that the denoiser has no place for")


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that the stock module would have in its ``state_dict``, by name."""
    tables = (part for part in module.modules() if isinstance(part, IntervalProvider | TemporalTable))
    added = {id(tensor) for table in tables for tensor in table.buffers()}
    for layer in quantized_layers(module).values():
        added |= {id(layer.weight_scale), id(layer.weight_zero)}
    return {name: t for name, t in module.state_dict(keep_vars=True).items() if id(t) not in added}


def full_bytes(module: nn.Module) -> int:
    """Bytes of the float32 original, including the layers that tables replace."""
    replaced = sum(part.parameter_count for part in replacements(module).values())
    return 4 * (replaced + sum(tensor.numel() for tensor in plain_state(module).values()))


def layout(module: nn.Module) -> str:
    """blake2b (16 bytes, hex) of the names and shapes of :func:`plain_state`, in order: what long vectors rely on."""
    shapes = [(name, *tensor.shape) for name, tensor in plain_state(module).items()]
    return hashlib.blake2b(repr(shapes).encode(), digest_size=16).hexdigest()


def _interval_tensors(providers: Sequence[IntervalProvider]) -> dict[str, Tensor]:
    """Tensors of one name joined, providers in their order."""
    parts: dict[str, list[Tensor]] = {"scale": [], "zero": []}
    for provider in providers:
        for name, tensor in provider.tensors().items():
            parts.setdefault(name, []).append(tensor)
    wide = any(provider.bits > 8 for provider in providers)
    dtypes = {"zero": torch.int32 if wide else torch.uint8, "widths": torch.uint8}
    return {
        f"{PREFIX}interval_{name}": joined(tensors, dtypes.get(name, torch.float32)) for name, tensors in parts.items()
    }


def _is_vector(tensor: Tensor) -> bool:
    return tensor.dim() <= 1 and tensor.is_floating_point()


def _packed_weight(layer: QuantizedLayer) -> Tensor:
    assert layer.weight_zero is not None
    q = layer.weight.detach().int() + layer.layout.broadcast(layer.weight_zero)
    if layer.weight_bits == 16:
        return torch.stack([q.flatten() & 255, q.flatten() >> 8], dim=1).flatten().to(torch.uint8)
    return pack(q, layer.weight_bits)


def _provider(entry: Mapping[str, Any], reader: Reader, clock: Clock) -> IntervalProvider:
    kind = PROVIDERS[entry["kind"]]
    return kind.from_entry(kind.form(**entry), lambda name, count: reader.take(f"interval_{name}", count), clock)


def _check_grid(name: str, zero: Tensor, q_max: Tensor | int) -> None:
    """Raise FormatError for a zero point beyond the end of its grid."""
    if bool((zero > q_max).any()):
        raise FormatError(f"the tensor {PREFIX + name!r} has a zero point that is no integer of its grid")


def _keep(entry: Mapping[str, Any], reader: Reader, providers: list[IntervalProvider]) -> None:
    """Give tables the networks that made them."""
    shapes = {name: torch.Size(shape) for name, shape in entry["tensors"]}
    kept = KeptNetworks(entry["form"], {n: reader.take("networks", s.numel()).view(s) for n, s in shapes.items()})
    for number, index in entry["tables"]:
        table = providers[index]
        if not table.keeps_networks:
            raise FormatError(f"the folder keeps networks of interval {index}, which is no table")
        table.networks, table.number = kept, number


def _fill_layer(
    layer: QuantizedLayer, name: str, entry: Mapping[str, Any], reader: Reader, rest: dict[str, Tensor]
) -> None:
    bits, layout = entry["bits"], layer.layout
    if bits == 32:
        return
    size = entry.get("group_size") or layout.input_channels
    if layout.input_channels % size:
        raise FormatError(f"layers.{name}.group_size = {size} does not divide {layout.input_channels} input channels")
    grid = layout.output_channels, layout.input_channels // size
    packed = rest.pop(f"{name}.weight", None)
    if packed is None or packed.dtype != torch.uint8:
        raise FormatError(f"the folder has no tensor {name + '.weight'!r} of packed integers (uint8)")
    scale = reader.take("weight_scale", prod(grid)).view(grid)
    symmetric = torch.full(grid, 2 ** (bits - 1), dtype=torch.int32)
    zero = symmetric if entry["symmetric"] else reader.take("weight_zero", prod(grid)).view(grid).to(torch.int32)
    _check_grid("weight_zero", zero, 2**bits - 1)
    centred = _centred(packed, bits, layout.broadcast(zero), layer.weight.shape, entry["symmetric"])
    layer.set_weight(centred, QParams(scale, zero, 0, 2**bits - 1), bits)


def _centred(packed: Tensor, bits: int, zero: Tensor, shape: torch.Size, symmetric: bool) -> Tensor:
    """``q - z`` of a packed weight, of its ``shape``; ``zero`` broadcasts against it."""
    if bits == 16:
        pairs = unpack(packed, 8, 2 * shape.numel()).view(-1, 2).to(torch.int32)
        return (pairs[:, 0] | (pairs[:, 1] << 8)).view(shape) - zero
    q = unpack(packed, bits, shape.numel()).view(shape)
    if bits == 8 and not symmetric:
        return q.to(torch.int16) - zero.to(torch.int16)
    # Differences fit int8, so bytes that wrap around hold them: nothing wider than the weight is made while loading.
    return (q - zero.to(torch.uint8)).view(torch.int8)


def _fill_plain(module: nn.Module, reader: Reader, rest: dict[str, Tensor]) -> None:
    quantized = {f"{n}.weight" for n, layer in quantized_layers(module).items() if layer.weight_scale is not None}
    with torch.no_grad():
        for name, place in plain_state(module).items():
            if name in quantized:
                continue
            stored = reader.take("vectors", place.numel()) if _is_vector(place) else rest.pop(name, None)
            if stored is None or (stored.shape != place.shape and not _is_vector(place)):
                raise FormatError(f"the folder's tensor {name!r} is missing or of another shape")
            # In half precision where diffusers was asked for it, when it loaded or before it saved.
            if stored.dtype != place.dtype and not {stored.dtype, place.dtype} <= {*FLOATS}:
                raise FormatError(f"the folder's tensor {name!r} is {stored.dtype}, not {place.dtype}")
            place.copy_(stored.view(place.shape))
