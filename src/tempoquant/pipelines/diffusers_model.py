"""Diffusers pipelines as targets: unconditional ones through our loop, conditional ones through their own call."""

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.pipelines.conditional import check_arguments, run_pipeline
from tempoquant.pipelines.conditioning import check_classes
from tempoquant.pipelines.model import DenoiserCall, OnCall, run_trajectories
from tempoquant.precision import in_float32
from tempoquant.progress import Progress
from tempoquant.sampling import Denoiser, StepCallback, sample

COMPONENTS = ("unet", "transformer")
LONGEST_SIDE = 16_384
"""Of a sample, latent or not."""
CONDITIONS = ("prompt", "class_labels")


def diffusers_call(module: nn.Module, sample: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:
    """Call a diffusers denoiser; its time step goes by name, because its position differs between classes."""
    dtype = getattr(module, "dtype", sample.dtype)
    x = sample.to(dtype) if dtype.is_floating_point else sample
    return module(x, timestep=timestep, return_dict=False, **conditioning)[0].to(sample.dtype)


class DiffusersModel:
    """A ``DiffusionPipeline`` as a target. The pipeline itself is never changed.

    Args:
        pipe: the pipeline. Supported: unconditional (DDIM, DDPM, LDM), prompts (Stable Diffusion and its kin),
            class labels (DiT).
        name: what reports call it.

    Raises:
        InputError: the pipeline has no denoiser that this package knows how to find.
    """

    def __init__(self, pipe: Any, name: str | None = None):
        self.pipe = pipe
        self.name = name or type(pipe).__name__
        self.component = _component(pipe)
        arguments = inspect.signature(type(pipe).__call__).parameters
        self.condition = next((argument for argument in CONDITIONS if argument in arguments), None)
        module = getattr(pipe, self.component)
        self.denoiser = Denoiser(module, pipe.scheduler, _sample_shape(module), diffusers_call, self.name)

    @property
    def conditional(self) -> bool:
        return self.condition is not None

    def check_conditioning(self, conditioning: Mapping[str, Any] | None, samples: int) -> None:
        """See :meth:`Model.check_conditioning`."""
        if self.conditional:
            given = self._needed(conditioning)
            check_arguments(self, given, samples)
            # Of a class pipeline's own count the last stands for no class.
            classes = getattr(self.pipe, "classes", None)
            drawn = None if classes is None else classes - 1
            check_classes(self.denoiser.module, given.get("class_labels", ()), drawn)
        else:
            self._refuse(conditioning)

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
        if not self.conditional:
            self._refuse(conditioning)
            return self.decode(sample(self.denoiser, samples=samples, step_callback=step_callback, **options))

        def tell(seen: DenoiserCall, prediction: Tensor) -> None:
            if step_callback is not None:
                step_callback(seen.k, seen.t, seen.indices, seen.sample, prediction)

        return run_pipeline(self, samples, tell, conditioning=self._needed(conditioning), decode=True, **options)

    @in_float32
    def run_trajectories(
        self,
        samples: int | Sequence[int],
        visit: OnCall,
        *,
        conditioning: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        """See :meth:`Model.run_trajectories`."""
        if not self.conditional:
            self._refuse(conditioning)
            return run_trajectories(self.denoiser, samples, visit, progress=progress, **options)

        def tell(seen: DenoiserCall, prediction: Tensor) -> None:
            visit(seen)

        given = self._needed(conditioning)
        run_pipeline(self, samples, tell, conditioning=given, decode=False, progress=progress, **options)
        return None

    @in_float32
    def decode(self, x: Tensor) -> Tensor:
        """Latents (N, C, h, w) through the pipeline's autoencoder, one by one to bound memory; pixels pass."""
        vae = self._autoencoder
        if vae is None:
            return x
        with torch.inference_mode():
            given = (x / getattr(vae.config, "scaling_factor", 1.0)).to(vae.device, vae.dtype)
            pixels = [vae.decode(part, return_dict=False)[0].float().cpu() for part in given.split(1)]
        return torch.cat(pixels)

    @in_float32
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W) as latents: the mean of the autoencoder's distribution; pixel models take them as is."""
        vae = self._autoencoder
        if vae is None:
            return pixels
        with torch.no_grad():
            encoded = vae.encode(pixels.to(vae.device, vae.dtype))
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents * getattr(vae.config, "scaling_factor", 1.0)).float()

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """See :meth:`Model.pixel_shape`."""
        vae = self._autoencoder
        if vae is None:
            return self.denoiser.sample_shape
        # Pipelines know it of autoencoders that count their levels in another way.
        factor = getattr(self.pipe, "vae_scale_factor", None) or 2 ** (len(vae.config.block_out_channels) - 1)
        return (int(vae.config.in_channels), *(side * factor for side in self.denoiser.sample_shape[1:]))

    @property
    def _autoencoder(self) -> Any:
        return getattr(self.pipe, "vqvae", None) or getattr(self.pipe, "vae", None)

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
        return DiffusersModel(replaced(self.pipe, **{self.component: module}), self.name)

    def with_scheduler(self, scheduler: Any) -> "DiffusersModel":
        """See :meth:`Model.with_scheduler`."""
        return DiffusersModel(replaced(self.pipe, scheduler=scheduler), self.name)

    def _needed(self, conditioning: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if conditioning is None or self.condition not in conditioning:
            raise InputError(f"{self.name} needs conditioning: give {self.condition!r}, one a sample")
        return conditioning

    def _refuse(self, conditioning: Mapping[str, Any] | None) -> None:
        if conditioning:
            raise InputError(f"{self.name} is unconditional: it takes no {', '.join(sorted(conditioning))}")


def replaced(pipe: Any, **components: Any) -> Any:
    """A copy of ``pipe`` that shares all components but these.

    They go around the pipeline's attribute setter: ``model_index.json`` must keep naming the diffusers classes that
    load the folder, whatever stands in for them here.
    """
    other = copy.copy(pipe)
    other.__dict__.update(components)
    return other


def _component(pipe: Any) -> str:
    found = [name for name in COMPONENTS if isinstance(getattr(pipe, name, None), nn.Module)]
    if len(found) != 1:
        held = ", ".join(sorted(name for name in pipe.config if not name.startswith("_")))
        raise InputError(f"{type(pipe).__name__} has no single unet or transformer to quantize; it holds: {held}")
    return found[0]


def _sample_shape(module: nn.Module) -> tuple[int, ...]:
    config: Any = getattr(module, "config", {})
    size, channels = config.get("sample_size"), config.get("in_channels")
    if size is None or channels is None:
        raise InputError(f"{type(module).__name__} does not say its sample_size and in_channels; wrap it in a Denoiser")
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    # What a damaged configuration says would else be the size of the noise that is drawn.
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= LONGEST_SIDE for side in (channels, *sides)):
        raise InputError(
            f"the sample_size {str(size)[:60]} or in_channels {channels!r} of {type(module).__name__} is out of range: "
            f"one side or two of 1 to {LONGEST_SIDE}"
        )
    return (channels, *sides)
