"""The public verbs: quantize a model, load a quantized folder."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from tempoquant.checkpoint import (
    BARE,
    EVIDENCE,
    component_of,
    describe_evidence,
    read_component,
    read_config,
    read_correction,
    read_evidence,
)
from tempoquant.correction import check_correctable
from tempoquant.errors import FormatError, InputError, first_line
from tempoquant.facts import covered, facts_of
from tempoquant.job import full_precision, run_job
from tempoquant.models import HeadsUNet2DModel
from tempoquant.outputs import Kind, Output, writing
from tempoquant.pipelines import (
    BareModel,
    DiffusersModel,
    Model,
    conditioning_in_float32,
    example_conditions,
    load_pipeline,
    state_hash,
    vectors_of,
)
from tempoquant.precision import in_float32
from tempoquant.progress import Progress, Silent
from tempoquant.quantized import QuantizedPipeline
from tempoquant.recipe import Recipe, check_storable, check_training
from tempoquant.sampling import Denoiser
from tempoquant.stages import WorkFolders
from tempoquant.training import Processes, Rhythm, open_images
from tempoquant.training_job import TrainingData, keep_evidence, run_training
from tempoquant.workplace import workplace


@in_float32
def quantize(
    model: Any,
    recipe: Recipe,
    *,
    out: Path | str | None = None,
    recording: Path | str | None = None,
    units: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    conditioning: Mapping[str, Any] | None = None,
    freeze_schedule: bool = False,
    freeze_conditioning: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> QuantizedPipeline:
    """Quantize a diffusion model.

    Args:
        model: ``"fashion32"``, a diffusers folder, a hub id, ``"FILE.py:FACTORY"``, a diffusers pipeline, or a
            :class:`~tempoquant.Denoiser`. Never changed; one in half precision is quantized as a float32 copy.
        recipe: how; see :func:`tempoquant.method_recipe`.
        out: folder to write the result to, with resumable work beside it in ``out.partial``.
        recording: folder of recorded trajectories to make or reuse, so that several recipes share one.
        units: folder of finished weights to make or reuse, so that recipes that differ in activations share them.
        conditioning: what a conditional model draws from, one entry a calibration sample of the recipe: keyword
            arguments of the pipeline's call (``{"prompt": [...]}``, ``{"class_labels": [...]}``; a ``guidance_scale``
            serves all), or of a bare denoiser its keyword tensors.
        freeze_schedule: replace layers that see the time step alone by a table; the result then knows its own
            schedule only. See :meth:`QuantizedPipeline.freeze_schedule`.
        freeze_conditioning: the class labels or prompts that a frozen schedule is to know, where these layers follow
            them too; its ``conditioning``.
        resume: unfinished work of the same job is continued in any case; with this, another job's is never dropped.
        overwrite: replace ``out``, if this package wrote all that is in it, and drop another job's unfinished work.

    Raises:
        InputError: an argument is not valid, or another run writes to ``out``; said before any long work.
        NumericsError: the denoiser returned NaN or infinity.

    Warns:
        UserWarning: much of the arithmetic stays float though the recipe does not say so; ``facts["coverage"]`` of the
            result says how much of the parameters and the arithmetic is quantized, what is not, and why.
    """
    check_training(recipe, trains=False)
    target, given = _opened(model, recipe, conditioning)
    if freeze_schedule or freeze_conditioning is not None:
        _check_freezing(target, recipe, freeze_schedule, freeze_conditioning, given)
    if recipe.correction is not None:
        check_correctable(target.denoiser.scheduler)
    drop = {"resume": resume, "overwrite": overwrite}
    with (
        _held(out, overwrite) as output,
        workplace(output, recipe, state_hash(target.denoiser.module), **drop) as work,
    ):
        folders = _folders(work, recording, units)
        # Rounding is learned by gradients, which a caller's inference mode would forbid.
        with torch.inference_mode(False):
            quantized = run_job(target, recipe, folders, progress or Silent(), given)
        facts = facts_of(target, quantized, given)
        made = target.with_module(quantized.module)
        result = QuantizedPipeline(made, quantized.blueprint, quantized.clock, facts, quantized.correction)
        result.use_engine("auto")
        if freeze_schedule:
            result.freeze_schedule(conditioning=freeze_conditioning)
        facts["coverage"] = covered(quantized)
        if output is not None:
            with output.staging() as folder:
                result.write(folder)
    return result


@in_float32
def train(
    model: Any,
    recipe: Recipe,
    *,
    data: Any = None,
    out: Path | str | None = None,
    recording: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    conditioning: Mapping[str, Any] | None = None,
    rhythm: Rhythm | None = None,
    progress: Progress | None = None,
) -> QuantizedPipeline:
    """Train a diffusion model on a quantized grid (quantization-aware training), and fold it.

    The result is a quantized model like any other: integers, and intervals in constants or tables.

    Args:
        model: as :func:`quantize` takes it.
        recipe: of a method that trains, such as ``"tdq"``; see :func:`tempoquant.method_recipe`.
        data: images to train on by the diffusion loss, see :func:`tempoquant.training.open_images`; None: distillation
            from the model's own trajectories, by the mean square (or absolute) distance to full-precision predictions.
        out: folder to write the result to, with checkpoints beside it in ``out.partial/training``, and in the end the
            log (JSON lines) and samples in ``out/training``.
        recording, conditioning: as :func:`quantize` takes them.
        resume, overwrite: as :func:`quantize` takes them; the result has the same bits as without an interruption.
        rhythm: how often to log, save, and draw samples.

    Raises:
        InputError: an argument is not valid; said before any long work.
        NumericsError: the loss is not finite; names the step, and the last good checkpoint stays.
    """
    check_training(recipe, trains=True)
    processes = Processes()
    target, given = _opened(model, recipe, conditioning)
    images = None if data is None else open_images(data)
    place = out if processes.writes else None
    if place is not None:
        check_storable(recipe)
    drop = {"resume": resume, "overwrite": overwrite}
    with (
        _held(place, overwrite) as output,
        workplace(output, recipe, state_hash(target.denoiser.module), **drop) as work,
    ):
        training = TrainingData(images, "its own trajectories" if images is None else images.digest(), given)
        folders = _folders(work, recording)
        with torch.inference_mode(False):
            made = run_training(target, recipe, training, folders, rhythm or Rhythm(), processes, progress or Silent())
        facts = facts_of(target, made, given) | {"data": training.identity, "coverage": covered(made)}
        result = QuantizedPipeline(target.with_module(made.module), made.blueprint, made.clock, facts)
        if recipe.has_form:
            result.use_engine("auto")
        if output is not None:
            with output.staging() as folder:
                result.write(folder)
                keep_evidence(work / "training", folder / "training")
    return result


@in_float32
def load(
    folder: Path | str,
    *,
    denoiser: Denoiser | None = None,
    engine: str = "auto",
    verify: bool = False,
    steps: int | None = None,
    sampler: str | None = None,
) -> QuantizedPipeline:
    """Load a quantized folder; its images equal those before saving, bit for bit.

    Args:
        denoiser: the float denoiser to fill, for a folder that was made from a bare one.
        engine: what computes its layers: "integer", "simulation", or "auto" for the fastest that is right here.
        verify: refuse a folder without evidence, and print what its evidence says. Hashes are checked in any case.
        steps, sampler: make the tables for this schedule; see :meth:`QuantizedPipeline.bake`.

    Raises:
        FormatError: not ours, incomplete, tampered with, of a newer format, or, to be verified, without evidence.
        InputError: no such folder, a bare denoiser is needed and not given, or tables cannot be made.
    """
    root = Path(folder)
    component = component_of(root)
    read_config(root / component)
    if verify and not (root / EVIDENCE).is_file():
        raise FormatError(f"{root} has no {EVIDENCE}: there is nothing to verify it by")
    facts = read_evidence(root)
    if verify:
        print(*(f"{root}: {line}" for line in describe_evidence(facts)), sep="\n")
    module, blueprint, clock = read_component(root / component, _builder(component, denoiser, root))
    target = _around(root, component, module, denoiser)
    correction = read_correction(root / component, blueprint, clock)
    result = QuantizedPipeline(target, blueprint, clock, facts, correction)
    result.use_engine(engine)
    if steps is not None or sampler is not None:
        result.bake(steps, sampler)
    return result


def _opened(
    model: Any, recipe: Recipe, conditioning: Mapping[str, Any] | None
) -> tuple[Model, Mapping[str, Any] | None]:
    """The model in float32, of the shape that its conditioning asks for, and this conditioning, checked."""
    target = full_precision(model)
    given = conditioning_in_float32(conditioning)
    target.check_conditioning(given, recipe.calibration.samples)
    return target.for_conditioning(given), given


def _held(out: Path | str | None, overwrite: bool) -> AbstractContextManager[Output | None]:
    """The output of a job for the length of its run; None where it writes none."""
    return nullcontext() if out is None else writing(out, Kind.QUANTIZED, overwrite=overwrite)


def _folders(work: Path, recording: Path | str | None, units: Path | str | None = None) -> WorkFolders:
    """Where stages keep unfinished work: in ``work``, but for what other jobs share."""
    return WorkFolders(work, None if recording is None else Path(recording), None if units is None else Path(units))


def _check_freezing(
    target: Model,
    recipe: Recipe,
    freeze: bool,
    conditioning: Mapping[str, Any] | None,
    given: Mapping[str, Any] | None,
) -> None:
    """Refuse what cannot be frozen, before any long work."""
    if not freeze:
        raise InputError("labels or prompts to freeze were given, and freeze_schedule (--freeze-schedule) was not")
    if conditioning is not None:
        counts = (len(value) for value in conditioning.values() if isinstance(value, (list, tuple, torch.Tensor)))
        target.check_conditioning(conditioning, next(counts, 1))
        return
    own = recipe.calibration
    followed = vectors_of(example_conditions(target, given, steps=own.steps, sampler=own.sampler))
    if followed:
        raise InputError(
            f"{target.name}: its temporal layers follow {followed[0]} too: its schedule can be frozen for given labels "
            "or prompts alone (freeze_conditioning, --freeze-labels, --freeze-prompts)"
        )


def _builder(component: str, denoiser: Denoiser | None, root: Path) -> Callable[[dict[str, Any]], nn.Module]:
    def build(config: dict[str, Any]) -> nn.Module:
        if component == BARE:
            if denoiser is None:
                raise InputError(f"{root} holds a bare denoiser: give load(..., denoiser=) or --denoiser")
            return copy.deepcopy(denoiser.module).requires_grad_(False)
        name = config.get("_class_name", "")
        found = HeadsUNet2DModel if name == HeadsUNet2DModel.__name__ else getattr(diffusers, str(name), None)
        if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
            raise FormatError(f"{root / component}: diffusers has no model class {name!r}")
        try:
            return found.from_config(config).requires_grad_(False)
        except Exception as error:
            raise FormatError(f"{root / component}: no {name} has this config: {first_line(error)}") from error

    return build


def _around(root: Path, component: str, module: nn.Module, denoiser: Denoiser | None) -> Model:
    """The target that a folder's other components make around its denoiser."""
    if component == BARE:
        assert denoiser is not None
        return BareModel(replace(denoiser, module=module))
    try:
        pipe = load_pipeline(root, **{component: module})
    except Exception as error:
        raise FormatError(f"{root} cannot be loaded as a diffusers folder: {first_line(error)}") from error
    return DiffusersModel(pipe, root.name)
