"""Export to OpenVINO: int8 weights on disk, integer kernels at run time (extra ``openvino``)."""

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempoquant.errors import FormatError, InputError
from tempoquant.exporting.extras import needed
from tempoquant.exporting.targets import ExportTarget, register_target
from tempoquant.exporting.traceable import OUTPUT, PlainGraph
from tempoquant.patching import own_function, substitute

MODEL = "openvino_model.xml"
PRODUCTS = ("Convolution", "FullyConnected", "MatMul", "Subgraph")
LAYER = re.compile(r"__module\.module\.([\w.]+)/aten::(?:_convolution|conv2d|linear)\b")
ATTENTION = re.compile(r"__module\.module\.([\w.]+)/aten::(?:matmul|bmm|baddbmm)[\w]*/(?:Mat|Ba)")
"""What the frontend calls the products of a layer, and of an attention module."""


def write_openvino(graph: PlainGraph, example: tuple[Tensor, ...], folder: Path) -> None:
    """Write ``openvino_model.xml`` and ``.bin`` into ``folder``; batch and resolution stay open.

    Raises:
        InputError: the extra is missing.
    """
    ov = needed("openvino", "openvino")
    with _norms_by_channel(graph.module):
        model = ov.convert_model(graph, example_input=example)
    for port, name in zip(model.inputs, graph.inputs, strict=True):
        port.get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    ov.save_model(model, folder / MODEL, compress_to_fp16=False)


@contextmanager
def _norms_by_channel(module: nn.Module) -> Iterator[None]:
    """Let group norms be :func:`norm_by_channel` for the time of a ``with`` block."""
    norms = [part for part in module.modules() if type(part) is nn.GroupNorm and own_function(part) is None]
    undo = [substitute(part, functools.partial(norm_by_channel, part)) for part in norms]
    try:
        yield
    finally:
        for put_back in undo:
            put_back()


def norm_by_channel(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """``norm(x)`` in operators that keep an image's channels last, as its convolutions do.

    OpenVINO has no group norm: its frontend makes groups rows of a matrix, for which images change their layout twice.
    """
    if x.dim() != 4:
        return nn.GroupNorm.forward(norm, x)

    def of_groups(means: Tensor) -> Tensor:
        parts = means.reshape(-1, norm.num_groups, norm.num_channels // norm.num_groups)
        return parts.mean(2, keepdim=True).expand_as(parts).reshape(-1, norm.num_channels, 1, 1)

    centred = x - of_groups(x.mean((2, 3)))
    scale = torch.rsqrt(of_groups((centred * centred).mean((2, 3))) + norm.eps)
    if norm.weight is None:
        return centred * scale
    return centred * (scale * norm.weight[:, None, None]) + norm.bias[:, None, None]


class OpenVINOSession:
    """Runs an exported denoiser; it is compiled anew for every shape it is called with, for fixed ones are faster.

    Args:
        folder: holds ``openvino_model.xml``.
        options: of OpenVINO, by name; by default float operators are float32, and it uses as many threads as torch.

    Raises:
        InputError: the extra is missing. FormatError: the files are damaged.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any] | None = None):
        ov = needed("openvino", "openvino")
        self.core = ov.Core()
        try:
            self.model = self.core.read_model(folder / MODEL)
        except RuntimeError as error:
            raise FormatError(f"{folder / MODEL} cannot be read: {str(error).splitlines()[0]}") from None
        threads = torch.get_num_threads()
        self.options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, **(options or {})}
        self.compiled: dict[tuple, Any] = {}

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The prediction, (B, *sample_shape) float32, of arrays by input name."""
        return self._for(inputs)(dict(inputs))[0]

    def kernels(self, inputs: Mapping[str, np.ndarray]) -> dict[str, str]:
        """The kernel of every product, by layer or attention module, as these inputs run it."""
        return kernels(self._for(inputs))

    def _for(self, inputs: Mapping[str, np.ndarray]) -> Any:
        shapes = {name: value.shape for name, value in inputs.items()}
        key = tuple(sorted(shapes.items()))
        if key not in self.compiled:
            model = self.model.clone()
            try:
                model.reshape({name: list(shape) for name, shape in shapes.items()})
                self.compiled[key] = self.core.compile_model(model, "CPU", self.options)
            except RuntimeError as error:
                last = str(error).strip().splitlines()[-1]
                raise InputError(f"the exported denoiser cannot take inputs of shapes {shapes}: {last}") from None
        return self.compiled[key]


def kernels(compiled: Any) -> dict[str, str]:
    """What runs each product of a compiled OpenVINO model: ``{layer: primitive}``; attention products are counted."""
    found: dict[str, str] = {}
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in op.get_rt_info().items() if hasattr(value, "astype")}
        if info.get("layerType") not in PRODUCTS:
            continue
        names, kernel = info.get("originalLayersNames", ""), info.get("primitiveType", "")
        if info["layerType"] != "Subgraph":
            found |= dict.fromkeys(LAYER.findall(names)[:1], kernel)
        for owner in set(ATTENTION.findall(names)):
            found[f"{owner} product {_products_of(found, owner)}"] = kernel
    return found


def _products_of(found: Mapping[str, str], owner: str) -> int:
    return sum(name.startswith(f"{owner} product ") for name in found)


register_target("openvino", ExportTarget(("openvino",), write_openvino, OpenVINOSession))
