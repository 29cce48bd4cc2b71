"""Calls of a denoiser played back from a tape: the same operators in the same order, without Python between them."""

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.layers import CachedLayer, quantized_layers, quantized_products
from tempoquant.layers.attention import AttentionProducts, WatchedForward
from tempoquant.runtime.norms import Waiting
from tempoquant.runtime.swapping import swapped
from tempoquant.runtime.tape import Recorder, Tape


class Replay:
    """Within its ``with`` block a denoiser's calls of one shape are recorded once and played back.

    The first call of a shape is recorded, the second is computed both ways and compared bit for bit, and from the third
    on the tape is played; a call that cannot be recorded, or is not the same bits, stays as it was. Time steps,
    conditions and samples are the tape's inputs. Weights, adapters and hooks must not change within the block. It is
    for drawing: no gradients pass.

    Args:
        module: the denoiser. clock: its clock. again: called before a call is computed a second time, to be compared:
            whoever counts what happens in a call begins anew.

    Attributes:
        played: how many calls came off a tape.

    Raises:
        InputError: a part of the denoiser has hooks, which a tape would leave out; on entering.
    """

    def __init__(self, module: nn.Module, clock: Clock, again: Callable[[], None] = lambda: None):
        self.module, self.clock, self.again = module, clock, again
        self.tapes: dict[Any, Tape | None] = {}
        self.trusted: set[Any] = set()
        self.played = 0
        self._forward: Callable[..., Any] = module.forward
        self._undo: Callable[[], None] = lambda: None

    def __enter__(self) -> "Replay":
        if has_hooks(self.module):
            raise InputError("a part of the denoiser has hooks, which a played back call would leave out: remove them")
        self._forward = self.module.forward

        @functools.wraps(self._forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._call(*args, **kwargs)

        self._undo = swapped(self.module, "forward", forward)
        return self

    def __exit__(self, *_: Any) -> None:
        self._undo()
        self.tapes, self.trusted = {}, set()

    @torch.compiler.disable
    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or torch.jit.is_tracing() or self.module.training:
            return self._forward(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        inputs = [*(leaf for leaf in leaves if isinstance(leaf, Tensor)), *self._moments()]
        rest = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
        if not all(isinstance(value, Hashable) for value in rest):
            return self._forward(*args, **kwargs)
        key = (repr(spec), rest, *(_kind(x, inputs) for x in inputs))
        if key not in self.tapes:
            return self._record(key, inputs, args, kwargs)
        tape = self.tapes[key]
        if tape is None:
            return self._forward(*args, **kwargs)
        if key in self.trusted:
            self.played += 1
            return tape(inputs)
        made = self._forward(*args, **kwargs)
        self.again()
        if _same(made, tape(inputs)):
            self.trusted.add(key)
        else:
            self.tapes[key] = None
        return made

    def _moments(self) -> list[Tensor]:
        """What the clock read off the call: inputs of the tape too."""
        conditions = self.clock.conditions
        found = (self.clock.timestep, self.clock.row, None if conditions is None else conditions.index)
        return [tensor for tensor in found if tensor is not None]

    def _record(self, key: Any, inputs: list[Tensor], args: tuple, kwargs: Mapping[str, Any]) -> Any:
        recorder = Recorder(inputs)
        with _whole_parts(self.module, recorder), recorder:
            made = self._forward(*args, **kwargs)
        tape = recorder.tape(made)
        self.tapes[key] = tape if recorder.why is None else None
        return made


@contextlib.contextmanager
def _whole_parts(module: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Let quantized layers and products, tables, and all parts with a ``forward`` of their own be one operator each.

    They read numbers off the clock, or remember what they computed.
    """
    undo: list[Callable[[], None]] = []
    layers, products = quantized_layers(module).values(), quantized_products(module).values()
    kernels = [*((la, "kernel") for la in layers), *((p, name) for p in products for name in ("kernel", "attention"))]
    named = [
        part
        for part in module.modules()
        if part is not module and ("forward" in vars(part) or isinstance(part, CachedLayer))
    ]
    for part, name in [*kernels, *((n, "forward") for n in named)]:
        own = getattr(part, name)
        if not isinstance(own, Waiting | WatchedForward):
            undo.append(swapped(part, name, recorder.whole(own)))
    try:
        yield
    finally:
        for put_back in undo:
            put_back()


def _kind(x: Tensor, inputs: list[Tensor]) -> tuple:
    """What a tape depends on of an input: all but its values; and whether it was given before."""
    return x.shape, x.stride(), x.dtype, x.device, next(i for i, other in enumerate(inputs) if other is x)


def has_hooks(module: nn.Module) -> bool:
    """Whether a part of ``module`` has hooks, but for those that count for the watch of attention products."""
    parts = (part for part in module.modules() if part is not module)
    hooks = (hook for part in parts for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values()))
    return not all(isinstance(getattr(hook, "__self__", None), AttentionProducts) for hook in hooks)


def _same(a: Any, b: Any) -> bool:
    """Whether two results are the same bits."""
    left, right = tree_flatten(a)[0], tree_flatten(b)[0]
    pairs = zip(left, right, strict=True)
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)
