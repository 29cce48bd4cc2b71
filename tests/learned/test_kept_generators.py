"""Interval networks that stay beside the tables: the same bits for the trained schedule, their own for others."""

import json
import shutil
import warnings

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from torch.nn.functional import linear, softplus

import tempoquant
from command_line import run
from older import without_digest
from tempoquant.checkpoint.tensors import packed_tensors
from tempoquant.errors import FormatError, InputError
from tempoquant.intervals import TableInterval
from tempoquant.job import run_job
from tempoquant.learned.baking import bake, can_bake
from tempoquant.learned.kept import kept_networks
from tempoquant.learned.networks import frequency_encoding
from tempoquant.pipelines import resolve
from tempoquant.progress import Silent
from tempoquant.recipe import Recipe
from tempoquant.stages import WorkFolders
from tempoquant.training.prepare import fold
from tiny import small_recipe
from training_commands import SHORT, place  # noqa: F401
from training_models import images, recipe, shaken, trainee, unet_pipeline

OTHER = torch.tensor([90, 60, 60, 30, 7, 0])
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return tmp_path_factory.mktemp("recording") / "r"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained folder that keeps its networks."""
    out = tmp_path_factory.mktemp("kept") / "out"
    tempoquant.train(unet_pipeline(), recipe().keeping_generators(), data=images(), out=out)
    return out


def rows_of(sites, clock):
    """Every field of every site's interval at every row."""
    rows = torch.arange(len(clock))
    return [[field.expand(len(rows)).clone() for field in vars(site.provider.at(rows)).values()] for site in sites]


def same(a, b):
    return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


def tables(quantized):
    return {n: m.scale.clone() for n, m in quantized.denoiser.module.named_modules() if isinstance(m, TableInterval)}


@pytest.mark.parametrize("method", ["tdq", "lsq+-tdq", "pact-tdq", "duq-tdq", "qil-tdq"])
def test_tables_are_the_networks_own_values_at_every_schedule(method, recording):
    made = shaken(trainee(recording, recipe(method, 8, 8)))
    clock, trained = made.clock, made.clock.timesteps
    with torch.no_grad():
        clock.use(OTHER)
        other = rows_of(made.sites, clock)
        clock.use(trained)
        own = rows_of(made.sites, clock)
    module = fold(made, keep=True)
    assert can_bake(module) and same(rows_of(made.sites, clock), own)
    assert bake(module, clock, OTHER).tolist() == [0, 7, 30, 60, 90] and same(rows_of(made.sites, clock), other)
    assert bake(module, clock, trained).tolist() == trained.tolist() and same(rows_of(made.sites, clock), own)
    assert all(fields[0].unique().numel() > 1 for fields in other)


def test_networks_are_kept_only_when_asked(recording):
    module = fold(trainee(recording, recipe()))
    assert not kept_networks(module) and not can_bake(module)


