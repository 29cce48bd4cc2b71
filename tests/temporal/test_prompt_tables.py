"""Temporal features computed once a prompt: the same bits, fewer layer calls, nothing left behind."""

import pytest
import torch
from diffusers import DiffusionPipeline

import tempoquant
from conditional_models import dit_pipeline, large_text_pipeline
from tempoquant.errors import InputError
from tempoquant.temporal.prompt_tables import PromptTables
from tiny import bare_denoiser, small_recipe, unet_pipeline

CLASSES = {"class_labels": [1, 7, 1, 7, 1, 7, 1], "guidance_scale": 2.0}
PROMPTS = {"prompt": ["a b", "c"] * 3 + ["d"], "guidance_scale": 2.0}


def quantized(name, folder):
    if name == "unet":
        return tempoquant.quantize(unet_pipeline(), small_recipe()), {}
    if name == "bare":
        return tempoquant.quantize(bare_denoiser(), small_recipe("rtn")), {}
    pipe, given = (dit_pipeline(), CLASSES) if name == "dit" else (large_text_pipeline(folder), PROMPTS)
    few = {key: value[:2] if isinstance(value, list) else value for key, value in given.items()}
    return tempoquant.quantize(pipe, small_recipe("rtn"), conditioning=few), {"conditioning": given}


@pytest.mark.parametrize("name", ["unet", "bare", "dit", "sdxl"])
@pytest.mark.parametrize("engine", ["simulation", "auto"])
def test_pictures_are_the_same_bits_and_layers_run_once_a_prompt(name, engine, tmp_path):
    made, given = quantized(name, tmp_path)
    made.use_engine(engine)
    last = made.denoiser.module.get_submodule(made.blueprint.projections[-1])
    layer, kernel, calls = last, last.kernel, []
    layer.kernel = lambda layer, x: calls.append(x.shape[0]) or kernel(layer, x)
    options = {"steps": 4, "seed": 3, "batch_size": 2, **given}
    plain = made.model.generate(7, **options)
    assert len(calls) == 4 * 4
    calls.clear()
    assert torch.equal(made.generate(7, **options), plain)
    # Three batches of the same two prompts, and a smaller one.
    assert len(calls) == 4 * 2
    assert "forward" not in vars(layer)


def test_steps_of_no_table_and_mixed_ones_are_computed(tmp_path):
    made, _ = quantized("dit", tmp_path)
    module, names = made.denoiser.module, (*made.blueprint.shared, *made.blueprint.projections)
    x, labels = torch.randn(2, 4, 16, 16), torch.tensor([3, 1000])
    with torch.no_grad():
        calls = [(torch.tensor([75, 25]), labels), (torch.tensor([25, 75]), labels), (33, labels), (75, labels.flip(0))]
        plain = [made.denoiser(x, t, class_labels=y) for t, y in calls]
        with PromptTables(module, names, made.clock.name):
            for _ in range(2):
                for (t, y), wanted in zip(calls, plain, strict=True):
                    assert torch.equal(made.denoiser(x, t, class_labels=y), wanted)


def test_memory_is_bounded_by_the_layers_own(tmp_path):
    made, _ = quantized("dit", tmp_path)
    module, names = made.denoiser.module, (*made.blueprint.shared, *made.blueprint.projections)
    x = torch.randn(1, 4, 16, 16)
    with torch.no_grad(), PromptTables(module, names, made.clock.name) as tables:
        for label in range(60):
            for t in (25, 75):
                made.denoiser(x, t, class_labels=torch.tensor([label]))
        kept = [part for entry in tables.entries for features in entry.steps.values() for part in features.values()]
        assert 0 < sum(part.size for part in kept) == tables.size <= tables.limit
        # The newest prompt is among what is kept.
        assert tables.entries[-1].tensors[0].tolist() == [59] and tables.entries[-1].steps
    assert not tables.entries


def test_plain_pipelines_can_ask_for_it(tmp_path):
    made, _ = quantized("dit", tmp_path)
    made.save_pretrained(tmp_path / "out")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out")

    def draw(seed):
        noise = torch.Generator().manual_seed(seed)
        return pipe([7], num_inference_steps=4, generator=noise, output_type="np").images

    plain = [draw(seed) for seed in range(3)]
    with tempoquant.prompt_tables(pipe) as tables:
        assert all((draw(seed) == wanted).all() for seed, wanted in enumerate(plain))
        assert len(tables.entries) == 1
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
        assert (draw(1) == plain[1]).all()
    with tempoquant.prompt_tables(pipe):
        assert (draw(2) == plain[2]).all()
    with pytest.raises(InputError, match="is not quantized by tempoquant"):
        tempoquant.prompt_tables(dit_pipeline())
