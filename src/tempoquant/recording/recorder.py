"""The trajectory recorder: every sample's full-precision trajectory once, every step of it, in a single pass.

TFMQ-DM's released code restarts sampling from fresh noise for every time step, which is quadratic in their number.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempoquant.arguments import flattened, has_rows
from tempoquant.errors import InputError, NumericsError, unknown
from tempoquant.files import TEMPORARY
from tempoquant.outputs import followed, locked
from tempoquant.pipelines import BareModel, DenoiserCall, Model, state_hash, tensor_hash
from tempoquant.progress import Progress, Silent
from tempoquant.recording.conditions import Conditions
from tempoquant.recording.manifest import FORMAT_VERSION, MANIFEST, conditioning_file, read_manifest, write_manifest
from tempoquant.recording.store import DTYPES, Store, open_conditioning, open_samples, samples_bytes
from tempoquant.sampling import Denoiser, build_scheduler, check_run

SPARE_BYTES = 64 * 2**20
BATCHED_ONLY = 1
"""The format of a recording whose conditions all have a row a sample: older versions read it too."""


def record(
    model: Model | Denoiser,
    folder: str | Path,
    *,
    samples: int,
    steps: int,
    seed: int,
    sampler: str | None = None,
    eta: float = 0.0,
    dtype: str = "float16",
    batch_size: int = 16,
    conditioning: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Store:
    """Record what the denoiser is called with along its own trajectories, into ``folder``.

    Memory use does not grow with ``samples``. A killed run is continued at its last finished batch, to the same
    bytes; a finished one is opened and nothing runs.

    Args:
        model: in full precision.
        folder: new, empty, or of the same recording.
        samples: trajectories, of sample indices 0 .. ``samples - 1``.
        steps: sampling steps of a trajectory.
        seed: of its noise.
        sampler: a name of ``SAMPLERS``; None keeps the model's own.
        eta: DDIM's noise scale, 0 to 1.
        batch_size: trajectories that are drawn together.
        dtype: "float16" or "float32", how samples are stored.
        conditioning: as the model's ``generate`` takes it, an entry a sample.
        progress: shows what goes on.

    Raises:
        InputError: a value is out of range, the disk is too small, the folder holds another recording, or another run
            records into it.
        NumericsError: a prediction is not finite, or a sample does not fit ``dtype``.
    """
    if dtype not in DTYPES:
        raise unknown("recording dtype", dtype, DTYPES)
    recorded: Model = BareModel(model) if isinstance(model, Denoiser) else model
    scheduler = build_scheduler(recorded.denoiser.scheduler, sampler)
    check_run(scheduler, range(samples), eta, batch_size, None)
    recorded = recorded.for_conditioning(conditioning)
    calls = len(recorded.timesteps(steps, sampler, conditioning))
    run: dict[str, Any] = {"steps": steps, "seed": seed, "sampler": sampler, "eta": float(eta)}
    conditions = dict(conditioning or {})
    request = _request(recorded, samples, dtype, batch_size, run, conditions)
    place = followed(Path(folder))
    # A finished recording may be in a folder that is not writable, where there can be no lock.
    if not _Writer(place, request, calls).finished:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place):
            _record_missing(recorded, _Writer(place, request, calls), run, conditions, progress or Silent())
    return Store(folder)


def _record_missing(
    model: Model, writer: "_Writer", run: dict[str, Any], conditioning: Mapping[str, Any], progress: Progress
) -> None:
    """Record the batches that ``writer`` has not."""
    samples, batch_size, calls = writer.request["samples"], writer.request["batch_size"], writer.calls
    with progress.stage("recording trajectories", samples * calls) as advance:
        advance(min(writer.done * batch_size, samples) * calls)
        while not writer.finished:
            indices = range(writer.done * batch_size, min((writer.done + 1) * batch_size, samples))
            batch = _Batch(writer, list(indices))
            rows = {name: _rows_of(value, indices, samples) for name, value in conditioning.items()}
            model.run_trajectories(
                list(indices), batch.store, batch_size=len(indices), conditioning=rows or None, **run
            )
            batch.finish()
            advance(len(indices) * calls)


def _request(
    model: Model, samples: int, dtype: str, batch_size: int, run: dict[str, Any], conditioning: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decides the recording's bytes, as plain JSON."""
    scheduler = model.denoiser.scheduler
    # Saving a scheduler adds private entries to its config.
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    config["_class_name"] = type(scheduler).__name__
    request = {
        "model": state_hash(model.denoiser.module),
        "scheduler": config,
        "sample_shape": list(model.denoiser.sample_shape),
        "samples": samples,
        "batch_size": batch_size,
        "dtype": dtype,
        "conditioning": {n: tensor_hash(v) if isinstance(v, Tensor) else v for n, v in conditioning.items()},
        "threads": torch.get_num_threads(),
        **run,
    }
    return json.loads(json.dumps(request, default=str))


