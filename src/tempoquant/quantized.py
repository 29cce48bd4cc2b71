"""The result of quantization: a pipeline that generates, saves and loads like the full-precision one."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.capture import Replay, has_hooks
from tempoquant.checkpoint import (
    Blueprint,
    SizeReport,
    TempoquantQuantizer,
    component_sizes,
    full_bytes,
    make_savable,
    refuse_saving,
    write_component,
    write_evidence,
)
from tempoquant.correction import CorrectionTables, corrected_scheduler
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.kernels import use_engine
from tempoquant.learned import bake, can_bake, kept_networks
from tempoquant.outputs import Kind, writing
from tempoquant.pipelines import Model, condition_rows, example_conditions
from tempoquant.precision import in_float32
from tempoquant.recipe import Recipe
from tempoquant.sampling import Denoiser, TablesBySchedule
from tempoquant.temporal import PromptTables, freeze_schedule, has_tables


class QuantizedPipeline:
    """A quantized model with everything around its denoiser.

    Attributes:
        model: the resolved model, its denoiser quantized.
        blueprint: the denoiser's structure, with the recipe.
        clock: of the denoiser's time steps.
        facts: schedule, seeds, timings, metrics (the content of ``tempoquant.json``).
        correction: tables that its scheduler corrects the predicted noise by, or None.
        timesteps: (R,) time steps that saved tables have rows for. With kept networks the tables in use follow each
            run's schedule.

    Raises:
        InputError: the model's scheduler cannot be corrected.
    """

    def __init__(
        self,
        model: Model,
        blueprint: Blueprint,
        clock: Clock,
        facts: dict[str, Any],
        correction: CorrectionTables | None = None,
    ):
        self.model, self.blueprint, self.clock, self.facts = model, blueprint, clock, facts
        self.correction, self.timesteps = correction, clock.timesteps
        settings = blueprint.recipe.correction
        if correction is not None and settings is not None:
            plain = model.denoiser.scheduler
            corrected = corrected_scheduler(plain, correction, clock.timesteps, settings.reduces_noise)
            self.model = model.with_scheduler(corrected)
        by_step = correction is not None or has_tables(model.denoiser.module)
        self.denoiser.recorded = clock.timesteps if by_step else None
        self._let_bake()

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was quantized by."""
        return self.blueprint.recipe

    @property
    def denoiser(self) -> Denoiser:
        """The quantized denoiser."""
        return self.model.denoiser

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline around the quantized denoiser, or None for a bare denoiser."""
        return getattr(self.model, "pipe", None)

    def use_engine(self, engine: str) -> dict[str, str]:
        """Choose what computes the quantized layers; see :func:`tempoquant.kernels.use_engine`.

        Returns:
            What runs each layer, by name.
        """
        return use_engine(self.denoiser.module, engine)

    @property
    def schedule(self) -> dict[str, Any]:
        """The schedule that its tables were made for: ``steps``, ``sampler`` and ``eta``."""
        calibration, recorded = self.recipe.calibration, self.facts.get("schedule", {})
        baked = {name: recorded[name] for name in ("steps", "sampler")} if recorded.get("baked") else {}
        return {"steps": calibration.steps, "sampler": calibration.sampler, "eta": calibration.eta, **baked}

    @in_float32
    def bake(self, steps: int | None = None, sampler: str | None = None) -> None:
        """Make the tables for another schedule, from the networks that were kept: what is saved from now on.

        Drawing needs no call of this: it makes tables for its own schedule, for as long as that lasts.

        Args:
            steps: of the schedule; by default those that the tables were made for.
            sampler: likewise.

        Raises:
            InputError: no networks were kept, or a value is not valid.
        """
        if self.denoiser.bake is None:
            some = bool(kept_networks(self.denoiser.module))
            why = "some of its tables come from none" if some else "train or quantize with --keep-generators"
            raise InputError(f"{self.recipe.name} has no networks to make all of its tables from: {why}")
        current = self.schedule
        chosen: dict[str, Any] = {"steps": current["steps"] if steps is None else steps}
        chosen["sampler"] = sampler or current["sampler"]
        self.denoiser.recorded = self.timesteps = self.denoiser.bake(self.model.timesteps(**chosen))
        entries = {**chosen, "timesteps": self.timesteps.tolist(), "baked": True}
        self.facts["schedule"] = {**self.facts.get("schedule", {}), **entries}

    def return_to_schedule(self) -> None:
        """Put back the tables that are saved, if a run had others made for its own schedule, once no run needs them."""
        with self._saved_tables():
            pass

    @contextmanager
    def _saved_tables(self) -> Iterator[None]:
        """Within the block the tables are those that are saved: no run makes others."""
        if self.denoiser.bake is None:
            yield
            return
        with self.denoiser.bake.during(self.timesteps) as self.denoiser.recorded:
            yield

    def drop_generators(self) -> None:
        """Forget the networks that made the tables: what is saved is smaller, and knows its own schedule's steps."""
        self.return_to_schedule()
        for tables in kept_networks(self.denoiser.module).values():
            for table in tables:
                table.networks = None
        self._let_bake()

    @in_float32
    def freeze_schedule(self, storage: str = "float16", conditioning: Mapping[str, Any] | None = None) -> int:
        """Replace the layers that see the time step alone by tables of their outputs, for the recorded schedule.

        The denoiser then refuses every other time step; saved, the folder does without those layers' weights. Where
        they follow a class label or a pooled prompt too, all values that these may have must be passed, and
        others are refused.

        Args:
            storage: "float16" or "int8".
            conditioning: all that will be drawn from, as :meth:`generate` takes it, an entry each (``{"class_labels":
                [1, 7, 207]}``, ``{"prompt": [...]}``). The unconditional entry of guidance is added; a
                ``guidance_scale`` of 1 does without.

        Returns:
            How many numbers the replaced layers held.

        Raises:
            InputError: there are no such layers, or they follow a class label or a prompt and none are given.
        """
        self.return_to_schedule()
        denoiser, blueprint = self.model.for_conditioning(conditioning).denoiser, self.blueprint
        schedule = {name: self.schedule[name] for name in ("steps", "sampler")}
        if conditioning is None:
            conditions = [example_conditions(self.model, **schedule)]
        else:
            conditions = condition_rows(self.model, conditioning, **schedule, seed=0)
        sample = torch.randn(1, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))

        def run(t: Tensor, row: Mapping[str, Any]) -> Tensor:
            with torch.no_grad():
                return denoiser(sample, t, **row)

        block = denoiser.module, blueprint.shared, blueprint.projections, self.clock
        removed = freeze_schedule(*block, run, storage, conditions, closed=conditioning is not None)
        self.clock.frozen = True
        self.facts["frozen_parameters"] = removed
        self.drop_generators()
        return removed

    def generate(self, samples: int, **options: Any) -> Tensor:
        """Draw samples, (N, C, H, W) in [-1, 1]; options as of :meth:`tempoquant.pipelines.Model.generate`.

        Layers that see no sample run once for all batches of the same prompts, see :func:`prompt_tables`, and calls are
        replayed from the third on, see :func:`replayed`.
        """
        module, block = self.denoiser.module, (*self.blueprint.shared, *self.blueprint.projections)
        tables = PromptTables(module, block, self.clock.name)
        with tables, nullcontext() if has_hooks(module) else Replay(module, self.clock):
            return self.model.generate(samples, **options)

    def save_pretrained(self, folder: Path | str, *, overwrite: bool = False) -> SizeReport:
        """Write a diffusers folder; whole or not at all.

        Returns:
            The stored denoiser's sizes.

        Raises:
            InputError: the folder exists and ``overwrite`` is false, or it holds others' files.
        """
        with writing(folder, Kind.QUANTIZED, overwrite=overwrite) as output, output.staging() as staging:
            return self.write(staging)

    def write(self, folder: Path) -> SizeReport:
        """Write all files into an existing empty folder, the evidence last."""
        self.model.save_shell(folder)
        component = folder / self.model.component
        with self._saved_tables():
            write_component(component, self.denoiser.module, self.blueprint, self.clock, self.correction)
        size = component_sizes(component, full_bytes(self.denoiser.module))
        self.facts["size"] = size.to_dict()
        write_evidence(folder, self.facts)
        return size

    def _let_bake(self) -> None:
        """Let runs make tables for their own schedules, if all were made by networks; diffusers saves what is left."""
        module = self.denoiser.module
        can = self.correction is None and can_bake(module)
        self.denoiser.bake = TablesBySchedule(functools.partial(bake, module, self.clock)) if can else None
        if self.recipe.has_form:
            make_savable(module, self.blueprint, self.clock, self.correction)
        else:
            refuse_saving(module)


