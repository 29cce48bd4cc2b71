import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from tempoquant.errors import FormatError, InputError, NumericsError
from tempoquant.pipelines import DiffusersModel
from tempoquant.recording.recorder import record
from tempoquant.recording.store import Store
from tempoquant.sampling.noise import noise
from tempoquant.sampling.sampling import sample

torch.set_num_threads(1)


RUN = {"samples": 5, "steps": 4, "seed": 2, "batch_size": 2}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_recording_holds_what_the_denoiser_saw(toy, tmp_path):
    store = record(toy, tmp_path / "s", sampler="plms", dtype="float32", **RUN)
    seen = {}

    def observe(k, t, indices, x, prediction):
        seen.update({(k, int(i)): value.clone() for i, value in zip(indices, x, strict=True)})

    sample(toy, sampler="plms", step_callback=observe, **RUN)
    assert store.timesteps.tolist() == [75, 50, 50, 25, 0] and store.timesteps.dtype == torch.int64
    assert store.rows.tolist() == [0.0, 25.0, 50.0, 75.0] and store.rows.dtype == torch.float32
    assert (store.samples, store.branches, len(store), store.sample_shape) == (5, 1, 25, (1, 4, 4))
    steps, indices = torch.tensor([0, 4, 2]), torch.tensor([4, 0, 3])
    x, t, conditioning = store.read(steps, indices)
    assert x.dtype == torch.float32 and t.tolist() == [75, 0, 50] and conditioning == {}
    assert torch.equal(x, torch.stack([seen[0, 4], seen[4, 0], seen[2, 3]]))


def test_samples_pass_through_half_precision(toy, tmp_path):
    store = record(toy, tmp_path / "s", **RUN)
    x, _, _ = store.read(torch.tensor([0]), torch.tensor([3]))
    assert torch.equal(x[0], noise((1, 4, 4), 2, 3).half().float())
    raw = np.fromfile(tmp_path / "s" / "samples.float16.bin", dtype=np.float16).reshape(4, 5, 1, 4, 4)
    assert np.array_equal(raw[0, 3], noise((1, 4, 4), 2, 3).half().numpy())


