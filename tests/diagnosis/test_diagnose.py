"""A denoiser whose every error is known in closed form, and mixtures of models that must be put back."""

import copy
import json
import math

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tempoquant
from tempoquant import Diagnosis, diagnose
from tempoquant.diagnosis.pair import open_pair
from tempoquant.errors import FormatError, InputError
from tempoquant.recipe import keep_higher, read_fragment, with_overrides
from tempoquant.report import write_report
from tempoquant.sampling.denoiser import Denoiser
from tempoquant.sampling.sampling import sample
from tiny import Bare, bare_denoiser, small_recipe, unet_pipeline


class Net(nn.Module):
    """eps = 0.5 x + emb(t)[0] / 10 with emb a linear layer of (t / 100, 1), and a 1x1 convolution of weight 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.conv = nn.Linear(2, 3), nn.Conv2d(1, 1, 1, bias=False)
        with torch.no_grad():
            self.emb.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
            self.emb.bias.zero_()
            self.conv.weight.fill_(0.5)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        emb = self.emb(torch.stack([timestep / 100, torch.ones_like(timestep)], dim=1).float())
        return self.conv(sample) + emb[:, :1, None, None] / 10


@pytest.fixture
def full() -> Denoiser:
    return Denoiser(Net(), DDIMScheduler(num_train_timesteps=100, clip_sample=False), (1, 12, 12), name="net")


def changed(full: Denoiser, shift: float = 0.0, weight: float = 0.5) -> Denoiser:
    other = copy.deepcopy(full)
    with torch.no_grad():
        other.module.emb.bias[0] = shift
        other.module.conv.weight.fill_(weight)
    return other


RUN = {"samples": 3, "steps": 4, "seed": 1, "batch_size": 2, "ranking_samples": 2}


def test_errors_by_closed_form(full):
    found = diagnose(changed(full, shift=0.3), full, **RUN)
    assert found.timesteps.tolist() == [75, 50, 25, 0] and found.rows.tolist() == [0, 25, 50, 75]
    assert found.projections == ("emb",) and found.units == ("conv",) and found.layers == ("emb", "conv")
    for k, t in enumerate(found.timesteps.tolist()):
        u, v = torch.tensor([t / 100, 1, t / 100 + 1]).double(), torch.tensor([t / 100 + 0.3, 1, t / 100 + 1]).double()
        assert float(found.feature_cosine[0, k]) == pytest.approx(float(u @ v / u.norm() / v.norm()), abs=1e-6)
        assert float(found.feature_error[0, k]) == pytest.approx(0.3 / float(u.norm()), abs=1e-6)
    # (0.3 - d)^2 + d^2 is least at a move d of 0.15: every row but the last is nearest to the next one.
    assert found.nearest.tolist() == [[1, 2, 3, 3]] and found.mismatch == 0.75
    assert found.disturbed == ("emb",)
    # The convolution is the same, and sees the same samples.
    assert found.unit_cosine.tolist() == [[1.0] * 4] and bool(found.unit_sqnr.isinf().all())
    shown = []
    sample(
        full,
        samples=3,
        steps=4,
        seed=1,
        batch_size=2,
        step_callback=lambda k, t, i, x, p: shown.append(p.double().square().mean()),
    )
    power = [float(sum(shown[k::4][i] * n for i, n in enumerate((2, 1))) / 3) for k in range(4)]
    wanted = [10 * math.log10(p / 0.03**2) for p in power]
    torch.testing.assert_close(found.noise_sqnr.double(), torch.tensor(wanted).double(), atol=1e-3, rtol=0)


def test_trajectories_are_told_apart(full):
    other = changed(full, shift=0.3, weight=0.55)
    found = diagnose(other, full, **RUN)
    pictures = {}
    for name, model in (
        ("full", full),
        ("all", other),
        ("temporal", changed(full, shift=0.3)),
        ("others", changed(full, weight=0.55)),
    ):
        seen: list[list[Tensor]] = [[] for _ in range(4)]
        images = sample(model, samples=3, steps=4, seed=1, step_callback=lambda k, t, i, x, p, s=seen: s[k].append(x))
        pictures[name] = torch.stack([torch.cat(x) for x in seen]).double(), images
    truth = pictures["full"][0].flatten(1)
    for row, name in enumerate(("all", "temporal", "others")):
        wanted = (pictures[name][0].flatten(1) - truth).norm(dim=1) / truth.norm(dim=1)
        torch.testing.assert_close(found.deviations[row].double(), wanted, atol=1e-6, rtol=1e-5)
    errors = {
        layer: float((pictures[name][1][:2] - pictures["full"][1][:2]).double().square().mean())
        for layer, name in (("emb", "temporal"), ("conv", "others"))
    }
    assert {c.name: pytest.approx(c.error, rel=1e-5) for c in found.culprits} == errors
    assert [c.name for c in found.culprits] == sorted(errors, key=lambda n: -errors[n])
    assert sum(c.share for c in found.culprits) == pytest.approx(1)
    assert [c.name for c in found.step_ranges] == ["75 to 75", "50 to 50", "25 to 25", "0 to 0"]


def test_a_range_of_steps_is_the_quantized_model_there(full):
    found = diagnose(changed(full, shift=0.3), full, **RUN)

    def only_at(module, sample, timestep):
        return module(sample, timestep) + (0.03 if int(timestep[0]) == 50 else 0.0)

    mixed = Denoiser(full.module, full.scheduler, full.sample_shape, call=only_at)
    a, b = (sample(d, samples=2, steps=4, seed=1).double() for d in (full, mixed))
    assert found.step_ranges[1].error == pytest.approx(float((a - b).square().mean()), rel=1e-4)


def test_activations_and_memory_of_batches(full):
    found = diagnose(changed(full, shift=0.3), full, **RUN)
    samples = []
    sample(
        full, samples=3, steps=4, seed=1, batch_size=3, step_callback=lambda k, t, i, x, p: samples.append(x.flatten())
    )
    conv = found.activations[1]
    for k, x in enumerate(samples):
        wanted = torch.quantile(x, torch.tensor([0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]))
        torch.testing.assert_close(conv[k], wanted)
    assert bool(found.intervals.isnan().all()) and found.facts["quantized"]["recipe"] is None


def test_a_quantized_pipeline_and_its_folder(tmp_path):
    pipe = unet_pipeline()
    quantized = tempoquant.quantize(pipe, small_recipe("tfmq-dm", weights=4), out=tmp_path / "out")
    before = quantized.generate(2, steps=4, seed=3)
    found = diagnose(quantized, pipe, samples=2, ranking_samples=1, batch_size=2, out=tmp_path / "d")
    assert torch.equal(quantized.generate(2, steps=4, seed=3), before)
    assert not any(isinstance(part, tempoquant.layers.QuantizedLayer) for part in pipe.unet.modules())
    assert not pipe.unet._forward_pre_hooks and "forward" not in pipe.unet.__dict__
    assert len(found.timesteps) == 4 and found.facts["quantized"]["recipe"]["method"] == "tfmq-dm"
    # Every input fits the interval that its calibration saw, up to the quantiles' own trajectories.
    assert not found.intervals.isnan().any() and bool((found.intervals[..., 1] >= found.intervals[..., 0]).all())
    again = Diagnosis.load(tmp_path / "d")
    assert again.culprits == found.culprits and again.policy == found.policy and again.facts == found.facts
    assert torch.equal(again.deviations, found.deviations) and torch.equal(again.images, found.images)
    by_folder = diagnose(tmp_path / "out", pipe, samples=2, ranking_samples=0, batch_size=2)
    assert torch.equal(by_folder.deviations, found.deviations) and by_folder.culprits == ()
    recipe = with_overrides(small_recipe(weights=4), read_fragment(tmp_path / "d" / "policy.yaml"))
    kept = found.culprits[0].name
    assert recipe.bits_of(kept) == (8, 8) and recipe.bits_of("another") == (4, 8)


def test_widths_of_kept_layers():
    widths = {"a": (4, 8), "b": (8, 8), "c": (4, 6), "d": (16, 16), "e": (4, 32)}
    kept = {entry.pop("match"): (entry["weight_bits"], entry["activation_bits"]) for entry in keep_higher(widths)}
    assert kept == {"a": (8, 8), "b": (16, 16), "c": (8, 8), "d": (32, 32), "e": (8, 32)}


def test_layers_behind_a_table_cost_nothing_alone(tmp_path):
    pipe = unet_pipeline()
    quantized = tempoquant.quantize(pipe, small_recipe("rtn", weights=4), freeze_schedule=True)
    patterns = ["time_embedding.*", "conv_in", "mid_block.resnets.0.time_emb_proj"]
    found = diagnose(quantized, pipe, samples=2, ranking_samples=1, batch_size=2, layers=patterns)
    # The first two put out nothing: in their place alone the full-precision model would not know the time step.
    assert set(found.layers) > {"time_embedding.linear_1", "time_embedding.linear_2"}
    assert {cost.name for cost in found.culprits} == {"conv_in", "mid_block.resnets.0.time_emb_proj"}
    assert found.culprits[0].name == "conv_in" and 0 < float(found.deviations[1, -1]) < 0.1


def test_a_bf16_copy_of_a_pipeline():
    pipe = unet_pipeline()
    other = copy.deepcopy(pipe)
    other.unet.bfloat16()
    found = diagnose(other, pipe, samples=2, steps=4, ranking_samples=1, batch_size=2)
    assert found.culprits and float(found.noise_sqnr.min()) > 20 and 0 < float(found.deviations[0, -1]) < 0.1
    assert float(found.feature_cosine.min()) > 0.999 and next(other.unet.parameters()).dtype == torch.bfloat16


def test_int8_weights_of_torchao():
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed: its int8 is not compared")
    pipe = unet_pipeline()
    other = copy.deepcopy(pipe)
    torchao.quantize_(other.unet, torchao.Int8WeightOnlyConfig())
    found = diagnose(other, pipe, samples=2, steps=4, ranking_samples=1, batch_size=2)
    assert len(found.culprits) > 0 and 20 < float(found.noise_sqnr.min()) < 100
    # It quantizes Linear layers alone.
    assert all(isinstance(pipe.unet.get_submodule(cost.name), nn.Linear) for cost in found.culprits)


def test_refusals(full, tmp_path):
    other = changed(full, shift=0.3)
    wide = Denoiser(other.module, full.scheduler, (1, 14, 12))
    schedule = Denoiser(other.module, DDIMScheduler(num_train_timesteps=100, beta_end=0.5), (1, 12, 12))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine.txt").touch()
    for model, options, said in (
        (full, {}, "one and the same"),
        (wide, {}, r"samples are \(1, 14, 12\)"),
        (schedule, {}, "the schedules differ: beta_end is 0.5"),
        (other, {"layers": ["conv*", "attn*"]}, "layer pattern 'attn\\*' matches no layer"),
        (other, {"samples": 0}, "samples = 0"),
        (other, {"out": tmp_path / "d"}, "exists"),
        (other, {"out": tmp_path / "d", "overwrite": True}, "not written by tempoquant"),
        (other, {"out": tmp_path / "none" / "d"}, "is no folder"),
    ):
        with pytest.raises(InputError, match=said):
            diagnose(model, full, **{**RUN, **options})
    assert [p.name for p in tmp_path.rglob("*")] == ["d", "mine.txt"]


def test_a_recording_too_large(full, monkeypatch):
    monkeypatch.setattr("tempoquant.recording.recorder.SPARE_BYTES", 1 << 60)
    with pytest.raises(InputError, match=r"the recording needs .* GB"):
        diagnose(changed(full, shift=0.3), full, **RUN)


def test_damaged_folders(full, tmp_path):
    diagnose(changed(full, shift=0.3), full, **{**RUN, "ranking_samples": 0}, out=tmp_path / "d")
    data, tensors = tmp_path / "d" / "diagnosis.json", tmp_path / "d" / "diagnosis.safetensors"
    plain = json.loads(data.read_text())
    data.write_text(json.dumps({**plain, "format_version": 2}))
    with pytest.raises(FormatError, match="format version 2 is newer"):
        Diagnosis.load(tmp_path / "d")
    data.write_text(json.dumps({**plain, "layers": None}))
    with pytest.raises(FormatError, match=r"diagnosis.json: layers = None: .* valid list"):
        Diagnosis.load(tmp_path / "d")
    data.write_text(json.dumps(plain))
    found = load_file(tensors)
    found["psnr"] += 1
    save_file(found, tensors)
    with pytest.raises(FormatError, match="differs from its recorded hash"):
        Diagnosis.load(tmp_path / "d")
    with pytest.raises(FormatError, match="holds no diagnosis"):
        Diagnosis.load(tmp_path)


def test_layers_in_use_are_told_for_a_bare_folder(tmp_path):
    full = bare_denoiser()
    tempoquant.quantize(full, small_recipe("rtn", weights=4), out=tmp_path / "out")
    pair = open_pair(str(tmp_path / "out"), full)
    assert set(pair.differing(["first", "middle", "last", "time_in", "time_out"])) == {
        "first",
        "middle",
        "last",
        "time_in",
        "time_out",
    }
    found = diagnose(str(tmp_path / "out"), full, samples=2, ranking_samples=1, layers=["mid*", "last"])
    assert found.layers == ("middle", "last") and {c.name for c in found.culprits} == {"middle", "last"}


def test_latents_of_more_channels_are_diagnosed(tmp_path):
    torch.manual_seed(0)
    module = Bare()
    module.first, module.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
    latents = Denoiser(module.eval(), bare_denoiser().scheduler, (4, 8, 8), name="latents")
    quantized = tempoquant.quantize(latents, small_recipe("rtn"))
    found = diagnose(quantized, latents, samples=1, ranking_samples=0, steps=2, out=tmp_path / "d")
    assert found.images.shape == (1, 8, 8, 4)
    assert write_report([tmp_path / "d"], tmp_path / "report.html").stat().st_size
