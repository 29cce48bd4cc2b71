"""Diagnosis of a quantized denoiser: where it leaves full precision, at which step, and which layers cost most."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tempoquant.checkpoint import machine, versions
from tempoquant.diagnosis.facts import describe_conditioning, speed, stored_bytes
from tempoquant.diagnosis.free_running import Cost, Trajectories, TrajectoryRunner, layer_costs, step_costs
from tempoquant.diagnosis.pair import Pair, open_pair
from tempoquant.diagnosis.patterns import matching
from tempoquant.diagnosis.result import Diagnosis
from tempoquant.diagnosis.same_inputs import SameInputComparison, compare_on_same_inputs, intervals_in_use
from tempoquant.errors import InputError
from tempoquant.evaluation import data_range, has_ssim, psnr, ssim, warn_of_range
from tempoquant.graph import DenoiserGraph, read_denoiser
from tempoquant.intervals import Clock
from tempoquant.methods import method_recipe
from tempoquant.outputs import Kind, check_output, writing
from tempoquant.pipelines import Model, check_image, conditioning_in_float32, state_hash, to_images
from tempoquant.planning import layer_roles
from tempoquant.progress import Progress, Silent
from tempoquant.recipe import keep_higher
from tempoquant.recording import Store, record
from tempoquant.sampling import prepare_tables_for_schedule
from tempoquant.stages import probe_of

DEFAULT_STEPS = 50
FRAME_SAMPLES = 4
"""Samples whose frames are kept, of full precision and of the quantized model."""


def diagnose(
    quantized: Any,
    reference: Any,
    *,
    out: Path | str | None = None,
    samples: int = 8,
    steps: int | None = None,
    seed: int = 1,
    sampler: str | None = None,
    eta: float | None = None,
    batch_size: int = 16,
    ranking_samples: int = 4,
    keep: int = 5,
    layers: Sequence[str] = (),
    recording: Path | str | None = None,
    conditioning: Mapping[str, Any] | None = None,
    reference_name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Diagnosis:
    """Compare a quantized denoiser with full precision, on the same inputs and along its own trajectories.

    Args:
        quantized: a quantized folder or :class:`QuantizedPipeline`; or a pipeline, :class:`Denoiser` or anything else
            that ``quantize`` takes as a model, quantized by whatever tool, whose modules have the reference's names.
        reference: the full-precision model.
        out: folder to write the result to.
        samples: trajectories.
        steps: sampling steps; None for those that the quantized model was calibrated for, else 50.
        seed: of the trajectories' noise.
        sampler: a name of ``SAMPLERS``; None for the quantized model's.
        eta: DDIM's noise scale, 0 to 1; None for the quantized model's.
        batch_size: samples, or recorded rows, a denoiser call.
        ranking_samples: trajectories that a layer's cost is measured on, each layer quantized alone; 0 ranks nothing.
        keep: how many of the costliest layers the policy names.
        layers: patterns of the layers whose activations are recorded and which are ranked; without any, all layers.
        recording: folder of full-precision trajectories (float32) to make or reuse; None for a temporary one.
        conditioning: as ``Model.generate`` takes it.
        reference_name: the reference's name in the commands of a report; None for the model's own name.
        overwrite: replace ``out``.
        progress: shows the stages.

    Raises:
        InputError: the models do not take the same inputs, or a value is not valid; raised before any long work.
        NumericsError: a prediction is NaN or infinite.
    """
    if samples < 1 or ranking_samples < 0 or keep < 1 or batch_size < 1:
        raise InputError(
            f"samples = {samples}, ranking samples = {ranking_samples}, keep = {keep}, batch size = {batch_size}: "
            "at least 1, 0, 1 and 1"
        )
    if out is not None:
        check_output(Path(out), overwrite, Kind.DIAGNOSIS)
    pair, progress = open_pair(quantized, reference), progress or Silent()
    check_diagnosable(pair.full)
    conditioning = conditioning_in_float32(conditioning)
    pair.full.check_conditioning(conditioning, samples)
    run = {**_schedule(pair, steps, sampler, eta), "seed": seed, "batch_size": batch_size, "conditioning": conditioning}
    graph = _graph(pair, run)
    names = matching(pair.common([layer.name for layer in graph.layers]), layers, "layer that both models have")
    options = {"reference": reference_name or pair.full.name, "keep": keep, "batch_size": batch_size}
    options["layer"] = list(layers)
    temporary = TemporaryDirectory(prefix="tempoquant-") if recording is None else nullcontext(str(recording))
    writer = nullcontext() if out is None else writing(out, Kind.DIAGNOSIS, overwrite=overwrite)
    with writer as output, temporary as folder:
        store = record(pair.full, Path(folder), samples=samples, dtype="float32", progress=progress, **run)
        if pair.pipeline is not None:
            # Both are called on recorded inputs before the quantized model runs a schedule.
            timesteps = pair.quantized.timesteps(run["steps"], run["sampler"], conditioning)
            prepare_tables_for_schedule(pair.quantized.denoiser, timesteps)
        runner = TrajectoryRunner(store, run)
        job = _DiagnosisJob(pair, graph, runner, names, min(ranking_samples, samples), options, progress)
        diagnosis = job.run()
        if output is not None:
            with output.staging() as staging:
                diagnosis.write(staging)
    return diagnosis


def check_diagnosable(full: Model) -> None:
    """Check that a full-precision model draws images or latents of images, which a diagnosis shows.

    Raises:
        InputError: it draws something else.
    """
    advice = "a diagnosis compares images; `tempoquant evaluate` judges other samples"
    check_image(full.name, full.pixel_shape, advice, latents=True)


class _DiagnosisJob:
    """The measurements of one diagnosis.

    Args:
        pair: the two models.
        graph: of the full-precision denoiser.
        runner: samples with the models from the recording's noise.
        layers: names of the layers to rank and to show.
        ranking_samples: trajectories that costs are measured on; 0 for no costs.
        options: of the command that repeats the diagnosis, stored as facts.
        progress: shows the stages.
    """

    def __init__(
        self,
        pair: Pair,
        graph: DenoiserGraph,
        runner: TrajectoryRunner,
        layers: list[str],
        ranking_samples: int,
        options: dict[str, Any],
        progress: Progress,
    ):
        self.pair, self.graph, self.runner, self.layers = pair, graph, runner, layers
        self.ranking_samples, self.options, self.progress = ranking_samples, options, progress
        self.store: Store = runner.store
        self.projections, self.units = pair.common(graph.projections), pair.common([u.name for u in graph.units])

    def run(self) -> Diagnosis:
        """Measure everything."""
        batch_size = self.runner.options["batch_size"]
        comparison = compare_on_same_inputs(
            self.pair, self.store, self.projections, self.units, self.layers, batch_size, self.progress
        )
        full, quantized, *mixed = self._trajectories()
        warn_of_range(self.pair.full.name, full.pixels)
        culprits, ranges = self._costs(full.pixels[: self.ranking_samples]) if self.ranking_samples else ((), ())
        return Diagnosis(
            facts=self._facts() | {"data_range": data_range(full.pixels)},
            projections=tuple(self.projections),
            units=tuple(self.units),
            layers=tuple(self.layers),
            culprits=culprits,
            step_ranges=ranges,
            policy=keep_higher(self._widths([cost.name for cost in culprits[: self.options["keep"]]])),
            timesteps=self.store.timesteps,
            rows=self.store.rows,
            intervals=intervals_in_use(self.pair.pipeline, self.layers, self.store.timesteps),
            deviations=torch.stack([trajectories.deviation for trajectories in (quantized, *mixed)]).float(),
            frame_steps=self.runner.frame_steps,
            **_comparison_tensors(comparison),
            **_image_tensors(full, quantized),
        )

    def _trajectories(self) -> list[Trajectories]:
        """Of full precision, of the quantized model, and with the temporal layers, or all others, alone quantized."""
        temporal = self.pair.common(self._temporal_layers())
        frame_samples = min(FRAME_SAMPLES, self.runner.trajectories)
        with self.progress.stage("trajectories", 4) as advance:
            trajectories = []
            for model in (self.pair.full, self.pair.quantized):
                trajectories.append(self.runner.run(model, frame_samples))
                advance(1)
            for mixture in (self.pair.with_quantized_layers, self.pair.with_full_layers):
                with mixture(temporal) as model:
                    trajectories.append(self.runner.run(model, 1))
                advance(1)
        return trajectories

    def _costs(self, full_images: Tensor) -> tuple[tuple[Cost, ...], tuple[Cost, ...]]:
        """Costs of layers and of ranges of steps."""
        differing = self.pair.differing(self.layers)
        argument = self.graph.time_argument
        clock = Clock(self.store.timesteps, argument.position, argument.name)
        return (
            layer_costs(self.pair, self.runner, differing, full_images, self.progress),
            step_costs(self.pair, self.runner, clock, full_images, self.progress),
        )

    def _temporal_layers(self) -> list[str]:
        return [layer.name for layer in self.graph.layers if layer.category.is_temporal]

    def _widths(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Weight and activation bits of these layers; 4 for those of another tool, whose bits are not known."""
        recipe = None if self.pair.pipeline is None else self.pair.pipeline.recipe
        roles = layer_roles(self.graph)
        return {name: (4, 4) if recipe is None else recipe.bits_of(name, roles[name]) for name in names}

    def _facts(self) -> dict[str, Any]:
        pair, options = self.pair, self.runner.options
        module = pair.full.denoiser.module
        return {
            "quantized": _quantized_facts(pair),
            "reference": {"name": pair.full.name, "hash": state_hash(module), "bytes": stored_bytes(module)},
            "samples": self.runner.trajectories,
            "ranking_samples": self.ranking_samples,
            "schedule": {name: options[name] for name in ("steps", "sampler", "eta", "seed")},
            "options": self.options,
            "conditioning": describe_conditioning(options["conditioning"] or {}),
            "temporal_layers": self._temporal_layers(),
            "speed": speed(pair, self.store),
            "versions": versions(),
            "machine": machine(),
        }


