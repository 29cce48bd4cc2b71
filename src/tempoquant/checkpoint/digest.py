"""A digest stored with the tensors, which a ``quantization_config`` and its tables must match."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tempoquant.checkpoint.vectors import PREFIX
from tempoquant.errors import FormatError

DIGEST = PREFIX + "digest"
PLAIN = (DIGEST, PREFIX + "vectors")
"""Not of the tables: itself, and the weights that stay float."""


def digest_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """blake2b of a ``quantization_config`` and all tables, (16,) uint8."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(config, sort_keys=True, default=list).encode())
    for name in sorted(name for name in tensors if name.startswith(PREFIX) and name not in PLAIN):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def check_digest(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise FormatError if config and tables are not those that were written together.

    Older folders have no digest.
    """
    stored = tensors.get(DIGEST)
    if stored is not None and not torch.equal(stored.cpu(), digest_of(config, tensors)):
        raise FormatError(
            f"the tensor {DIGEST!r} differs from that of the quantization_config and the tables stored here: "
            "one of them was changed or damaged"
        )
