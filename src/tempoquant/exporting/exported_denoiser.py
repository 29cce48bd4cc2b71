"""An exported denoiser as a diffusers model: called as the original, computed by another runtime."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from tempoquant.arguments import tensor_arguments
from tempoquant.errors import InputError
from tempoquant.exporting.traceable import port_of
from tempoquant.intervals import Conditions, check_recorded


class Session(Protocol):
    """Computes the prediction, (B, ...) float32, from arrays by input name."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray: ...


class ExportedDenoiser(ModelMixin, ConfigMixin):
    """A denoiser that a session computes, called as diffusers calls the original.

    Args:
        session: the loaded graph.
        config: the original module's, for pipelines that read it.
        conditions: names of its inputs beside ``sample`` and ``timestep``, dotted where arguments nest.
        frozen: (R,) the time steps of its tables, if it takes no others; else None.
        frozen_conditions: the conditions of its tables, likewise.
    """

    config_name = "config.json"  # type: ignore[assignment]

    def __init__(
        self,
        session: Session,
        config: Mapping[str, Any],
        conditions: tuple[str, ...] = (),
        frozen: Tensor | None = None,
        frozen_conditions: Conditions | None = None,
    ):
        super().__init__()
        self.session, self.conditions = session, conditions
        self.frozen, self.frozen_conditions = frozen, frozen_conditions
        self.register_to_config(**config)

    @property
    def dtype(self) -> torch.dtype:
        """float32: what goes in and comes out."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """The processor."""
        return torch.device("cpu")

    @property
    def add_embedding(self) -> SimpleNamespace:
        """What StableDiffusionXLPipeline asks of its UNet: how wide the time and prompt's embedding is."""
        width = self.config["projection_class_embeddings_input_dim"]
        return SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    def forward(
        self,
        sample: Tensor | None = None,
        timestep: Tensor | float | None = None,
        *inputs: Tensor,
        hidden_states: Tensor | None = None,
        return_dict: bool = True,
        **conditions: Any,
    ) -> Any:
        """The prediction for ``sample`` (B, ...) at ``timestep``, one or (B,); further inputs by name or in order.

        ``hidden_states`` is what transformers call the sample.

        Raises:
            InputError: an input that was not exported or is missing, or a step or condition that its tables lack.
        """
        sample = hidden_states if sample is None else sample
        if sample is None or timestep is None:
            raise InputError(f"missing argument {'sample' if sample is None else 'timestep'!r}")
        named = dict(zip(self.conditions, inputs, strict=False)) | conditions
        tensors = tensor_arguments(named)
        others = [name for name, value in named.items() if not isinstance(value, Tensor | Mapping | None)]
        wrong = others or sorted(tensors.keys() ^ set(self.conditions))
        if wrong:
            raise InputError(
                f"{wrong[0]}: this denoiser was exported for {', '.join(('sample', 'timestep', *self.conditions))}"
            )
        steps = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1).expand(sample.shape[0])
        if self.frozen is not None:
            check_recorded(steps, self.frozen)
        if self.frozen_conditions is not None:
            self.frozen_conditions.set(named)
        arrays = {"sample": as_array(sample), "timestep": as_array(steps)}
        arrays |= {port_of(name): as_array(tensors[name]) for name in self.conditions}
        prediction = torch.from_numpy(self.session(arrays)).to(sample.dtype)
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device as a contiguous array: float32, or the integer dtype that it has."""
    tensor = tensor.detach().cpu()
    return np.ascontiguousarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
