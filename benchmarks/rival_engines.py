"""What a user would run a float denoiser with instead: timed beside our engines, each if it is installed."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tempoquant import Denoiser, QuantizedPipeline, export, load_exported
from tempoquant.exporting.traceable import tracing

Run = Callable[[], Any]
STEP = 50
CALIBRATION = 8
"""Inputs that NNCF calibrates on: latency does not depend on them."""


class Called(nn.Module):
    """A denoiser as a module of tensors alone."""

    def __init__(self, denoiser: Denoiser, conditions: tuple[str, ...]):
        super().__init__()
        self.module, self.call, self.conditions = denoiser.module, denoiser.call, conditions

    def forward(self, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
        steps = timestep.expand(sample.shape[0])
        return self.call(self.module, sample, steps, **dict(zip(self.conditions, given, strict=True)))


def rivals(denoiser: Denoiser, x: Tensor, context: dict[str, Tensor]) -> dict[str, Run]:
    """Float engines and NNCF's int8, by name."""
    engines = torch_engines(denoiser, x, context)
    if importlib.util.find_spec("openvino"):
        engines |= openvino_engines(denoiser, x, context)
    return engines


def torch_engines(denoiser: Denoiser, x: Tensor, context: dict[str, Tensor]) -> dict[str, Run]:
    """torch compiled in float32, and in bfloat16 by automatic casts."""
    steps = torch.full((x.shape[0],), STEP)
    # Compiled where a user compiles: the module itself, in the layout that is faster for convolutions.
    compiled: Any = torch.compile(denoiser.module)
    last = x.contiguous(memory_format=torch.channels_last)

    def half() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return denoiser(last, STEP, **context)

    return {
        "torch.compile float32": lambda: denoiser.call(compiled, last, steps, **context),
        "torch bfloat16": half,
    }


def openvino_engines(denoiser: Denoiser, x: Tensor, context: dict[str, Tensor]) -> dict[str, Run]:
    """OpenVINO in float32 and bfloat16, and NNCF's post-training int8 in it."""
    given = (x, torch.full((x.shape[0],), float(STEP)), *context.values())
    model = openvino_model(denoiser, given, tuple(context))
    model.reshape({port: list(value.shape) for port, value in zip(model.inputs, given, strict=True)})
    arrays = [value.numpy() for value in given]
    engines = {
        f"OpenVINO {name}": calling(model, arrays, hint) for name, hint in (("float32", "f32"), ("bfloat16", "bf16"))
    }
    if importlib.util.find_spec("nncf"):
        import nncf

        draw = np.random.default_rng(0)
        samples = [[draw.standard_normal(x.shape, np.float32), *arrays[1:]] for _ in range(CALIBRATION)]
        int8 = nncf.quantize(model, nncf.Dataset(samples), subset_size=CALIBRATION)
        engines["NNCF int8 in OpenVINO"] = calling(int8, arrays)
    return engines


def openvino_model(denoiser: Denoiser, example: tuple[Tensor, ...], conditions: tuple[str, ...] = ()) -> Any:
    """A float denoiser as an OpenVINO model of (sample, time steps, *conditions)."""
    import openvino as ov

    with tracing():
        return ov.convert_model(Called(denoiser, conditions), example_input=example)


def compiled(model: Any, hint: str = "f32") -> Any:
    """An OpenVINO model, ready to be called, on as many threads as torch uses."""
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return ov.Core().compile_model(model, "CPU", options)


def calling(model: Any, arrays: list[np.ndarray], hint: str = "f32") -> Run:
    """One call of an OpenVINO model."""
    made = compiled(model, hint)
    return lambda: made(arrays)


def exported(label: str, quantized: QuantizedPipeline, x: Tensor, context: dict[str, Tensor]) -> dict[str, Run]:
    """Our exports of a quantized model: its temporal layers a table, at one of its own steps."""
    engines: dict[str, Run] = {}
    step = float(quantized.clock.timesteps[0])
    for to, package in (("openvino", "openvino"), ("onnx", "onnxruntime")):
        if importlib.util.find_spec(package):
            with tempfile.TemporaryDirectory() as folder:
                target = load_exported(export(quantized, Path(folder) / "out", to))
                engines[f"{label} exported to {to}"] = lambda d=target.denoiser: d(x, step, **context)
                engines[f"{label} exported to {to}"]()
    return engines