def _rows_of(value: Any, indices: range, samples: int) -> Any:
    """The part of a conditioning argument that belongs to a batch; what is no list or tensor serves all samples."""
    if not has_rows(value):
        return value
    if len(value) != samples:
        raise InputError(f"conditioning has {len(value)} rows for {samples} samples: one a sample is needed")
    return value[indices.start : indices.stop]


class _Writer:
    """The folder while it is being written: its manifest and maps."""

    def __init__(self, folder: Path, request: dict[str, Any], calls: int):
        self.folder, self.request, self.calls = folder, request, calls
        self.batches = -(-request["samples"] // request["batch_size"])
        if (folder / MANIFEST).is_file():
            self.manifest = read_manifest(folder)
            _check_same(folder, self.manifest, request)
        elif folder.exists() and not _is_empty(folder):
            raise InputError(f"{folder} is in use: a recording needs a new or empty folder")
        else:
            _check_space(folder, samples_bytes(request, calls))
            self.manifest = {"format": BATCHED_ONLY, "request": request, "batches": self.batches, "done": 0}
        self._samples: np.memmap | None = None
        self._conditioning: dict[str, np.memmap] = {}

    @property
    def done(self) -> int:
        """Finished batches."""
        return int(self.manifest["done"])

    @property
    def finished(self) -> bool:
        """Whether all batches are."""
        return self.done >= self.batches

    def open(self, timestep: Tensor, branches: int, conditions: Conditions) -> np.memmap:
        """The samples map; at the recording's first batch it and the conditioning files are made."""
        if self._samples is not None:
            return self._samples
        mode = "r+" if self.done else "w+"
        if not self.done:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manifest["branches"] = branches
            self.manifest["timestep_dtype"] = str(timestep.dtype).removeprefix("torch.")
            self.manifest["conditioning"] = self._entries(conditions, branches)
            if conditions.unbatched or conditions.constants:
                self.manifest |= {"format": FORMAT_VERSION, "constants": conditions.constants}
            # The manifest comes first: files beside none would look like somebody else's folder.
            write_manifest(self.folder, self.manifest)
        self._samples = open_samples(self.folder, self.request, self.calls, mode)
        for entry in self.manifest["conditioning"]:
            self._conditioning[entry["name"]] = open_conditioning(self.folder, entry, mode)
        return self._samples

    def _entries(self, conditions: Conditions, branches: int) -> list[dict[str, Any]]:
        rows = [(name, value[0], [self.request["samples"], branches]) for name, value in conditions.batched.items()]
        rows += [(name, value, [1, 1]) for name, value in conditions.unbatched.items()]
        return [
            {
                "name": name,
                "file": conditioning_file(number),
                "dtype": str(row.dtype).removeprefix("torch."),
                "shape": list(row.shape),
                "stored": [*stored, row.numel() * row.element_size()],
                **({} if name in conditions.batched else {"batched": False}),
            }
            for number, (name, row, stored) in enumerate(rows)
        ]

    def finish_batch(self, indices: list[int], timesteps: list[float], conditions: Conditions) -> None:
        """Put the batch's conditioning and all data on disk, then count the batch as done."""
        assert self._samples is not None
        if self.manifest.setdefault("timesteps", timesteps) != timesteps:
            raise InputError("the sampler's time steps differ between batches: such a run cannot be recorded")
        part = slice(indices[0], indices[-1] + 1)
        for name, value in conditions.batched.items():
            # (branches * B, ...) -> (B, branches, bytes)
            rows = value.reshape(-1, len(indices), *value.shape[1:]).transpose(0, 1).flatten().contiguous()
            stored = self._conditioning[name][part]
            stored[:] = rows.view(torch.uint8).numpy().reshape(stored.shape)
        for name, value in conditions.unbatched.items():
            once, whole = self._conditioning[name], value.flatten().contiguous().view(torch.uint8)
            once[:] = whole.numpy().reshape(once.shape)
        for data in (self._samples, *self._conditioning.values()):
            data.flush()
        self.manifest["done"] = self.done + 1
        write_manifest(self.folder, self.manifest)


class _Batch:
    """One batch of trajectories on its way to the store."""

    def __init__(self, writer: _Writer, indices: list[int]):
        self.writer, self.indices = writer, indices
        self.timesteps: list[float] = []
        self.conditions = Conditions()

    def store(self, call: DenoiserCall) -> None:
        """Store one call; see ``Model.run_trajectories``."""
        count, shape = len(self.indices), tuple(self.writer.request["sample_shape"])
        conditions = Conditions.of(call)
        if tuple(call.sample.shape[1:]) != shape:
            raise InputError(
                f"the denoiser is called with samples of shape {tuple(call.sample.shape[1:])} at step {call.k}, and "
                f"with {shape} before: such a run cannot be recorded"
            )
        if call.k == 0:
            self.conditions = conditions
        elif not conditions.is_same(self.conditions):
            raise InputError(f"the conditioning changes along the trajectory (step {call.k}): it cannot be recorded")
        if call.k >= self.writer.calls:
            raise InputError(f"the sampler makes more than {self.writer.calls} denoiser calls: it cannot be recorded")
        first, *others = call.sample.split(count)
        if any(not torch.equal(first, other) for other in others):
            raise InputError("the guidance branches see different samples: such a pipeline cannot be recorded")
        stored = first.cpu().to(getattr(torch, self.writer.request["dtype"]))
        if not torch.isfinite(stored).all():
            name = self.writer.request["dtype"]
            raise NumericsError(f"a sample at step {call.k} does not fit {name}: record with dtype float32")
        samples = self.writer.open(call.t, len(others) + 1, conditions)
        samples[call.k, self.indices[0] : self.indices[-1] + 1] = stored.numpy()
        self.timesteps.append(call.t[0].item())

    def finish(self) -> None:
        """Close the batch; its trajectories must be whole."""
        if len(self.timesteps) != self.writer.calls:
            raise InputError(f"the sampler made {len(self.timesteps)} denoiser calls, not {self.writer.calls}")
        self.writer.finish_batch(self.indices, self.timesteps, self.conditions)


def _is_empty(folder: Path) -> bool:
    """Whether it is a folder with nothing in it but what a kill left of a file."""
    return folder.is_dir() and all(path.name.startswith(TEMPORARY) for path in folder.iterdir())


def _check_space(folder: Path, needed: int) -> None:
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if needed + SPARE_BYTES > free:
        raise InputError(
            f"the recording needs {needed / 1e9:.1f} GB in {folder}, and {free / 1e9:.1f} GB are free there"
        )


def _check_same(folder: Path, manifest: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    finished = manifest["done"] == manifest["batches"]
    there, here = flattened(manifest["request"]), flattened(request)
    for path in sorted(there.keys() | here.keys()):
        # Thread count may change the last bits of a recording, but a finished one is what it is.
        if there.get(path) != here.get(path) and not (finished and path == "threads"):
            what = f"{path} is {_short(there.get(path))} there and {_short(here.get(path))} here"
            raise InputError(f"{folder} holds another recording: {what}; choose another folder or delete it")


def _short(value: Any) -> str:
    """A value in one line, however many prompts it holds."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
