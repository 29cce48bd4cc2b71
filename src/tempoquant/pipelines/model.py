"""What a user calls a model, resolved: one face for bare denoisers and diffusers pipelines."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.pipelines.call import DenoiserCall, OnCall
from tempoquant.pipelines.conditioning import check_classes, check_unconditional, class_embeddings
from tempoquant.precision import in_float32
from tempoquant.progress import Progress
from tempoquant.sampling import (
    Denoiser,
    StepCallback,
    build_scheduler,
    check_rows,
    plain_call,
    rows_of,
    sample,
    sample_indices,
    set_steps,
)


class Model(Protocol):
    """A model that can be quantized: its denoiser, how it draws, and what stands around it.

    Attributes:
        denoiser: the network to quantize, wrapped.
        name: what reports call the model.
        component: the denoiser's folder in a saved model, such as "unet", "transformer" or "denoiser".
        conditional: whether drawing needs ``conditioning`` (prompts or class labels).
        plain: whether it is drawn by :func:`sampling.sample`; else by its pipeline's own call.
    """

    @property
    def denoiser(self) -> Denoiser: ...
    @property
    def name(self) -> str: ...
    @property
    def component(self) -> str: ...
    @property
    def conditional(self) -> bool: ...
    @property
    def plain(self) -> bool: ...

    def for_conditioning(self, conditioning: Mapping[str, Any] | None) -> "Model":
        """The same model with the sample shape of a run that draws from ``conditioning``, as its first call shows it.

        Raises:
            InputError: the pipeline cannot be run with it.
        """
        ...

    def timesteps(
        self, steps: int, sampler: str | None = None, conditioning: Mapping[str, Any] | None = None
    ) -> Tensor:
        """(K,) time steps that the denoiser is called with in a run, in order.

        Raises:
            InputError: ``steps`` or ``sampler`` is not valid.
        """
        ...

    def check_conditioning(self, conditioning: Mapping[str, Any] | None, samples: int) -> None:
        """Raise InputError, naming what to give, unless ``conditioning`` is what ``samples`` samples need."""
        ...

    def generate(
        self,
        samples: int | Sequence[int],
        *,
        steps: int,
        seed: int,
        eta: float = 0.0,
        sampler: str | None = None,
        batch_size: int = 16,
        conditioning: Mapping[str, Any] | None = None,
        step_callback: StepCallback | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw samples as pixels in [-1, 1]: (N, C, H, W) float32 on the CPU. Arguments are those of ``sample``.

        ``conditioning`` of a conditional pipeline holds keyword arguments of the pipeline's own call; a list or tensor
        has one entry a sample (``{"prompt": [...]}``, ``{"class_labels": [...]}``), anything else serves them all.
        """
        ...

    def run_trajectories(
        self,
        samples: int | Sequence[int],
        on_call: OnCall,
        *,
        steps: int,
        seed: int,
        eta: float = 0.0,
        sampler: str | None = None,
        batch_size: int = 16,
        conditioning: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Run the trajectories of ``generate`` for ``on_call`` alone: nothing is decoded where that can be spared."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """What the denoiser's sampling ends with, as pixels in [-1, 1]; the identity for pixel models."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """The inverse of :meth:`decode` as far as there is one: (N, C, H, W) in [-1, 1] to (N, *sample_shape)."""
        ...

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """The shape of one image that :meth:`encode` takes, (C, H, W)."""
        ...

    def save_shell(self, folder: str | Path) -> None:
        """Write everything but the denoiser into ``folder``."""
        ...

    def with_module(self, module: nn.Module) -> "Model":
        """The same model around another denoiser network; this one and the user's pipeline stay as they are."""
        ...

    def with_scheduler(self, scheduler: Any) -> "Model":
        """The same model drawing by another scheduler; this one and the user's pipeline stay as they are."""
        ...


@dataclass(frozen=True)
class BareModel:
    """A bare denoiser as a model: pixels are what its sampling ends with."""

    denoiser: Denoiser
    component: str = "denoiser"
    conditional: bool = False
    plain: bool = True

    @property
    def name(self) -> str:
        return self.denoiser.name

    def for_conditioning(self, conditioning: Mapping[str, Any] | None) -> "BareModel":
        """See :meth:`Model.for_conditioning`: itself."""
        return self

    def timesteps(
        self, steps: int, sampler: str | None = None, conditioning: Mapping[str, Any] | None = None
    ) -> Tensor:
        """See :meth:`Model.timesteps`: the scheduler's."""
        scheduler = build_scheduler(self.denoiser.scheduler, sampler)
        set_steps(scheduler, steps)
        return scheduler.timesteps

    def check_conditioning(self, conditioning: Mapping[str, Any] | None, samples: int) -> None:
        """See :meth:`Model.check_conditioning`; without any, one call shows whether the denoiser can do without."""
        if self.conditional and not conditioning:
            raise InputError(f"{self.name} needs conditioning: give its keyword tensors, one row a sample")
        check_rows(conditioning, samples)
        self._check_names(conditioning or {})
        if not conditioning:
            check_unconditional(self.denoiser)
        elif "class_labels" in conditioning and conditioning["class_labels"].ndim == 1:
            check_classes(conditioning["class_labels"], class_embeddings(self.denoiser.module))

    def _check_names(self, conditioning: Mapping[str, Any]) -> None:
        """Refuse keywords that the module's forward does not take; a call of the user's own may know others."""
        taken = inspect.signature(self.denoiser.module.forward).parameters
        anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
        for name in conditioning:
            if self.denoiser.call is plain_call and not anything and name not in taken:
                raise InputError(f"{self.name} takes no {name}: its forward takes {', '.join(taken)}")

    @in_float32
    def generate(self, samples: int | Sequence[int], **options: Any) -> Tensor:
        """See :meth:`Model.generate`; ``conditioning`` holds the denoiser's keyword tensors, N rows each."""
        return self.decode(sample(self.denoiser, samples=samples, **options))

    @in_float32
    def run_trajectories(self, samples: int | Sequence[int], on_call: OnCall, **options: Any) -> None:
        """See :meth:`Model.run_trajectories`."""
        run_trajectories(self.denoiser, samples, on_call, **options)

    @in_float32
    def decode(self, x: Tensor) -> Tensor:
        """The identity: a bare denoiser's samples are pixels."""
        return x

    @in_float32
    def encode(self, pixels: Tensor) -> Tensor:
        """The identity."""
        return pixels

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """See :meth:`Model.pixel_shape`."""
        return self.denoiser.sample_shape

    def save_shell(self, folder: str | Path) -> None:
        """Write ``scheduler/``: nothing else stands around a bare denoiser."""
        self.denoiser.scheduler.save_pretrained(Path(folder) / "scheduler")

    def with_module(self, module: nn.Module) -> "BareModel":
        """See :meth:`Model.with_module`."""
        return replace(self, denoiser=replace(self.denoiser, module=module))

    def with_scheduler(self, scheduler: Any) -> "BareModel":
        """See :meth:`Model.with_scheduler`."""
        return replace(self, denoiser=replace(self.denoiser, scheduler=scheduler))


def run_trajectories(
    denoiser: Denoiser,
    samples: int | Sequence[int],
    on_call: OnCall,
    *,
    conditioning: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Run the trajectories of ``sample``, and call ``on_call`` with every call of the denoiser."""
    indices = sample_indices(samples)
    row = {index: r for r, index in enumerate(indices)}

    def observe(k: int, t: Tensor, which: Tensor, x: Tensor, prediction: Tensor) -> None:
        rows = [row[int(index)] for index in which]
        on_call(DenoiserCall(k, t, which, x, rows_of(conditioning or {}, rows)))

    sample(denoiser, samples=indices, step_callback=observe, conditioning=conditioning, **options)
