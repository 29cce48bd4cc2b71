"""What is quantized, loaded and drawn does not follow torch's default dtype."""

from threading import Barrier, Thread

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import tempoquant
from tempoquant.pipelines import resolve
from tempoquant.precision import in_float32
from tiny import bare_denoiser, small_recipe, unet_pipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
RUN = {"steps": 3, "seed": 0}


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    plain = small_recipe("rtn")
    stepwise = plain.model_copy(update={"activations": plain.activations.model_copy(update={"steps": "per-step"})})
    tempoquant.quantize(unet_pipeline(), stepwise, out=root / "stepwise")
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn", correction={"samples": 2}), out=root / "corrected")
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn", temporal={"cache": "int8"}), out=root / "cached")
    return root


@pytest.mark.parametrize("name", ["stepwise", "corrected", "cached"])
@pytest.mark.parametrize("engine", ["auto", "simulation"])
def test_loaded_under_doubles_the_pictures_are_the_same(saved, name, engine, request):
    wanted = tempoquant.load(saved / name, engine=engine).generate(2, **RUN)
    request.getfixturevalue("doubles")
    drawn = tempoquant.load(saved / name, engine=engine).generate(2, **RUN)
    assert torch.get_default_dtype() == torch.float64
    assert drawn.dtype == torch.float32 and torch.equal(drawn, wanted)


def test_plain_diffusers_loads_the_same_under_doubles(saved, request):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = DiffusionPipeline.from_pretrained(saved / "stepwise").unet(x, 50).sample
    request.getfixturevalue("doubles")
    assert torch.equal(DiffusionPipeline.from_pretrained(saved / "stepwise").unet(x, 50).sample, wanted)


def test_quantized_under_doubles_the_integers_are_the_same(saved, tmp_path, request):
    pipe, recipe = unet_pipeline(), tempoquant.load(saved / "stepwise").recipe
    request.getfixturevalue("doubles")
    tempoquant.quantize(pipe, recipe, out=tmp_path / "out")
    ours, theirs = load_file(tmp_path / "out" / WEIGHTS), load_file(saved / "stepwise" / WEIGHTS)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("make", [unet_pipeline, bare_denoiser])
def test_the_reference_is_the_same_under_doubles(make, request):
    model = make()
    wanted = resolve(model).generate(2, **RUN)
    request.getfixturevalue("doubles")
    assert torch.equal(resolve(model).generate(2, **RUN), wanted)


def test_the_last_thread_puts_the_default_back(doubles):
    inside, first_left = Barrier(2), Barrier(2)
    seen = []

    def first():
        with in_float32:
            inside.wait()
        first_left.wait()

    def second():
        with in_float32:
            inside.wait()
            first_left.wait()
            seen.append(torch.get_default_dtype())

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [torch.float32] and torch.get_default_dtype() == torch.float64