def _quantized_facts(pair: Pair) -> dict[str, Any]:
    if pair.pipeline is None:
        return {"name": pair.quantized.name, "recipe": None, "size": None}
    recipe, facts = pair.pipeline.recipe, pair.pipeline.facts
    return {
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "size": facts.get("size"),
        "files": facts.get("files", {}),
        "made_with": facts.get("versions", {}),
    }


def _comparison_tensors(comparison: SameInputComparison) -> dict[str, Tensor]:
    return {
        "feature_cosine": comparison.features.cosine(),
        "feature_error": comparison.features.relative_error(),
        "nearest": comparison.nearest,
        "unit_cosine": comparison.units.cosine().float(),
        "unit_sqnr": comparison.units.sqnr_db().float(),
        "noise_sqnr": comparison.noise.sqnr_db()[0].float(),
        "activations": comparison.activations,
    }


def _image_tensors(full: Trajectories, quantized: Trajectories) -> dict[str, Tensor]:
    pixel_range = data_range(full.pixels)
    no_ssim = torch.full((len(quantized.pixels),), torch.nan)
    with_ssim = has_ssim(full.pixels.shape[1:])
    return {
        "psnr": psnr(full.pixels, quantized.pixels, pixel_range).float(),
        "ssim": ssim(full.pixels, quantized.pixels, pixel_range).float() if with_ssim else no_ssim,
        "full_images": to_images(full.pixels),
        "images": to_images(quantized.pixels),
        "full_frames": full.frames,
        "frames": quantized.frames,
    }


def _schedule(pair: Pair, steps: int | None, sampler: str | None, eta: float | None) -> dict[str, Any]:
    """The requested settings; for each None, what the quantized model was calibrated for."""
    default = {"steps": DEFAULT_STEPS, "sampler": None, "eta": 0.0}
    calibrated = default if pair.pipeline is None else pair.pipeline.schedule
    requested = {"steps": steps, "sampler": sampler, "eta": eta}
    return {name: calibrated[name] if value is None else value for name, value in requested.items()}


def _graph(pair: Pair, run: Mapping[str, Any]) -> DenoiserGraph:
    """The structure of the full-precision denoiser, read with the run's schedule and conditioning."""
    recipe = method_recipe("rtn", calibration={name: run[name] for name in ("steps", "sampler", "eta")})
    return read_denoiser(probe_of(pair.full, recipe, run["conditioning"]))
