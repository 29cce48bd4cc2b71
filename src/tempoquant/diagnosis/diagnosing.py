"""Diagnosing a quantized denoiser: where it leaves full precision, at which step, and which layers cost most."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tempoquant.checkpoint import machine, versions
from tempoquant.diagnosis.facts import speed, stored_bytes, told
from tempoquant.diagnosis.free_running import Cost, Course, Walker, layer_costs, step_costs
from tempoquant.diagnosis.pair import Pair, open_pair
from tempoquant.diagnosis.patterns import matching
from tempoquant.diagnosis.result import Diagnosis
from tempoquant.diagnosis.same_inputs import Along, intervals_in_use, measure_along
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
SHOWN = 4


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
        samples: trajectories. steps, sampler, eta: the schedule; the quantized model's own if not given.
        ranking_samples: trajectories that a layer's cost is measured on, each layer quantized alone; 0 ranks nothing.
        keep: how many of the costliest layers the policy names.
        layers: patterns of layer names: whose activations are told and which are ranked; all if none are given.
        recording: folder of full-precision trajectories (float32) to make or reuse.
        conditioning: as ``Model.generate`` takes it.
        reference_name: what the command line calls the reference, for the commands of a report.
        overwrite: replace ``out``.

    Raises:
        InputError: the models do not take the same inputs, or a value is not valid; said before any long work.
        NumericsError: a prediction is NaN or infinite.
    """
    if samples < 1 or ranking_samples < 0 or keep < 1 or batch_size < 1:
        raise InputError(
            f"samples = {samples}, ranking samples = {ranking_samples}, keep = {keep}, batch size = {batch_size}: "
            "at least 1, 0, 1 and 1"
        )
    if out is not None:
        check_output(Path(out), overwrite, Kind.DIAGNOSIS)
    pair, shown = open_pair(quantized, reference), progress or Silent()
    check_diagnosable(pair.full)
    given = conditioning_in_float32(conditioning)
    pair.full.check_conditioning(given, samples)
    run = _schedule(pair, steps, sampler, eta) | {"seed": seed}
    graph = _graph(pair, run, given)
    chosen = matching(pair.common([layer.name for layer in graph.layers]), layers, "layer that both models have")
    temporary = TemporaryDirectory(prefix="tempoquant-") if recording is None else nullcontext(str(recording))
    held = nullcontext() if out is None else writing(out, Kind.DIAGNOSIS, overwrite=overwrite)
    with held as output, temporary as folder:
        store = record(
            pair.full,
            Path(folder),
            samples=samples,
            dtype="float32",
            batch_size=batch_size,
            conditioning=given,
            progress=shown,
            **run,
        )
        if pair.own is not None:
            # Both are called on recorded inputs, before any run of the quantized one's own.
            timesteps = pair.quantized.timesteps(run["steps"], run["sampler"], given)
            prepare_tables_for_schedule(pair.quantized.denoiser, timesteps)
        walker = Walker(store, {**run, "batch_size": batch_size, "conditioning": given})
        name = reference_name or pair.full.name
        options = {"reference": name, "keep": keep, "batch_size": batch_size, "layer": list(layers)}
        found = _Finding(pair, graph, walker, chosen, min(ranking_samples, samples), options, shown).result()
        if output is not None:
            with output.staging() as staging:
                found.write(staging)
    return found


def check_diagnosable(full: Model) -> None:
    """Raise InputError unless a diagnosis can show what the full-precision model draws."""
    advice = "a diagnosis compares images; `tempoquant evaluate` judges other samples"
    check_image(full.name, full.pixel_shape, advice, latents=True)