def test_a_loaded_folder_draws_another_schedule_with_tables_of_its_own(folder):
    made = tempoquant.load(folder)
    stored, expected = tables(made), made.generate(2, steps=4, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.generate(2, steps=7, seed=1)
    assert made.clock.timesteps.tolist() == made.denoiser.recorded.tolist() == [0, 14, 28, 42, 56, 70, 84]
    ((kept, owned),) = kept_networks(made.denoiser.module).items()
    networks = {name.removeprefix("generators."): tensor for name, tensor in kept.tensors.items()}
    for table in owned:
        h = frequency_encoding(made.clock.timesteps, 128)
        for i in range(4):
            h = linear(h if i == 0 else h.relu(), networks[f"weights.{i}"][table.number].T,
                       networks[f"biases.{i}"][table.number, 0])  # fmt: skip
        torch.testing.assert_close(table.scale, softplus(h)[:, 0])
    assert torch.equal(made.generate(2, steps=4, seed=1), expected)
    assert all(torch.equal(now, stored[name]) for name, now in tables(made).items())


def test_what_is_saved_is_the_trained_schedules_whatever_was_drawn(folder, tmp_path):
    made = tempoquant.load(folder)
    made.generate(1, steps=7, seed=1)
    made.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_folder_for_another_schedule(folder, tmp_path):
    made = tempoquant.load(folder, steps=7, sampler="ddim")
    made.save_pretrained(tmp_path / "seven")
    again = tempoquant.load(tmp_path / "seven")
    assert again.schedule == {"steps": 7, "sampler": "ddim", "eta": 0.0} and len(again.clock) == 7
    assert again.facts["schedule"]["timesteps"] == again.clock.timesteps.tolist()
    again.bake(4)
    assert again.schedule["steps"] == 4 and again.recipe.calibration.steps == 4
    first = tables(tempoquant.load(folder))
    assert all(torch.equal(scale, first[name]) for name, scale in tables(again).items())
    with pytest.raises(InputError, match="steps 0 is out of range"):
        again.bake(0)


def test_dropping_them_leaves_the_folder_of_a_run_that_kept_none(folder, tmp_path):
    plain = tmp_path / "plain"
    tempoquant.train(unet_pipeline(), recipe(), data=images(), out=plain)
    made = tempoquant.load(folder)
    size = made.facts["size"]
    made.generate(1, steps=7, seed=1)
    made.drop_generators()
    dropped = made.save_pretrained(tmp_path / "dropped")
    ours, theirs = (load_file(out / WEIGHTS) for out in (tmp_path / "dropped", plain))
    # The digest is of the recipe too, which keeps them.
    assert not torch.equal(ours.pop("tempoquant.digest"), theirs.pop("tempoquant.digest"))
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    # Four layers of weights and biases, and five numbers beside them, for each of the quantizers.
    count = len(tables(made))
    each = 128 * 64 + 64 + 2 * (64 * 64 + 64) + 64 + 1 + 5
    assert size["networks"] == 4 * each * count and dropped.networks == 0
    assert size["total"] == dropped.total + size["networks"] and size["tables"] == dropped.tables
    with pytest.raises(InputError, match=r"tdq W4A4 has no networks .*--keep-generators"):
        made.bake(7)
    with pytest.warns(UserWarning, match="were not calibrated"):
        tempoquant.load(tmp_path / "dropped").generate(1, steps=7, seed=1)


def test_diffusers_alone_loads_and_saves_them(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder / "unet")
    unet.save_pretrained(tmp_path / "unet")
    again = UNet2DModel.from_pretrained(tmp_path / "unet")
    clock = again.hf_quantizer.clock
    assert bake(again, clock, OTHER).tolist() == [0, 7, 30, 60, 90] and len(clock) == 5
    pipe = tempoquant.load(folder, steps=7).pipeline
    drawn = pipe(batch_size=1, num_inference_steps=7, output_type="np", generator=torch.Generator().manual_seed(0))
    assert drawn.images.shape == (1, 8, 8, 1) and len(pipe.unet.hf_quantizer.clock) == 7


def test_half_precision_leaves_them_as_they_are(folder):
    made = tempoquant.load(folder)
    before = [tensor.clone() for kept in kept_networks(made.denoiser.module) for tensor in kept.tensors.values()]
    torch.nn.Module.to(made.denoiser.module, torch.bfloat16)
    after = [tensor for kept in kept_networks(made.denoiser.module) for tensor in kept.tensors.values()]
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_frozen_schedule_needs_none(folder):
    made = tempoquant.load(folder)
    made.generate(1, steps=7, seed=1)
    made.freeze_schedule()
    assert len(made.clock) == 4 and not kept_networks(made.denoiser.module)
    with pytest.raises(InputError, match="has no networks"):
        made.bake(7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: entry["form"].update(scheme="lsq++"), "KeyError: 'lsq\\+\\+'"),
        (lambda entry: entry["form"]["architecture"].update(wide=True), "TypeError"),
        (lambda entry: entry["form"]["architecture"].update(hidden=[64, 64]), "RuntimeError"),
    ],
)
def test_networks_of_an_unknown_kind_are_refused_when_they_are_needed(folder, tmp_path, change, said):
    shutil.copytree(folder, tmp_path / "other")
    without_digest(tmp_path / "other")
    path = tmp_path / "other" / "unet" / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"]["networks"][0])
    path.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="unverified"):
        made = tempoquant.load(tmp_path / "other")
    assert made.generate(1, steps=4, seed=0).isfinite().all()
    with pytest.raises(FormatError, match=f"the kept interval networks are not known here: {said}"):
        made.generate(1, steps=7, seed=0)
    assert made.generate(1, steps=4, seed=0).isfinite().all()


