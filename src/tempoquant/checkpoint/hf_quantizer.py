"""Quantized denoisers in plain diffusers: ``from_pretrained`` and ``save_pretrained`` of its own classes.

diffusers finds what loads a quantized module by the ``quant_method`` of its config, in two dictionaries of its own;
:mod:`tempoquant.registration` puts ours there.
"""

import json
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import Tensor, nn

from tempoquant.checkpoint.blueprint import Blueprint
from tempoquant.checkpoint.component import correction_of, damage_of, fill, full_config
from tempoquant.checkpoint.digest import DIGEST, digest_of
from tempoquant.checkpoint.evidence import EVIDENCE, read_evidence
from tempoquant.checkpoint.tensors import packed_tensors
from tempoquant.correction import CorrectionTables
from tempoquant.errors import InputError
from tempoquant.intervals import Clock
from tempoquant.kernels import use_engine
from tempoquant.precision import in_float32
from tempoquant.registration import QUANT_METHOD


class Method(StrEnum):
    """What diffusers calls this kind of quantization; it reads the ``value`` of an enumeration."""

    TEMPOQUANT = QUANT_METHOD


class TempoquantConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a component's ``config.json``, as diffusers hands it around."""

    def __init__(self, **entries: Any):
        self.quant_method = Method.TEMPOQUANT  # type: ignore[assignment]
        self.entries = {"quant_method": QUANT_METHOD, **entries}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return json.loads(json.dumps(self.entries))

    def to_diff_dict(self) -> dict[str, Any]:
        """:meth:`to_dict`: nothing is a default."""
        return self.to_dict()


class TempoquantQuantizer(DiffusersQuantizer):
    """Fills a stock denoiser while diffusers loads it, and gives diffusers the tensors to save.

    Tensors are kept as the files have them, before diffusers casts them to the requested dtype: that dtype is for the
    parts that stay float, never for scales, tables and integers.
    """

    requires_calibration = True
    """Makes diffusers refuse to quantize while it loads."""

    supports_parallel_loading = False
    is_serializable = True
    is_trainable = False
    is_compileable = True

    def __init__(self, quantization_config: TempoquantConfig, **options: Any):
        super().__init__(quantization_config, **options)
        self.tensors: dict[str, Tensor] = {}
        self.files_left = 0
        self.dtype: torch.dtype | None = None
        self.model: Any = None
        self.clock: Clock | None = None
        self.correction: CorrectionTables | None = None

    def validate_environment(self, *_: Any, device_map: Any = None, **__: Any) -> None:
        """Refuse weights on disk: a layer's integers are spread over several tensors of the file."""
        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise InputError(f"device_map = {device_map}: a quantized denoiser is not offloaded to disk")

    def update_torch_dtype(self, torch_dtype: Any) -> Any:
        """See the base class; stores the requested dtype of the float parts, float32 by default."""
        self.dtype = torch_dtype
        return torch.float32 if torch_dtype is None else torch_dtype

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[Any]) -> list[str]:
        """No keys: diffusers loads none, since :func:`fill` loads all stored tensors.

        Raises:
            FormatError: the evidence beside the component's folder is damaged, or a file is not what it says.
        """
        self.files_left = len(checkpoint_files)
        folder = Path(checkpoint_files[0]).parent.parent
        # A component's folder alone has none beside it.
        if (folder / EVIDENCE).exists():
            read_evidence(folder)
        return []

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """No keys: :func:`fill` reports missing tensors."""
        return []

    def maybe_update_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep one file's tensors; with the last file the module is filled, before diffusers moves it anywhere."""
        self.tensors |= state_dict
        # diffusers still holds the dictionary, so that its tensors would stay in memory.
        state_dict.clear()
        self.files_left -= 1
        if not self.files_left:
            self._fill()
        return {}

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What ``save_pretrained`` writes.

        Raises:
            InputError: as pickle, or with adapters in place.
        """
        if not safe_serialization:
            raise InputError("safe_serialization = False: a quantized denoiser is saved as safetensors alone")
        if getattr(self.model, "peft_config", None):
            raise InputError("the denoiser has LoRA adapters on it: save those by themselves, unload them, then save")
        assert self.clock is not None
        corrected = {} if self.correction is None else self.correction.to_tensors()
        tensors = packed_tensors(self.model, self.clock) | corrected
        entries = self.quantization_config.entries  # type: ignore[attr-defined]
        return tensors | {DIGEST: digest_of(entries, tensors)}, {}

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        self.model = model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        pass

    @in_float32
    def _fill(self) -> None:
        config, where = self.quantization_config.entries, type(self.model).__name__  # type: ignore[attr-defined]
        with damage_of(where):
            blueprint = Blueprint.from_config(config)
        self.clock = fill(self.model, config, blueprint, self.tensors, where)
        self.correction = correction_of(blueprint, self.tensors, self.clock, where)
        self.tensors = {}
        _refuse_fusing(self.model)
        if self.correction is not None:
            warnings.warn(
                "this folder corrects predictions while sampling, which diffusers alone does not: use tempoquant.load",
                stacklevel=2,
            )
        if self.dtype is not None:
            # Around the model's own `to`, which refuses to cast what is quantized.
            nn.Module.to(self.model, self.dtype)
        use_engine(self.model)


def make_savable(
    module: nn.Module, blueprint: Blueprint, clock: Clock, correction: CorrectionTables | None = None
) -> None:
    """Let diffusers save a quantized denoiser of one of its own classes; others are left as they are."""
    if not hasattr(module, "register_to_config"):
        return
    config = TempoquantConfig(**full_config(module, blueprint, clock))
    quantizer = TempoquantQuantizer(config)
    quantizer.model, quantizer.clock, quantizer.correction = module, clock, correction
    denoiser: Any = module
    denoiser.hf_quantizer, denoiser.is_quantized, denoiser.quantization_method = quantizer, True, Method.TEMPOQUANT
    denoiser.register_to_config(quantization_config=config)
    _refuse_fusing(module)


def refuse_saving(module: Any) -> None:
    """Make ``save_pretrained`` raise, for a denoiser whose intervals are computed from their input."""
    if hasattr(module, "save_pretrained"):
        module.save_pretrained = save_pretrained


def save_pretrained(*_: Any, **__: Any) -> None:
    """Replaces the ``save_pretrained`` of a denoiser that has no form on disk.

    Raises:
        InputError: always.
    """
    raise InputError("intervals from the input have no form on disk: train with training.sees = 'time' to save")


def fuse_lora(*_: Any, **__: Any) -> None:
    """Replaces the ``fuse_lora`` of a quantized denoiser, whose integer weights cannot take an adapter's weights.

    Raises:
        InputError: always.
    """
    raise InputError(
        "LoRA adapters cannot be fused into integer weights: leave them unfused, or fuse before quantizing"
    )


def _refuse_fusing(module: Any) -> None:
    if hasattr(module, "fuse_lora"):
        module.fuse_lora = fuse_lora
