"""Export to ONNX: QuantizeLinear and DequantizeLinear around stock operators, int8 weights on disk (extra ``onnx``)."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempoquant.errors import FormatError, InputError
from tempoquant.exporting.extras import needed
from tempoquant.exporting.targets import ExportTarget, register_target
from tempoquant.exporting.traceable import INPUTS, OUTPUT, PlainGraph
from tempoquant.layers import quantized_layers

MODEL = "model.onnx"
OPSET = 20


def write_onnx(graph: PlainGraph, example: tuple[Tensor, ...], folder: Path) -> None:
    """Write ``model.onnx`` into ``folder``; batch and number of tokens stay open, the resolution is the
    example's.

    Raises:
        InputError: the extra is missing.
    """
    onnx = needed("onnx", "onnx")
    named = dict(zip(graph.inputs, example, strict=True))
    tokens = {n: {0: "batch", 1: "tokens"} for n in graph.inputs[len(INPUTS) :] if named[n].dim() == 3}
    with _silence():
        torch.onnx.export(
            graph,
            example,
            str(folder / MODEL),
            input_names=list(named),
            output_names=[OUTPUT],
            dynamic_axes={**{name: {0: "batch"} for name in (*named, OUTPUT)}, **tokens},
            opset_version=OPSET,
            do_constant_folding=False,
            dynamo=False,
        )
    model = onnx.load(str(folder / MODEL))
    per_channel = {
        f"module.{name}.weight"
        for name, layer in quantized_layers(graph.module).items()
        if layer.weight_groups == 1 and layer.kind.output_axis == 0
    }
    _int8_weights(model.graph, onnx, per_channel)
    onnx.save(model, str(folder / MODEL))


@contextmanager
def _silence() -> Iterator[None]:
    """For an export that fails: torch then prints its whole graph, from C++, where Python's own stdout is not asked."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def _int8_weights(graph: Any, onnx: Any, per_channel: set[str]) -> None:
    """Give int8 weights a DequantizeLinear of their own, in the place of a cast and a product with the scale.

    Args:
        graph: changed in place.
        onnx: the module.
        per_channel: names of weights (C_out, ...) with one scale a channel, (C_out, 1); others stay as they are.
    """
    initializers = {entry.name: entry for entry in graph.initializer}
    int8 = {name for name, entry in initializers.items() if entry.data_type == onnx.TensorProto.INT8}
    stored = int8 & per_channel
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for weight in stored:
        for cast in readers.get(weight, []):
            if cast.op_type != "Cast" or [node.op_type for node in readers[cast.output[0]]] != ["Mul"]:
                continue
            (product,) = readers[cast.output[0]]
            dequantize = onnx.helper.make_node(
                "DequantizeLinear", [weight, f"{weight}_scale"], list(product.output), f"{weight}_dequantized", axis=0
            )
            # The operator takes scales of one dimension.
            del initializers[f"{weight}_scale"].dims[1:]
            position = list(graph.node).index(product)
            graph.node.remove(product)
            graph.node.remove(cast)
            graph.node.insert(position - 1, dequantize)


class ONNXSession:
    """Runs an exported denoiser in onnxruntime, on the CPU.

    Args:
        folder: holds ``model.onnx``.
        options: session settings by name, such as ``intra_op_num_threads``, by default as many as torch has.

    Raises:
        InputError: the extra is missing, or there is no such setting. FormatError: the file is damaged.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any] | None = None):
        runtime = needed("onnxruntime", "onnx")
        settings = runtime.SessionOptions()
        for name, value in {"intra_op_num_threads": torch.get_num_threads(), **(options or {})}.items():
            if not hasattr(settings, name):
                raise InputError(f"onnxruntime has no session setting {name!r}")
            setattr(settings, name, value)
        try:
            self.session = runtime.InferenceSession(str(folder / MODEL), settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise FormatError(f"{folder / MODEL} cannot be read: {str(error).splitlines()[0]}") from None

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The prediction.

        Raises:
            InputError: the inputs' shapes are not those that were exported.
        """
        try:
            return self.session.run(None, dict(inputs))[0]
        except Exception as error:
            shapes = {name: value.shape for name, value in inputs.items()}
            last = str(error).strip().splitlines()[0]
            raise InputError(f"the exported denoiser cannot take inputs of shapes {shapes}: {last}") from None


register_target("onnx", ExportTarget(("onnx", "onnxruntime"), write_onnx, ONNXSession))
