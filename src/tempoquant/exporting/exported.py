"""Folders for other runtimes: written from a quantized pipeline, and loaded as one that draws through them."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor

from tempoquant.arguments import tensor_arguments
from tempoquant.documents import read_json
from tempoquant.errors import FormatError, InputError, first_line
from tempoquant.exporting.exported_denoiser import ExportedDenoiser, as_array
from tempoquant.exporting.openvino_parts import check_parts, write_parts
from tempoquant.exporting.targets import MANIFEST, find_target
from tempoquant.exporting.traceable import PlainGraph, int8_names, tracing
from tempoquant.files import storage_error
from tempoquant.intervals import Conditions
from tempoquant.limits import LONGEST_SIDE
from tempoquant.outputs import Kind, writing
from tempoquant.pipelines import (
    BareModel,
    DiffusersModel,
    Model,
    example_conditions,
    load_pipeline,
    replaced,
    unbatched_of,
    vectors_of,
)
from tempoquant.precision import in_float32
from tempoquant.quantized import QuantizedPipeline
from tempoquant.recipe import refused
from tempoquant.sampling import Denoiser

FORMAT_VERSION = 1


class Manifest(BaseModel):
    """What :func:`load_exported` reads of ``tempoquant_export.json``.

    Attributes:
        recorded: time steps of the schedule. frozen: whether there are no others.
        known: conditions that a frozen denoiser knows, by argument; folders of before there were any have none.
    """

    model_config = ConfigDict(strict=True)

    format_version: int
    target: Annotated[str, Field(pattern=r"^[\w-]+$")]
    name: str
    sample_shape: list[Annotated[int, Field(ge=1, le=LONGEST_SIDE)]] = Field(min_length=1, max_length=5)
    conditions: list[str]
    recorded: list[FiniteFloat] = Field(min_length=1)
    frozen: bool
    known: dict[str, list[Any]] = {}


@in_float32
def export(
    quantized: QuantizedPipeline,
    out: Path | str,
    to: str = "openvino",
    *,
    freeze: bool = True,
    conditioning: Mapping[str, Any] | None = None,
    whole: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a folder that another runtime draws from.

    Args:
        quantized: left as it is.
        to: a name of :data:`~tempoquant.exporting.TARGETS`: "openvino", "onnx", or a plugin's.
        freeze: put the temporal table in the place of the layers that see the time step alone, where there are such
            and they follow no class label or pooled prompt: the folder then knows its own schedule only.
        conditioning: an example of what it is to draw from, as ``generate`` takes it: for bare denoisers that take
            other conditions than a class label or a prompt's words. Pipelines make one themselves.
        whole: to OpenVINO, text encoders and autoencoder too (float), so that optimum-intel loads the folder.

    Returns:
        The folder: ``model_index.json`` and the pipeline's other parts as they were, and the denoiser's component
        with the runtime's files, ``config.json`` and ``tempoquant_export.json``.

    Raises:
        InputError: no such target, its extra is missing, the folder exists, or the denoiser takes inputs that cannot
            be exported.
    """
    find_target(to)
    if whole and to != "openvino":
        raise InputError(f"whole: optimum-intel reads OpenVINO, not {to}")
    if whole:
        check_parts(quantized.pipeline)
    if quantized.correction is not None:
        raise InputError("a correction acts in the scheduler, which an export has none of: quantize without it")
    with writing(out, Kind.EXPORTED, overwrite=overwrite) as output, output.staging() as staging:
        quantized.return_to_schedule()
        steps, sampler = quantized.schedule["steps"], quantized.schedule["sampler"]
        example = example_conditions(quantized.model, conditioning, steps=steps, sampler=sampler)
        for name in unbatched_of(example):
            raise InputError(
                f"{quantized.model.name} takes {name!r}, which has no row a sample: such a denoiser is not exported"
            )
        # What these see is then no function of the time step.
        freezes = freeze and not vectors_of(example) and bool(quantized.blueprint.projections)
        frozen = freezes or quantized.clock.frozen
        chosen = quantized
        if freezes:
            module, clock = copy.deepcopy((quantized.denoiser.module, quantized.clock))
            chosen = QuantizedPipeline(quantized.model.with_module(module), quantized.blueprint, clock, {})
            chosen.freeze_schedule()
        quantized.model.save_shell(staging)
        if whole:
            write_parts(quantized.pipeline, staging)
        _write_component(staging / quantized.model.component, chosen, to, tensor_arguments(example), frozen)
    return Path(out)