@pytest.mark.parametrize("calls_before", [1, 5, 9])
def test_an_interrupted_run_ends_with_the_same_bytes(toy, tmp_path, calls_before):
    shift = torch.linspace(-1, 1, 5)
    record(toy, tmp_path / "whole", conditioning={"shift": shift}, eta=1.0, **RUN)
    plain, calls = toy.call, 0

    def killed(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > calls_before:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    toy.call = killed
    with pytest.raises(KeyboardInterrupt):
        record(toy, tmp_path / "cut", conditioning={"shift": shift}, eta=1.0, **RUN)
    with pytest.raises(FormatError, match=rf"unfinished recording \({calls_before // 4} of 3 batches\)"):
        Store(tmp_path / "cut")
    counted = 0

    def counting(*args, **kwargs):
        nonlocal counted
        counted += 1
        return plain(*args, **kwargs)

    toy.call = counting
    record(toy, tmp_path / "cut", conditioning={"shift": shift}, eta=1.0, **RUN)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert counted == 4 * (3 - calls_before // 4)
    record(toy, tmp_path / "cut", conditioning={"shift": shift}, eta=1.0, **RUN)
    assert counted == 4 * (3 - calls_before // 4)


def test_conditioning_is_stored_once_and_read_by_row(toy, tmp_path):
    shift = torch.arange(5, dtype=torch.bfloat16)
    store = record(toy, tmp_path / "s", conditioning={"shift": shift}, **RUN)
    _, _, conditioning = store.read(torch.tensor([0, 3, 3]), torch.tensor([4, 4, 1]))
    assert conditioning["shift"].dtype == torch.bfloat16 and conditioning["shift"].tolist() == [4, 4, 1]
    assert (tmp_path / "s" / "conditioning.0.bin").stat().st_size == 5 * 2
    with pytest.raises(InputError, match="conditioning has 3 rows for 5 samples"):
        record(toy, tmp_path / "t", conditioning={"shift": shift[:3]}, **RUN)
    assert not (tmp_path / "t").exists()


def test_guidance_branches_share_their_sample(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=4)
    scheduler = DDIMScheduler(num_train_timesteps=100)
    target = DiffusersModel(DiTPipeline(transformer=transformer.eval(), vae=vae.eval(), scheduler=scheduler))
    labels = {"class_labels": [7, 8, 9]}
    store = record(target, tmp_path / "s", samples=3, steps=2, seed=0, batch_size=2, conditioning=labels)
    assert (store.samples, store.branches) == (6, 2)
    x, t, conditioning = store.read(torch.zeros(6, dtype=torch.long), torch.arange(6))
    assert conditioning["class_labels"].tolist() == [7, 1000, 8, 1000, 9, 1000]
    assert torch.equal(x[4], x[5]) and torch.equal(x[4], noise((4, 4, 4), 0, 2).half().float())
    with torch.no_grad():
        assert target.denoiser(x, t, **conditioning).shape == (6, 8, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, "seed is 2 there and 3 here"),
        ({"samples": 6}, "samples is 5 there and 6 here"),
        ({"dtype": "float32"}, "dtype is 'float16' there"),
        ({"conditioning": {"shift": torch.zeros(5)}}, "conditioning.shift is None there"),
    ],
)
def test_another_recording_is_refused(toy, tmp_path, change, message):
    record(toy, tmp_path / "s", **RUN)
    before = contents(tmp_path / "s")
    with pytest.raises(InputError, match=message):
        record(toy, tmp_path / "s", **{**RUN, **change})
    assert contents(tmp_path / "s") == before


def test_another_model_or_schedule_is_refused(toy, tmp_path):
    record(toy, tmp_path / "s", **RUN)
    toy.scheduler.register_to_config(beta_end=0.03)
    with pytest.raises(InputError, match=r"scheduler.beta_end is 0.02 there and 0.03 here"):
        record(toy, tmp_path / "s", **RUN)
    toy.scheduler.register_to_config(beta_end=0.02)
    toy.module.gain.data.fill_(0.25)
    with pytest.raises(InputError, match="model is '"):
        record(toy, tmp_path / "s", **RUN)


def test_disk_space_is_checked_before_anything_runs(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**6})())
    toy.sample_shape = (3, 1000, 1000)
    with pytest.raises(InputError, match=r"needs 0.1 GB .* and 0.0 GB are free"):
        record(toy, tmp_path / "a" / "s", **RUN)
    assert not (tmp_path / "a").exists()


def test_damage_and_foreign_folders(toy, tmp_path):
    record(toy, tmp_path / "s", **RUN)
    data = tmp_path / "s" / "samples.float16.bin"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(FormatError, match="holds 639 bytes, not 640"):
        Store(tmp_path / "s")
    with pytest.raises(FormatError, match="not a recording"):
        Store(tmp_path)
    with pytest.raises(InputError, match="is in use"):
        record(toy, tmp_path, **RUN)
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 3}))
    with pytest.raises(FormatError, match="recording format 3; this version reads up to 2"):
        Store(tmp_path / "s")
    manifest.write_text("{")
    with pytest.raises(FormatError, match="is not a recording's manifest"):
        Store(tmp_path / "s")


def test_values_that_do_not_fit_half_precision(toy, tmp_path):
    toy.call = lambda module, x, t: x * 1e6
    with pytest.raises(NumericsError, match="at step 1 does not fit float16: record with dtype float32"):
        record(toy, tmp_path / "s", **RUN)
    with pytest.raises(InputError, match="unknown recording dtype 'float8'"):
        record(toy, tmp_path / "t", dtype="float8", **RUN)
