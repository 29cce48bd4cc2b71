"""Manifests of recordings that say what no recording says: refused in a line, and no other file is opened."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from tempoquant.errors import FormatError, InputError
from tempoquant.recording.recorder import record
from tempoquant.sampling.denoiser import Denoiser


class Toy(nn.Module):
    def forward(self, sample: Tensor, timestep: Tensor, shift: Tensor) -> Tensor:
        return 0.5 * sample + shift.reshape(-1, 1, 1, 1)


def toy_denoiser() -> Denoiser:
    return Denoiser(Toy(), DDIMScheduler(num_train_timesteps=100, clip_sample=False), (1, 4, 4), name="toy")


BAD_MANIFESTS = {
    "another folder's file": lambda m: m["conditioning"][0].update(file="../victim.bin"),
    "an absolute path": lambda m: m["conditioning"][0].update(file="/etc/passwd"),
    "a path as dtype": lambda m: m["request"].update(dtype="x/../../victim"),
    "more batches done": lambda m: m.update(done=99),
    "negative batches": lambda m: m.update(done=-1),
    "huge samples": lambda m: m["request"].update(samples=2**62),
    "samples as text": lambda m: m["request"].update(samples="5"),
    "a negative side": lambda m: m["request"].update(sample_shape=[1, -8, 8]),
    "no request": lambda m: m.pop("request"),
    "another dtype of a row": lambda m: m["conditioning"][0].update(dtype="float64"),
    "no dtype": lambda m: m["conditioning"][0].update(dtype="Tensor"),
    "steps that are not finite": lambda m: m.update(timesteps=[float("nan")]),
    "step dtype": lambda m: m.update(timestep_dtype="load"),
}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A recording with conditioning whose second batch is missing, and how to continue it."""
    folder = tmp_path_factory.mktemp("recordings") / "recording"
    options = {"samples": 4, "steps": 3, "seed": 0, "batch_size": 2, "conditioning": {"shift": torch.arange(4.0)}}
    record(toy_denoiser(), folder, **options)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "done": 1}))
    return folder, lambda place: record(toy_denoiser(), place, **options)


@pytest.mark.parametrize("change", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_recordings_manifest_opens_no_other_file(unfinished, tmp_path, change):
    shutil.copytree(unfinished[0], tmp_path / "recording")
    victim = tmp_path / "victim.bin"
    victim.write_bytes(b"years" * 100)
    manifest = tmp_path / "recording" / "manifest.json"
    entries = json.loads(manifest.read_text())
    change(entries)
    manifest.write_text(json.dumps(entries))
    with pytest.raises((FormatError, InputError)) as caught:
        unfinished[1](tmp_path / "recording")
    assert "\n" not in str(caught.value)
    assert victim.read_bytes() == b"years" * 100


def test_a_recordings_files_are_no_links(unfinished, tmp_path):
    shutil.copytree(unfinished[0], tmp_path / "recording")
    data = tmp_path / "recording" / "samples.float16.bin"
    victim = tmp_path / "victim.bin"
    shutil.move(data, victim)
    data.symlink_to(victim)
    before = victim.read_bytes()
    with pytest.raises(FormatError, match="is no plain file"):
        unfinished[1](tmp_path / "recording")
    assert victim.read_bytes() == before
    data.unlink()
    shutil.move(victim, data)
    assert len(unfinished[1](tmp_path / "recording")) == 12
