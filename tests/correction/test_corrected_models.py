"""Corrections of whole models: measured, saved, loaded, drawn with, refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import tempoquant
from conditional_models import dit_pipeline, labelled_denoiser, text_pipeline
from older import without_digest
from tempoquant.correction import Trajectories, compare_predictions, quantization_noise
from tempoquant.errors import FormatError, InputError
from tempoquant.intervals import Clock
from tempoquant.pipelines import BareModel, DiffusersModel
from tempoquant.recipe import Recipe
from tempoquant.sampling.schedulers import stepper_of
from tiny import bare_denoiser, small_recipe, unet_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"
RUN = {"steps": 4, "seed": 3, "eta": 1.0}


def recipe(method="rtn", correction=None, **changes):
    changes = {"activations": 6, "calibration": {"samples": 4, "eta": 1.0}} | changes
    return small_recipe(method, correction=correction or {"kind": "correlated"}, **changes)


@pytest.mark.parametrize("correction", [{"kind": "correlated"}, {"kind": "mmse"}, {"step_bits": (4, 8)}])
@pytest.mark.parametrize("kind", ["unet", "denoiser"])
def test_images_are_the_same_after_loading(kind, correction, tmp_path):
    make = unet_pipeline if kind == "unet" else bare_denoiser
    made = tempoquant.quantize(make(), recipe(correction=correction), out=tmp_path / "out")
    again = tempoquant.load(tmp_path / "out", denoiser=bare_denoiser(seed=9) if kind == "denoiser" else None)
    for run in (RUN, RUN | {"eta": 0.0}, RUN | {"eta": 0.0, "sampler": "plms"}, RUN | {"eta": 0.0, "sampler": "ddpm"}):
        assert torch.equal(made.generate(2, **run), again.generate(2, **run))
    assert again.recipe == made.recipe and again.recipe.correction is not None
    again.save_pretrained(tmp_path / "copy")
    for name in (f"{kind}/{WEIGHTS}", f"{kind}/config.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    # The correction is what makes the difference, and the original is left without.
    plain = made.model.with_scheduler(make().scheduler)
    assert not torch.equal(made.generate(2, **RUN), plain.generate(2, **RUN))


def test_the_users_scheduler_and_the_saved_one_are_stock(tmp_path):
    pipe = unet_pipeline()
    made = tempoquant.quantize(pipe, recipe(), out=tmp_path / "out")
    assert stepper_of(pipe.scheduler) is None and stepper_of(made.pipeline.scheduler) is not None
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_a_diffusers_pipeline_s_own_call_is_corrected():
    made = tempoquant.quantize(unet_pipeline(), recipe())
    pipe = made.pipeline
    pipe.set_progress_bar_config(disable=True)

    def drawn(scheduler):
        pipe.scheduler = scheduler
        draw = torch.Generator().manual_seed(0)
        return torch.as_tensor(pipe(num_inference_steps=4, eta=1.0, generator=draw, output_type="np").images)

    corrected = made.model.denoiser.scheduler
    assert not torch.equal(drawn(corrected), drawn(unet_pipeline().scheduler))
    assert torch.equal(drawn(corrected), drawn(corrected))
    assert pipe.config["scheduler"] == ("diffusers", "DDIMScheduler")


def test_a_recipe_without_a_correction_has_none(tmp_path):
    made = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=tmp_path / "out")
    assert made.correction is None and stepper_of(made.denoiser.scheduler) is None
    # Folders of before corrections were known have no such key.
    path = tmp_path / "out" / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]["recipe"]["correction"]
    path.write_text(json.dumps(config))
    without_digest(tmp_path / "out")
    with pytest.warns(UserWarning, match="unverified"):
        again = tempoquant.load(tmp_path / "out")
    assert again.recipe == made.recipe
    assert torch.equal(made.generate(1, steps=4, seed=0), again.generate(1, steps=4, seed=0))


def test_a_correction_without_its_statistics_is_refused(tmp_path):
    tempoquant.quantize(unet_pipeline(), recipe(), out=tmp_path / "out")
    without_digest(tmp_path / "out")
    path = tmp_path / "out" / "unet" / WEIGHTS
    tensors = load_file(path)
    kept = {name: value for name, value in tensors.items() if not name.startswith("tempoquant.correction_")}
    assert len(tensors) == len(kept) + 3
    save_file(kept, path)
    with pytest.warns(UserWarning), pytest.raises(FormatError) as caught:
        tempoquant.load(tmp_path / "out")
    assert "has no statistics for it" in str(caught.value) and "\n" not in str(caught.value)
    save_file(kept | {f"tempoquant.correction_{n}": torch.ones(2, 1) for n in ("gain", "bias", "variance")}, path)
    with pytest.warns(UserWarning), pytest.raises(FormatError, match="do not fit 4 time steps"):
        tempoquant.load(tmp_path / "out")


def test_schedulers_of_other_predictions_are_refused_before_any_work(tmp_path):
    pipe = unet_pipeline()
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(InputError, match="prediction_type epsilon"):
        tempoquant.quantize(pipe, recipe(), out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
    made = tempoquant.quantize(unet_pipeline(), recipe())
    again = DiffusersModel(unet_pipeline()).with_scheduler(made.denoiser.scheduler)
    with pytest.raises(InputError, match="already corrected"):
        tempoquant.quantize(again, recipe())


WRONG = {
    "kind": ({"kind": "ptqd"}, "correction.kind = 'ptqd'"),
    "variance": ({"kind": "mmse", "variance": True}, "correction.variance = True"),
    "samples": ({"samples": 0}, "correction.samples = 0"),
    "widths": ({"step_bits": [4, 12]}, "correction.step_bits"),
    "order": ({"step_bits": [8, 4]}, "ascending"),
    "float": ({"step_bits": [8, 32]}, "correction.step_bits"),
    "unknown": ({"steps": 4}, "correction.steps"),
}


@pytest.mark.parametrize(("entries", "said"), WRONG.values(), ids=WRONG)
def test_wrong_entries_are_named(entries, said):
    with pytest.raises(InputError) as caught:
        Recipe.parse({"method": "rtn", "correction": entries})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_step_wise_bits_need_quantized_activations():
    with pytest.raises(InputError, match=r"activations\.bits is 32"):
        Recipe.parse({"method": "rtn", "activations": {"bits": 32}, "correction": {"step_bits": [4, 8]}})
    assert recipe(correction={"kind": "mmse"}).correction.reduces_noise is False
    assert recipe().correction.reduces_noise and not recipe(correction={"variance": False}).correction.reduces_noise


def measured(model, conditioning=None, **changes):
    found = tempoquant.quantize(model, recipe(**changes), conditioning=conditioning).facts["correction"]
    return {name: torch.tensor(found[name], dtype=torch.float64) for name in ("k", "r2", "variance", "snr")}


def test_the_noise_that_follows_the_prediction_fades_with_more_bits():
    # Enough samples that few values lie outside of the ranges: what is clipped does not fade.
    wide = {"samples": 32, "rows_per_step": 32}
    few, some, many = (measured(unet_pipeline(), weights=b, activations=b, calibration=wide) for b in (4, 6, 8))
    for name in ("k", "variance"):
        sizes = [float(found[name].abs().mean()) for found in (few, some, many)]
        assert sizes[0] > 2 * sizes[1] > 4 * sizes[2], (name, sizes)
    assert (few["snr"] < some["snr"]).all() and (some["snr"] < many["snr"]).all()


@pytest.mark.parametrize("kind", ["text", "dit"])
def test_pairs_are_taken_after_guidance(kind, tmp_path):
    scale, steps = 3.0, 3
    pipe = text_pipeline(tmp_path) if kind == "text" else dit_pipeline()
    given = {"prompt": ["a b", "c"]} if kind == "text" else {"class_labels": [1, 7]}
    given["guidance_scale"] = scale
    full = DiffusersModel(pipe)
    run = {"steps": steps, "seed": 0}
    wanted, clock = {}, []

    def observe(k, t, indices, x, prediction):
        # Stable Diffusion puts the branch without the condition first, DiT last.
        first, second = prediction.double()[:, : x.shape[1]].chunk(2)
        without, with_condition = (first, second) if kind == "text" else (second, first)
        guided = without + scale * (with_condition - without)
        wanted[float(t[0])] = float(guided.square().mean())
        clock.append(float(t[0]))

    full.generate(2, step_callback=observe, conditioning=given, **run)
    rows = Clock(torch.tensor(clock), None, "timestep")
    (sums,) = compare_predictions(full, full, rows, Trajectories(range(2), run, given), [lambda: None])
    count, _, _, ee, qq, eq = (part.sum(1) for part in sums.by_channel())
    found = (ee / count).tolist()
    assert found == pytest.approx([wanted[float(t)] for t in rows.timesteps], rel=1e-5)
    # Full precision against itself: the second run saw the same samples, conditions and noise.
    assert torch.equal(ee, qq) and torch.equal(ee, eq) and not quantization_noise(sums).k.any()


@pytest.mark.parametrize("kind", ["text", "dit", "labelled"])
def test_conditional_models_the_whole_way(kind, tmp_path):
    models = {"text": lambda: text_pipeline(tmp_path), "dit": dit_pipeline, "labelled": labelled_denoiser}
    given = {
        "text": {"prompt": ["a b", "c", "d", "h"], "guidance_scale": 3.0},
        "dit": {"class_labels": [1, 2, 3, 999], "guidance_scale": 3.0},
        "labelled": {"class_labels": torch.tensor([0, 1, 2, 4])},
    }[kind]
    calibration = {"samples": 4, "steps": 3}
    wanted = recipe(correction={"samples": 3, "step_bits": (4, 8)}, calibration=calibration)
    made = tempoquant.quantize(models[kind](), wanted, conditioning=given, out=tmp_path / "out")
    again = tempoquant.load(tmp_path / "out", denoiser=labelled_denoiser() if kind == "labelled" else None)
    run = {"steps": 3, "seed": 7, "conditioning": given}
    images = made.generate(4, **run)
    assert torch.isfinite(images).all() and torch.equal(images, again.generate(4, **run))
    plain = made.model.with_scheduler(models[kind]().scheduler if kind != "labelled" else labelled_denoiser().scheduler)
    assert not torch.equal(images, plain.generate(4, **run))
    assert made.facts["correction"]["samples"] == 3


def test_what_is_measured_on_calibrated_nothing(monkeypatch):
    seen = []

    def spy(full, quantized, clock, trajectories, variants, progress):
        seen.append(list(trajectories.indices))
        return compare_predictions(full, quantized, clock, trajectories, variants, progress)

    monkeypatch.setattr("tempoquant.stages.correction.compare_predictions", spy)
    tempoquant.quantize(bare_denoiser(), recipe(correction={"samples": 3}))
    tempoquant.quantize(bare_denoiser(), recipe(correction={"samples": 30}))
    assert seen == [[4, 5, 6], [4, 5, 6, 7]]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for out in "ab":
        torch.rand(3)
        tempoquant.quantize(bare_denoiser(), recipe(correction={"step_bits": (4, 8)}), out=tmp_path / out)
    first, second = ((tmp_path / out / "denoiser" / WEIGHTS).read_bytes() for out in "ab")
    assert first == second


def test_variants_are_measured_apart():
    target, order = BareModel(bare_denoiser()), []
    run = {"steps": 4, "seed": 0}
    clock = Clock(torch.tensor([0.0, 25.0, 50.0, 75.0]), 1, "timestep")
    other = BareModel(bare_denoiser(seed=1))
    last = other.denoiser.module.last.weight

    def scaled(factor):
        def change():
            order.append(factor)
            with torch.no_grad():
                last.copy_(factor * original)

        return change

    original = last.detach().clone()
    variants = [scaled(1.0), scaled(3.0)]
    first, second = compare_predictions(target, other, clock, Trajectories(range(4), run, batch_size=3), variants)
    assert order == [1.0, 3.0, 1.0, 3.0]
    assert torch.equal(first.by_channel()[3], second.by_channel()[3])
    assert (first.by_channel()[4] < second.by_channel()[4]).all()
