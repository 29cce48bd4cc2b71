"""Diffusers pipelines as models: unconditional ones through our loop, all others through their own call."""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.arguments import has_rows, samples_of
from tempoquant.errors import InputError
from tempoquant.pipelines.call import DenoiserCall, OnCall
from tempoquant.pipelines.conditioning import check_classes
from tempoquant.pipelines.families import Family, Observed, config_of, find_family
from tempoquant.pipelines.model import run_trajectories
from tempoquant.pipelines.running import OnPrediction, OwnCall, call_options, first_arguments, replaced
from tempoquant.precision import in_float32
from tempoquant.progress import Progress, Silent
from tempoquant.sampling import (
    Denoiser,
    StepCallback,
    build_scheduler,
    check_run,
    sample,
    sample_indices,
    tables_for,
)

CONDITIONS = ("prompt", "class_labels")
OBSERVED_STEPS = 2
"""Of a run whose first call alone is looked at."""


class DiffusersModel:
    """A ``DiffusionPipeline`` as a model. The pipeline itself is never changed.

    Args:
        pipe: the pipeline; for what is known of its denoiser see :mod:`tempoquant.pipelines.families`.
        name: what reports call it.
        family: that it belongs to; None: found by its denoiser's class, or by observation.
        sample_shape: of its runs; None: that of its own size.

    Attributes:
        condition: the argument of its call that a run draws from, one entry a sample; None: from noise alone.

    Raises:
        InputError: the pipeline has no denoiser that this package knows how to find.
    """

    def __init__(
        self,
        pipe: Any,
        name: str | None = None,
        family: tuple[Family, str] | None = None,
        sample_shape: tuple[int, ...] | None = None,
    ):
        self.pipe = pipe
        self.name = name or type(pipe).__name__
        self.family, self.component = family or find_family(pipe)
        self.condition = _condition(pipe)
        module = getattr(pipe, self.component)
        shape = self.family.sample_shape(pipe, module) if sample_shape is None else sample_shape
        self.denoiser = Denoiser(module, pipe.scheduler, shape, self.family.call, self.name)

    @property
    def conditional(self) -> bool:
        return self.condition is not None

    @property
    def _own_call(self) -> OwnCall:
        return OwnCall(self.pipe, self.component, self.family.arguments)

    @property
    def plain(self) -> bool:
        """Whether it is drawn by :func:`sampling.sample`; else by the pipeline's own call."""
        return self.family.plain_loop and not self.conditional

    def for_conditioning(self, conditioning: Mapping[str, Any] | None) -> "DiffusersModel":
        """See :meth:`Model.for_conditioning`."""
        if self.plain:
            return self
        if isinstance(self.family, Observed):
            family, shape = self.family.observe(self.pipe, conditioning or {})
            return DiffusersModel(self.pipe, self.name, (family, self.component), shape)
        if not conditioning:
            return self
        first = samples_of(conditioning, slice(1))
        call = self.first_call(first, self.pipe.scheduler, OBSERVED_STEPS)
        return DiffusersModel(self.pipe, self.name, (self.family, self.component), tuple(call.sample.shape[1:]))

    def first_call(self, conditioning: Mapping[str, Any], scheduler: Any, steps: int) -> DenoiserCall:
        """What the pipeline calls its denoiser with first, for one sample; that call is not made."""
        options = call_options(self.pipe, {**self._batch(1), **conditioning}, steps=steps)
        return first_arguments(self._own_call, scheduler, [0], options)

    def timesteps(
        self, steps: int, sampler: str | None = None, conditioning: Mapping[str, Any] | None = None
    ) -> Tensor:
        """See :meth:`Model.timesteps`."""
        scheduler = build_scheduler(self.pipe.scheduler, sampler)
        return self.family.timesteps(self.pipe, scheduler, steps, conditioning or {})

    def check_conditioning(self, conditioning: Mapping[str, Any] | None, samples: int) -> None:
        """See :meth:`Model.check_conditioning`."""
        if self.plain and conditioning:
            raise InputError(f"{self.name} is unconditional: it takes no {', '.join(sorted(conditioning))}")
        drawn_from = self._drawn_from(conditioning)
        call_options(self.pipe, drawn_from, steps=1)
        if self.conditional and self.condition not in _per_sample(drawn_from, samples):
            raise InputError(f"{self.condition} is one value: a list of {samples}, one a sample, is needed")
        # Of a class pipeline's own count the last stands for no class.
        classes = getattr(self.pipe, "classes", None)
        count = self.family.classes(config_of(self.denoiser.module)) if classes is None else classes - 1
        check_classes(drawn_from.get("class_labels", ()), count)

    @in_float32
    def generate(
        self,
        samples: int | Sequence[int],
        *,
        conditioning: Mapping[str, Any] | None = None,
        step_callback: StepCallback | None = None,
        **options: Any,
    ) -> Tensor:
        """See :meth:`Model.generate`."""
        if self.plain:
            self.check_conditioning(conditioning, 0)
            return self.decode(sample(self.denoiser, samples=samples, step_callback=step_callback, **options))

        def on_prediction(call: DenoiserCall, prediction: Tensor) -> None:
            if step_callback is not None:
                step_callback(call.k, call.t, call.indices, call.sample, prediction)

        return self._run(samples, on_prediction, conditioning, decode=True, **options)

    @in_float32
    def run_trajectories(
        self,
        samples: int | Sequence[int],
        on_call: OnCall,
        *,
        conditioning: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """See :meth:`Model.run_trajectories`."""
        if self.plain:
            self.check_conditioning(conditioning, 0)
            run_trajectories(self.denoiser, samples, on_call, **options)
        else:
            self._run(samples, lambda call, prediction: on_call(call), conditioning, decode=False, **options)

    def _run(
        self,
        samples: int | Sequence[int],
        on_prediction: OnPrediction,
        conditioning: Mapping[str, Any] | None,
        *,
        steps: int,
        seed: int,
        decode: bool,
        eta: float = 0.0,
        sampler: str | None = None,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Tensor:
        """Call the pipeline batch by batch.

        Returns:
            (N, C, H, W) float32 on the CPU: pixels in [-1, 1], or latents of a pipeline that can leave them.
        """
        drawn_from = self._drawn_from(conditioning)
        indices = sample_indices(samples)
        scheduler = build_scheduler(self.pipe.scheduler, sampler)
        timesteps = self.timesteps(steps, sampler, drawn_from)
        check_run(scheduler, indices, eta, batch_size, None)
        many = _per_sample(drawn_from, len(indices))
        options = call_options(self.pipe, drawn_from, steps=steps, eta=eta, decode=decode)
        starts = range(0, len(indices), batch_size)
        total = len(starts) * len(timesteps)
        drawn = []
        with tables_for(self.denoiser, timesteps), (progress or Silent()).stage("sampling", total) as advance:
            for start in starts:
                rows = slice(start, start + batch_size)
                batch = indices[rows]
                part = {n: v[rows] if n in many else v for n, v in options.items()} | self._batch(len(batch))
                drawn.append(self._own_call.run(batch, scheduler, seed, part, on_prediction, advance))
        pixels = torch.cat(drawn)
        return pixels * 2 - 1 if options.get("output_type") == "pt" else pixels

    @in_float32
    def decode(self, x: Tensor) -> Tensor:
        """See :meth:`Model.decode`: samples (N, *sample_shape) through the pipeline's autoencoder; pixels pass."""
        with torch.inference_mode():
            return self.family.decode(self.pipe, x)

    @in_float32
    def encode(self, pixels: Tensor) -> Tensor:
        """See :meth:`Model.encode`: pixels (N, C, H, W) through the pipeline's autoencoder; pixel models pass them."""
        with torch.no_grad():
            return self.family.encode(self.pipe, pixels)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """See :meth:`Model.pixel_shape`."""
        return self.family.pixel_shape(self.pipe, self.denoiser.sample_shape)

    def save_shell(self, folder: str | Path) -> None:
        """Write ``model_index.json`` and every component but the denoiser, as diffusers would."""
        folder = Path(folder)
        for name, entry in self.pipe.config.items():
            component: Any = None if name.startswith("_") else getattr(self.pipe, name, None)
            if (
                not isinstance(entry, (tuple, list))
                or name == self.component
                or not hasattr(component, "save_pretrained")
            ):
                continue
            component.save_pretrained(str(folder / name))
        # diffusers would add `_name_or_path`: where the user's copy lies, which is not part of the model.
        index = json.loads(self.pipe.to_json_string())
        index.pop("_name_or_path", None)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def with_module(self, module: nn.Module) -> "DiffusersModel":
        """See :meth:`Model.with_module`."""
        return self.with_parts(**{self.component: module})

    def with_scheduler(self, scheduler: Any) -> "DiffusersModel":
        """See :meth:`Model.with_scheduler`."""
        return self.with_parts(scheduler=scheduler)

    def with_parts(self, **components: Any) -> "DiffusersModel":
        """The same model around a pipeline with other components; the user's pipeline stays as it is."""
        family = self.family, self.component
        return DiffusersModel(replaced(self.pipe, **components), self.name, family, self.denoiser.sample_shape)

    def _drawn_from(self, conditioning: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Arguments of the pipeline's call; refuses to do without its condition."""
        if self.condition is not None and self.condition not in (conditioning or {}):
            raise InputError(f"{self.name} needs conditioning: give {self.condition!r}, one a sample")
        return conditioning or {}

    def _batch(self, count: int) -> dict[str, int]:
        """How the call of a pipeline that draws from noise alone is told the number of samples."""
        takes = "batch_size" in inspect.signature(type(self.pipe).__call__).parameters
        return {"batch_size": count} if takes and not self.conditional else {}


def _condition(pipe: Any) -> str | None:
    """The argument of a pipeline's call that a run draws from: a usual one, or else the first that it must be given."""
    arguments = list(inspect.signature(type(pipe).__call__).parameters.values())[1:]
    usual = [name for name in CONDITIONS if any(argument.name == name for argument in arguments)]
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [a.name for a in arguments if a.kind in positional and a.default is inspect.Parameter.empty]
    return next(iter([*usual, *needed]), None)


def _per_sample(conditioning: Mapping[str, Any], count: int) -> set[str]:
    """Names of the arguments with one entry a sample, which lists and tensors have; checks their lengths."""
    many = {name for name, value in conditioning.items() if has_rows(value)}
    for name in sorted(many):
        if len(conditioning[name]) != count:
            raise InputError(
                f"{name} has {len(conditioning[name])} entries for {count} samples: one a sample is needed"
            )
    return many