class _Finding:
    """One diagnosis on its way."""

    def __init__(
        self,
        pair: Pair,
        graph: DenoiserGraph,
        walker: Walker,
        layers: list[str],
        ranked: int,
        options: dict[str, Any],
        progress: Progress,
    ):
        self.pair, self.graph, self.walker, self.layers = pair, graph, walker, layers
        # Options are kept as facts: a page names the command that makes the diagnosis again.
        self.ranked, self.options, self.progress = ranked, options, progress
        self.store: Store = walker.store
        self.projections, self.units = pair.common(graph.projections), pair.common([u.name for u in graph.units])

    def result(self) -> Diagnosis:
        """Measure everything."""
        batch_size = self.walker.options["batch_size"]
        along = measure_along(
            self.pair, self.store, self.projections, self.units, self.layers, batch_size, self.progress
        )
        courses = self._courses()
        full, ours = courses[0], courses[1]
        warn_of_range(self.pair.full.name, full.pixels)
        own = data_range(full.pixels)
        truth = full.pixels[: self.ranked]
        culprits, ranges = self._costs(truth) if self.ranked else ((), ())
        small = not has_ssim(full.pixels.shape[1:])
        return Diagnosis(
            facts=self._facts() | {"data_range": own},
            projections=tuple(self.projections),
            units=tuple(self.units),
            layers=tuple(self.layers),
            culprits=culprits,
            step_ranges=ranges,
            policy=keep_higher(self._widths([cost.name for cost in culprits[: self.options["keep"]]])),
            timesteps=self.store.timesteps,
            rows=self.store.rows,
            intervals=intervals_in_use(self.pair.own, self.layers, self.store.timesteps),
            deviations=torch.stack([course.deviation for course in courses[1:]]).float(),
            psnr=psnr(full.pixels, ours.pixels, own).float(),
            ssim=torch.full((len(ours.pixels),), torch.nan) if small else ssim(full.pixels, ours.pixels, own).float(),
            full_images=to_images(full.pixels),
            images=to_images(ours.pixels),
            full_frames=full.frames,
            frames=ours.frames,
            frame_steps=self.walker.frame_steps,
            **_sums(along),
        )

    def _courses(self) -> list[Course]:
        """Trajectories of full precision, of the quantized model, and of the two mixtures."""
        temporal = [name for name in self._layers_of(True) if name in self.pair.common([name])]
        shown = min(SHOWN, self.walker.trajectories)
        with self.progress.stage("trajectories", 4) as advance:
            courses = []
            for target in (self.pair.full, self.pair.quantized):
                courses.append(self.walker.course(target, shown))
                advance(1)
            for mixed in (self.pair.only, self.pair.without):
                with mixed(temporal) as target:
                    courses.append(self.walker.course(target, 1))
                advance(1)
        return courses

    def _costs(self, truth: Tensor) -> tuple[tuple[Cost, ...], tuple[Cost, ...]]:
        differing = self.pair.differing(self.layers)
        argument = self.graph.time_argument
        clock = Clock(self.store.timesteps, argument.position, argument.name)
        return (
            layer_costs(self.pair, self.walker, differing, truth, self.progress),
            step_costs(self.pair, self.walker, clock, truth, self.progress),
        )

    def _layers_of(self, temporal: bool) -> list[str]:
        return [layer.name for layer in self.graph.layers if (layer.category.is_temporal) is temporal]

    def _widths(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Weight and activation bits of these layers; of another tool's, unknown, as if less than 8."""
        recipe, roles = (None if self.pair.own is None else self.pair.own.recipe), layer_roles(self.graph)
        return {name: (4, 4) if recipe is None else recipe.bits_of(name, roles[name]) for name in names}

    def _facts(self) -> dict[str, Any]:
        pair, options = self.pair, self.walker.options
        own = {} if pair.own is None else pair.own.facts
        quantized: dict[str, Any] = {"name": pair.quantized.name, "recipe": None, "size": own.get("size")}
        if pair.own is not None:
            quantized |= {
                "name": pair.own.recipe.name,
                "recipe": pair.own.recipe.model_dump(mode="json"),
                "files": own.get("files", {}),
                "made_with": own.get("versions", {}),
            }
        module = pair.full.denoiser.module
        full = {"name": pair.full.name, "hash": state_hash(module), "bytes": stored_bytes(module)}
        return {
            "quantized": quantized,
            "reference": full,
            "samples": self.walker.trajectories,
            "ranking_samples": self.ranked,
            "schedule": {name: options[name] for name in ("steps", "sampler", "eta", "seed")},
            "options": self.options,
            "conditioning": told(options["conditioning"] or {}),
            "temporal_layers": self._layers_of(True),
            "speed": speed(pair, self.store),
            "versions": versions(),
            "machine": machine(),
        }


def _sums(along: Along) -> dict[str, Tensor]:
    return {
        "feature_cosine": along.features.cosine(),
        "feature_error": along.features.relative_error(),
        "nearest": along.nearest,
        "unit_cosine": along.units.cosine().float(),
        "unit_sqnr": along.units.sqnr_db().float(),
        "noise_sqnr": along.noise.sqnr_db()[0].float(),
        "activations": along.activations,
    }


def _schedule(pair: Pair, steps: int | None, sampler: str | None, eta: float | None) -> dict[str, Any]:
    """As given, else what the quantized model was calibrated for."""
    known = {"steps": DEFAULT_STEPS, "sampler": None, "eta": 0.0} if pair.own is None else pair.own.schedule
    given = {"steps": steps, "sampler": sampler, "eta": eta}
    return {name: known[name] if value is None else value for name, value in given.items()}


def _graph(pair: Pair, run: Mapping[str, Any], conditioning: Mapping[str, Any] | None) -> DenoiserGraph:
    """What the full-precision denoiser consists of."""
    recipe = method_recipe("rtn", calibration={name: run[name] for name in ("steps", "sampler", "eta")})
    return read_denoiser(probe_of(pair.full, recipe, conditioning))
