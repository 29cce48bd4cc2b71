"""A pipeline for UNets that draw classes in pixel space, with classifier-free guidance: diffusers has none."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from tempoquant.errors import InputError


class ClassPipeline(DiffusionPipeline):
    """Draws samples of given classes.

    Args:
        unet: a ``UNet2DModel`` whose last class embedding stands for no class (it was trained with dropped labels).
        scheduler: a diffusers scheduler.
    """

    model_cpu_offload_seq: Any = "unet"

    def __init__(self, unet: Any, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | Tensor,
        guidance_scale: float = 1.5,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw one sample for every label.

        Args:
            class_labels: B labels.
            guidance_scale: w of ``eps = eps_none + w (eps_class - eps_none)`` (Ho and Salimans 2022, as diffusers
                counts it); 1 and less draw without guidance.
            latents: (B, C, H, W) the initial noise, if not to be drawn.
            output_type: "pil", "np" (B, H, W, C) in [0, 1], "pt" (B, C, H, W) in [0, 1], or "latent",
                what sampling ends with.

        Raises:
            InputError: a label is out of range.
        """
        labels = torch.as_tensor(class_labels, device=self.device).long()
        none = self.classes - 1
        if labels.numel() == 0 or not 0 <= int(labels.min()) <= int(labels.max()) < none:
            raise InputError(f"class labels {labels.tolist()}: whole numbers from 0 to {none - 1} are needed")
        guided = guidance_scale > 1
        if guided:
            labels = torch.cat([torch.full_like(labels, none), labels])
        x = self._noise(labels.numel() // (2 if guided else 1), generator, latents)
        condition = self._condition(labels)
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        options = self._step_options(eta, generator)
        for t in self.progress_bar(self.scheduler.timesteps):
            model_input = self.scheduler.scale_model_input(torch.cat([x, x]) if guided else x, t)
            eps = self.unet(model_input, t, **condition).sample
            if guided:
                without, within = eps.chunk(2)
                eps = without + guidance_scale * (within - without)
            x = self.scheduler.step(eps, t, x, **options).prev_sample
        images = self._images(x, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def classes(self) -> int:
        """How many labels there are, that of no class included."""
        return int(self.unet.config["num_class_embeds"])

    def _condition(self, labels: Tensor) -> dict[str, Tensor]:
        """What the denoiser is given for these labels."""
        return {"class_labels": labels}

    def _decoded(self, x: Tensor) -> Tensor:
        """What sampling ends with, as pixels in [-1, 1]."""
        return x

    def _noise(self, count: int, generator: Any, latents: Tensor | None) -> Tensor:
        config = self.unet.config
        shape = (count, config["in_channels"], config["sample_size"], config["sample_size"])
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self.device, dtype=self.unet.dtype)
        return latents * self.scheduler.init_noise_sigma

    def _step_options(self, eta: float, generator: Any) -> dict[str, Any]:
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"eta": eta, "generator": generator}
        return {name: value for name, value in options.items() if name in accepted}

    def _images(self, x: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return x
        pixels = (self._decoded(x) / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return pixels
        array = pixels.cpu().permute(0, 2, 3, 1).float().numpy()
        return self.numpy_to_pil(array) if output_type == "pil" else array