def test_recipes_say_so_only_where_there_are_networks():
    assert "keep_generators" not in recipe().model_dump(mode="json")["activations"]
    kept = recipe().keeping_generators()
    assert kept.activations.keep_generators and Recipe.parse(kept.model_dump(mode="json")) == kept
    with pytest.raises(InputError, match="keep_generators needs steps = 'generator'"):
        recipe("lsq").keeping_generators()
    with pytest.raises(InputError, match="keep_generators: tuning and correction know the recorded steps alone"):
        small_recipe("tdq-ptq", tuning={}).keeping_generators()


def test_after_training_too_and_in_a_resumed_run(tmp_path):
    wanted, target = small_recipe("tdq-thin", activations=4).keeping_generators(), resolve(unet_pipeline())
    folders = WorkFolders(tmp_path)
    first, second = (run_job(target, wanted, folders, Silent()) for _ in range(2))
    stored = packed_tensors(first.module, first.clock)
    again = packed_tensors(second.module, second.clock)
    assert "tempoquant.networks" in stored and stored.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in stored.items())
    assert can_bake(first.module) and len(kept_networks(first.module)) > 2
    trained = first.clock.timesteps
    bake(first.module, first.clock, OTHER)
    for kept, owned in kept_networks(first.module).items():
        networks = {name.removeprefix("generators."): tensor for name, tensor in kept.tensors.items()}
        for table in owned:
            h = first.clock.timesteps[:, None] / 100
            for i in range(3):
                h = linear(h if i == 0 else h.relu(), networks[f"weights.{i}"][table.number].T,
                           networks[f"biases.{i}"][table.number, 0])  # fmt: skip
            torch.testing.assert_close(table.scale, softplus(h)[:, 0])
            assert table.zero_point.unique().numel() == 1
    bake(first.module, first.clock, trained)
    back = packed_tensors(first.module, first.clock)
    assert all(torch.equal(value, stored[name]) for name, value in back.items())


def test_the_command_line(place, monkeypatch, capfd):  # noqa: F811
    def words(*given):
        return run(monkeypatch, capfd, *given)

    code, out, _ = words("train", "model", "--data", "images", *SHORT, "--keep-generators", "-o", "out")
    assert code == 0 and "MB are interval networks" in out
    code, out, err = words("generate", "out", "-n", "1", "--steps", "7", "-o", "g.png")
    assert code == 0 and "7 steps" in out and "not calibrated" not in err
    code, out, _ = words("bake", "out", "--steps", "7", "-o", "seven")
    assert code == 0 and "tables of 7 time steps" in out and "networks" not in out
    code, out, err = words("generate", "seven", "-n", "1", "-o", "h.png")
    assert code == 0 and "7 steps" in out and "not calibrated" not in err
    for given, said in (
        (("bake", "seven", "--steps", "9", "-o", "nine"), "has no networks to make all of its tables from"),
        (("bake", "out", "-o", "seven"), "seven exists"),
        (("bake", "out", "--steps", "101", "-o", "more"), "steps 101 is out of range"),
        (("train", "model", "--method", "lsq", *SHORT, "--keep-generators", "-o", "x"), "needs steps = 'generator'"),
    ):
        code, _, err = words(*given)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1, err
    assert not any((place / name).exists() for name in ("nine", "more", "x"))
