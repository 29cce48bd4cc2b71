"""The result of a diagnosis as data, saved as JSON and safetensors in one folder."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tempoquant.checkpoint import file_hash
from tempoquant.diagnosis.free_running import Cost
from tempoquant.diagnosis.saved import check_entries, check_tensors
from tempoquant.documents import read_json
from tempoquant.errors import FormatError
from tempoquant.files import save_tensors, write_whole
from tempoquant.outputs import Kind, writing

FORMAT_VERSION = 1
DISTURBED = 0.9995
"""A cosine below which a temporal feature counts as disturbed: a relative error of about 3 %."""
DATA, TENSORS, POLICY = "diagnosis.json", "diagnosis.safetensors", "policy.yaml"
VARIANTS = ("all layers", "temporal layers alone", "all but the temporal layers")
"""What is quantized in the trajectories of ``Diagnosis.deviations``."""


@dataclass(frozen=True)
class Diagnosis:
    """How a quantized denoiser differs from full precision, at K steps in step order, the noisiest first.

    Attributes:
        facts: names, sizes, schedule, seed, versions, hashes, recipe and options as JSON data.
        projections: P names of modules whose outputs are temporal features.
        units: U names of reconstruction units.
        layers: L names in order of execution.
        culprits: layers by the image error of quantizing each alone, the greatest first.
        step_ranges: image errors of quantizing one range of steps alone, in step order.
        policy: recipe entries that keep the costliest layers in higher precision.
        timesteps: (K,) float or integer.
        rows: (R,) the unique time steps, ascending.
        feature_cosine: (P, K) float64, cosine of temporal features with full precision.
        feature_error: (P, K) float64, ``|e - e'| / |e|`` of temporal features.
        nearest: (P, R) int64, for every projection and row the row whose full-precision feature is nearest.
        unit_cosine: (U, K) float32, of units' outputs on the same inputs.
        unit_sqnr: (U, K) float32, dB, likewise.
        noise_sqnr: (K,) float32, dB, of the predicted noise on the same inputs.
        activations: (L, K, 7) float32, quantiles 0, 1, 25, 50, 75, 99 and 100 % of full-precision layers' inputs.
        intervals: (L, K, 2) float32, least and greatest value on the grid of the quantized input; NaN where the input
            is float or its scale dynamic.
        deviations: (3, K) float32, relative distance from the full-precision trajectories of the same noise, by
            ``VARIANTS``.
        psnr: (N,) float32, dB, of each image.
        ssim: (N,) float32, of each image; NaN for images that are too small for it.
        full_images: (N, H, W, C) uint8, of full precision.
        images: (N, H, W, C) uint8, of the quantized model.
        full_frames: (F, S, H, W, C) uint8, full-precision samples at F steps.
        frames: (F, S, H, W, C) uint8, the quantized model's.
        frame_steps: (F,) int64, step indices of the frames.
    """

    facts: dict[str, Any]
    projections: tuple[str, ...]
    units: tuple[str, ...]
    layers: tuple[str, ...]
    culprits: tuple[Cost, ...]
    step_ranges: tuple[Cost, ...]
    policy: tuple[dict[str, Any], ...]
    timesteps: Tensor
    rows: Tensor
    feature_cosine: Tensor
    feature_error: Tensor
    nearest: Tensor
    unit_cosine: Tensor
    unit_sqnr: Tensor
    noise_sqnr: Tensor
    activations: Tensor
    intervals: Tensor
    deviations: Tensor
    psnr: Tensor
    ssim: Tensor
    full_images: Tensor
    images: Tensor
    full_frames: Tensor
    frames: Tensor
    frame_steps: Tensor

    @property
    def name(self) -> str:
        """Name of the quantized model."""
        return str(self.facts["quantized"]["name"])

    @property
    def mismatch(self) -> float | None:
        """Share of temporal features nearest to another row's full-precision one, 0 to 1; None without projections."""
        if not len(self.projections):
            return None
        rows = self.nearest.new_tensor(range(self.nearest.shape[1]))
        return float((self.nearest != rows).double().mean())

    @property
    def disturbed(self) -> tuple[str, ...]:
        """Projections whose feature's cosine with full precision falls below 0.9995 at some step, the worst first."""
        least = self.feature_cosine.amin(1) if self.projections else self.feature_cosine.new_zeros(0)
        return tuple(self.projections[i] for i in least.argsort() if least[i] < DISTURBED)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write ``diagnosis.json``, ``diagnosis.safetensors`` and ``policy.yaml``; all of them or none.

        Args:
            folder: a new folder.
            overwrite: replace a diagnosis that is there.

        Raises:
            InputError: the folder exists and may not be replaced.
        """
        with writing(folder, Kind.DIAGNOSIS, overwrite=overwrite) as output, output.staging() as staging:
            self.write(staging)

    def write(self, folder: Path) -> None:
        """Write all files into an existing empty folder."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        save_tensors(tensors, folder / TENSORS)
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in tensors}
        plain |= {name: [asdict(cost) for cost in plain[name]] for name in ("culprits", "step_ranges")}
        plain |= {"format_version": FORMAT_VERSION, "tensors": file_hash(folder / TENSORS)}
        write_whole(folder / DATA, json.dumps(plain, indent=2) + "\n")
        write_whole(folder / POLICY, yaml.safe_dump({"policy": list(self.policy)}, sort_keys=False))

    @classmethod
    def load(cls, folder: Path | str) -> "Diagnosis":
        """Load a diagnosis that :meth:`save` wrote.

        Raises:
            FormatError: there is none, or it was changed, is damaged, or of a newer format.
        """
        path = Path(folder) / DATA
        if not path.is_file():
            raise FormatError(f"{folder} holds no diagnosis: make one with `tempoquant diagnose`")
        plain = read_json(path, "is no diagnosis that this version reads")
        try:
            version, digest = int(plain.pop("format_version")), str(plain.pop("tensors"))
            if version > FORMAT_VERSION:
                raise FormatError(f"{path}: format version {version} is newer than {FORMAT_VERSION}")
            check_entries(plain, str(path))
            attributes: dict[str, Any] = {
                n: tuple(Cost(**cost) for cost in plain.pop(n)) for n in ("culprits", "step_ranges")
            }
            attributes |= {n: tuple(plain.pop(n)) for n in ("projections", "units", "layers", "policy")}
            tensors_path = path.with_name(TENSORS)
            if not tensors_path.is_file() or file_hash(tensors_path) != digest:
                raise FormatError(f"{tensors_path} is missing or differs from its recorded hash")
            facts, tensors = plain.pop("facts"), load_file(tensors_path)
            check_tensors(tensors, {**attributes, "facts": facts}, str(tensors_path))
            return cls(facts=facts, **(attributes | tensors))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError):
            raise FormatError(f"{path} is no diagnosis that this version reads") from None
