"""The contract of a model family: what is known of its denoisers, in one file, registered by decorator."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tempoquant.errors import InputError
from tempoquant.limits import LONGEST_SIDE
from tempoquant.pipelines.call import Arguments
from tempoquant.pipelines.names import COMPONENTS
from tempoquant.sampling import set_steps

EXAMPLES: dict[str, Any] = {"prompt": ["a"], "class_labels": [0]}
"""What a pipeline draws one sample from, where nothing is given."""


class Family:
    """How pipelines of one family call their denoiser, and what their samples are.

    The methods here are those of pipelines with a square latent or pixel denoiser. A family overrides what differs.

    Attributes:
        name: of the family, set by :func:`family`.
        denoisers: class names of its denoisers, set by :func:`family`; their subclasses are meant too.
        components: names that a pipeline's denoisers may have, of which the first one present is quantized.
        arguments: names of the denoiser's arguments.
        plain_loop: whether a pipeline that draws from nothing but noise is drawn by :func:`sampling.sample`; else by
            its own call.
        no_class: rows of the class embedding, behind those of :meth:`classes`, that stand for no class.
    """

    name: str = ""
    denoisers: tuple[str, ...] = ()
    components: ClassVar[tuple[str, ...]] = COMPONENTS
    arguments: Arguments = Arguments("hidden_states")
    plain_loop: ClassVar[bool] = False
    no_class: ClassVar[int] = 0

    def resembles(self, component: str | None, module: nn.Module) -> bool:
        """Whether a module of a class that no family knows is called as its denoisers are."""
        return False

    def call(self, module: nn.Module, sample: Tensor, timestep: Tensor, **conditioning: Any) -> Tensor:
        """The prediction for ``sample`` (R, *sample_shape), in its dtype; the time step goes by name.

        Its position differs between classes.
        """
        dtype = getattr(module, "dtype", sample.dtype)
        x = sample.to(dtype) if dtype.is_floating_point else sample
        return module(x, **{self.arguments.time: timestep}, return_dict=False, **conditioning)[0].to(sample.dtype)

    def sample_shape(self, pipe: Any, module: nn.Module) -> tuple[int, ...]:
        """The shape of one sample, (C, H, W), at the pipeline's own size; () if a run alone shows it.

        Raises:
            InputError: the denoiser's configuration does not say it, or says what is out of range.
        """
        config = config_of(module)
        size, channels = config.get("sample_size"), config.get("in_channels")
        if size is None or channels is None:
            raise InputError(
                f"{type(module).__name__} does not say its sample_size and in_channels; wrap it in a Denoiser"
            )
        sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        # What a damaged configuration says would else be the size of the noise that is drawn.
        if len(sides) != 2 or not all(is_side(side) for side in (channels, *sides)):
            raise InputError(
                f"the sample_size {str(size)[:60]} or in_channels {channels!r} of {type(module).__name__} is out of "
                f"range: one side or two of 1 to {LONGEST_SIDE}"
            )
        return (channels, *sides)

    def timesteps(self, pipe: Any, scheduler: Any, steps: int, conditioning: Mapping[str, Any]) -> Tensor:
        """(K,) time steps that the denoiser is called with in a run, in order.

        Args:
            pipe: the pipeline.
            scheduler: of the run; it may be changed.
            steps: of the run.
            conditioning: keyword arguments of the pipeline's call.

        Raises:
            InputError: ``steps`` is out of range.
        """
        set_steps(scheduler, steps)
        return scheduler.timesteps

    def classes(self, config: Mapping[str, Any]) -> int | None:
        """How many class labels a denoiser of this configuration embeds; None if it takes none."""
        return None

    def example(self, module: nn.Module) -> dict[str, Tensor]:
        """Invented conditions of a denoiser without a pipeline, tensors of one row each; empty if it takes none.

        Raises:
            InputError: it needs what cannot be invented.
        """
        return {}

    def decode(self, pipe: Any, x: Tensor) -> Tensor:
        """Samples (N, *sample_shape) as pixels in [-1, 1], (N, C, H, W) float32; one by one to bound memory."""
        vae = autoencoder_of(pipe)
        if vae is None:
            return x
        scale, shift = scale_and_shift(vae)
        latents = (x / scale + shift).to(vae.device, vae.dtype)
        return torch.cat([vae.decode(part, return_dict=False)[0].float().cpu() for part in latents.split(1)])

    def encode(self, pipe: Any, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1], (N, C, H, W), as samples (N, *sample_shape): the mean of their distribution."""
        vae = autoencoder_of(pipe)
        if vae is None:
            return pixels
        encoded = vae.encode(pixels.to(vae.device, vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        scale, shift = scale_and_shift(vae)
        return ((latents - shift) * scale).float()

    def pixel_shape(self, pipe: Any, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the image that :meth:`decode` makes of one sample, (C, H, W)."""
        vae = autoencoder_of(pipe)
        if vae is None:
            return sample_shape
        return (int(vae.config.in_channels), *(side * pixels_of_a_latent(pipe, vae) for side in sample_shape[1:]))


FAMILIES: dict[str, Family] = {}


def family(name: str, *denoisers: str) -> Callable[[type[Family]], type[Family]]:
    """Register a :class:`Family` under ``name``, for pipelines whose denoiser is of one of these classes.

        @family("flux", "FluxTransformer2DModel")
        class Flux(Family):
            arguments = Arguments("hidden_states", unbatched=("img_ids", "txt_ids"))

    Args:
        name: of the family.
        denoisers: class names, so that no class is imported before a pipeline has one.

    Raises:
        InputError: another family has that name, or one of the classes.
    """

    def register(found: type[Family]) -> type[Family]:
        taken = {known for other in FAMILIES.values() for known in other.denoisers}
        twice = sorted(taken.intersection(denoisers))
        if name in FAMILIES or twice:
            what = f"family {name!r}" if name in FAMILIES else f"a family of {twice[0]}"
            raise InputError(f"{what} exists already: choose another name")
        FAMILIES[name] = found()
        FAMILIES[name].name, FAMILIES[name].denoisers = name, denoisers
        return found

    return register


def family_of(module: nn.Module, component: str | None = None, index: str = "") -> Family | None:
    """The family that a module is a denoiser of, or None.

    Args:
        module: the module.
        component: its name in a pipeline; None for one without a pipeline.
        index: the class that a pipeline's index names for it.
    """
    classes = {index, str(config_of(module).get("_class_name")), *(cls.__name__ for cls in type(module).__mro__)}
    possible = [found for found in FAMILIES.values() if component is None or component in found.components]
    of_class = (found for found in possible if not classes.isdisjoint(found.denoisers))
    alike = (found for found in possible if found.resembles(component, module))
    return next(of_class, None) or next(alike, None)


def config_of(module: nn.Module) -> Mapping[str, Any]:
    """A diffusers model's configuration; empty for other modules."""
    config = getattr(module, "config", None)
    return config if isinstance(config, Mapping) else {}


def is_side(side: Any) -> bool:
    """Whether a number is a possible side of a sample."""
    return isinstance(side, int) and 1 <= side <= LONGEST_SIDE


def autoencoder_of(pipe: Any) -> Any:
    """A pipeline's autoencoder, or None."""
    return getattr(pipe, "vqvae", None) or getattr(pipe, "vae", None)


def scale_and_shift(vae: Any) -> tuple[float, float]:
    """``latent = (encoded - shift) * scale`` of an autoencoder."""
    return getattr(vae.config, "scaling_factor", 1.0), getattr(vae.config, "shift_factor", None) or 0.0


def pixels_of_a_latent(pipe: Any, vae: Any) -> int:
    """The side, in pixels, that one latent stands for."""
    # Pipelines know it of autoencoders that count their levels in another way.
    return getattr(pipe, "vae_scale_factor", None) or 2 ** (len(vae.config.block_out_channels) - 1)