def prompt_tables(pipe: Any) -> PromptTables:
    """A ``with`` block in which a plain diffusers pipeline runs its temporal layers once a prompt and step.

    These see the time step, and a class label or pooled prompt, alone, so that further batches of the same prompts take
    their outputs from a table: the same bits. :meth:`QuantizedPipeline.generate` does so by itself.

        with tempoquant.prompt_tables(pipe):
            for seed in range(8):
                pipe(prompt, generator=torch.Generator().manual_seed(seed))

    Args:
        pipe: a pipeline whose denoiser is quantized, or that denoiser. Its weights and adapters must not change within.

    Raises:
        InputError: it is not quantized by this package.
    """
    module, quantizer = _quantized_denoiser(pipe)
    entries = quantizer.quantization_config.entries
    return PromptTables(module, (*entries["shared"], *entries["projections"]), quantizer.clock.name)


def replayed(pipe: Any) -> Replay:
    """A ``with`` block in which a plain diffusers pipeline's denoiser is captured once and then replayed: same bits.

    What falls away is Python's way through the denoiser's parts, of which small models and small batches have the most.
    :meth:`QuantizedPipeline.generate` does so by itself.

        with tempoquant.replayed(pipe):
            images = pipe(num_inference_steps=50).images

    Args:
        pipe: a pipeline whose denoiser is quantized, or that denoiser. Its weights, adapters and hooks must not change
            within.

    Raises:
        InputError: it is not quantized by this package, or a part of it has hooks.
    """
    module, quantizer = _quantized_denoiser(pipe)
    return Replay(module, quantizer.clock)


def _quantized_denoiser(pipe: Any) -> tuple[nn.Module, Any]:
    """The denoiser of a pipeline that diffusers loaded, or that denoiser itself, with what quantized it."""
    held = [pipe] if isinstance(pipe, nn.Module) else pipe.components.values()
    modules = [getattr(part, "_orig_mod", part) for part in held]
    quantized = ((part, getattr(part, "hf_quantizer", None)) for part in modules)
    module, quantizer = next(((p, q) for p, q in quantized if isinstance(q, TempoquantQuantizer)), (None, None))
    if module is None or quantizer is None or quantizer.clock is None:
        raise InputError(f"the denoiser of this {type(pipe).__name__} is not quantized by tempoquant")
    return module, quantizer