def _write_component(
    folder: Path, quantized: QuantizedPipeline, to: str, conditions: Mapping[str, Tensor], frozen: bool
) -> None:
    folder.mkdir()
    denoiser, module = quantized.denoiser, quantized.denoiser.module
    graph = PlainGraph(denoiser, quantized.clock, tuple(conditions)).eval()
    # Two rows: a batch of one would be taken for a constant.
    sample = torch.zeros(2, *denoiser.sample_shape)
    steps = quantized.clock.timesteps[-1:].expand(2).contiguous()
    values = tuple(value.expand(2, *value.shape[1:]).contiguous() for value in conditions.values())
    _write_graph(graph, (sample, steps, *values), to, folder)
    config = {k: v for k, v in dict(getattr(module, "config", {})).items() if k != "quantization_config"}
    known = {} if quantized.clock.conditions is None else quantized.clock.conditions.values
    manifest = {
        "format_version": FORMAT_VERSION,
        "target": to,
        "name": denoiser.name,
        "sample_shape": list(denoiser.sample_shape),
        "conditions": list(conditions),
        "recorded": quantized.clock.timesteps.tolist(),
        "frozen": frozen,
        "known": {name: value.tolist() for name, value in known.items()},
        "int8_layers": int8_names(module),
        "recipe": quantized.recipe.model_dump(mode="json"),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    config |= {"_class_name": type(module).__name__}
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=list) + "\n")


def _write_graph(graph: PlainGraph, example: tuple[Tensor, ...], to: str, folder: Path) -> None:
    """Write the runtime's files, and see that it runs them.

    Raises:
        InputError: the runtime does not know something that the graph does.
    """
    name, runtime = type(graph.module).__name__, find_target(to)
    with tracing():
        try:
            # Modules that keep what they computed once, such as places of tokens, are traced with it.
            graph(*example)
            runtime.write(graph, example, folder)
            runtime.open(folder, {})({n: as_array(v) for n, v in zip(graph.inputs, example, strict=True)})
        except Exception as error:
            full = storage_error(error, folder)
            if full is not None:
                raise full from error
            raise InputError(f"a {name} cannot be exported to {to}: {first_line(error)}") from error


@in_float32
def load_exported(folder: Path | str, **options: Any) -> Model:
    """The model of an exported folder, drawing through its runtime; a diffusers pipeline is its ``pipe``.

    Args:
        options: the runtime's own, such as OpenVINO's ``INFERENCE_PRECISION_HINT="bf16"``.

    Raises:
        InputError: the runtime's extra is missing, or the plugin that knows it.
        FormatError: the folder is damaged, or too new.
    """
    root = Path(folder)
    found = sorted(root.glob(f"*/{MANIFEST}"))
    if len(found) != 1:
        raise FormatError(f"{root} is no exported folder: it has no {MANIFEST} in a component")
    place = found[0].parent
    manifest, config = _read_manifest(found[0]), read_json(place / "config.json")
    try:
        known = {name: torch.tensor(values) for name, values in manifest.known.items()}
    except (ValueError, TypeError, RuntimeError) as error:
        raise FormatError(f"{found[0]} is damaged: known: {first_line(error)}") from None
    session = find_target(manifest.target).open(place, options)
    frozen = torch.tensor(manifest.recorded) if manifest.frozen else None
    conditions = Conditions(known) if known else None
    module = ExportedDenoiser(session, config, tuple(manifest.conditions), frozen, conditions)
    return _around(root, place.name, module, tuple(manifest.sample_shape), manifest.name)


def _read_manifest(path: Path) -> Manifest:
    entries = read_json(path, "is damaged")
    version = entries.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(f"{path}: format version {version} is newer: upgrade tempoquant")
    try:
        return Manifest.model_validate(entries)
    except ValidationError as error:
        raise FormatError(str(refused(error, Manifest, f"{path} is damaged"))) from None


def _built_around(pipe: Any, component: str, module: ExportedDenoiser) -> Any:
    """``pipe`` around ``module``, with all that its constructor reads off a denoiser, such as the images' size."""
    settings = {n: v for n, v in pipe.config.items() if n not in pipe.components and not n.startswith("_")}
    made = type(pipe)(**{**pipe.components, component: module}, **settings)
    # The folder keeps naming diffusers' classes.
    return replaced(made, _internal_dict=pipe.config)


def _around(root: Path, component: str, module: ExportedDenoiser, shape: tuple[int, ...], name: str) -> Model:
    try:
        if (root / "model_index.json").is_file():
            # Without a denoiser first: diffusers remarks on one of a class that the folder does not name.
            pipe = load_pipeline(root, **{component: None})
            return DiffusersModel(_built_around(pipe, component, module), root.name)
        config = read_json(root / "scheduler" / "scheduler_config.json")
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    except Exception as error:
        raise FormatError(f"{root} cannot be loaded: {first_line(error)}") from error
    return BareModel(replace(Denoiser(module, scheduler, shape), name=name))
