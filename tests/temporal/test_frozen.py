"""A schedule frozen into a table: the same features, fewer numbers, and no other steps."""

import copy

import pytest
import torch
from diffusers import DiffusionPipeline

import tempoquant
from conditional_models import dit_pipeline, text_pipeline
from tempoquant.errors import InputError
from tempoquant.temporal.replacements import CachedLayer, DeadLayer, replacements
from tiny import bare_denoiser, small_recipe, unet_pipeline

CLASSES = {"class_labels": [1, 2], "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def made():
    return tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))


@pytest.fixture
def frozen(made):
    other = copy.deepcopy(made)
    other.freeze_schedule()
    return other


def temporal_outputs(made, t, batch):
    """What every layer of the block puts out in one call."""
    seen = {}
    names = (*made.blueprint.shared, *made.blueprint.projections)
    layers = {name: made.denoiser.module.get_submodule(name) for name in names}
    hooks = [la.register_forward_hook(lambda m, a, out, n=n: seen.update({n: out})) for n, la in layers.items()]
    with torch.no_grad():
        made.denoiser(torch.randn(batch, 1, 8, 8), t)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_table_holds_what_the_layers_put_out(made, frozen, batch):
    for row, t in enumerate(made.clock.timesteps.tolist()):
        own = temporal_outputs(made, int(t), batch)
        for name in made.blueprint.projections:
            stored = replacements(frozen.denoiser.module)[name].table.values[row]
            assert torch.equal(own[name].half(), stored.expand(batch, -1)), name


def test_weights_leave_the_folder(made, frozen, tmp_path):
    before, after = (m.save_pretrained(tmp_path / n) for m, n in ((made, "before"), (frozen, "after")))
    parts = replacements(frozen.denoiser.module)
    assert all(isinstance(parts[name], CachedLayer) for name in made.blueprint.projections)
    assert all(isinstance(parts[name], DeadLayer) for name in made.blueprint.shared)
    layers = (made.denoiser.module.get_submodule(name) for name in parts)
    assert frozen.facts["frozen_parameters"] == sum(p.numel() for layer in layers for p in layer.parameters())
    assert after.weights < before.weights and after.full == before.full


def test_a_saved_frozen_folder_draws_the_same_and_refuses_another_schedule(frozen, tmp_path):
    frozen.save_pretrained(tmp_path / "out")
    wanted = frozen.generate(2, steps=4, seed=1)
    again = tempoquant.load(tmp_path / "out")
    assert torch.equal(again.generate(2, steps=4, seed=1), wanted)
    for run in (again, frozen):
        with pytest.raises(InputError, match=r"time step 66 is none of the 4 that this denoiser is frozen to"):
            run.generate(1, steps=3, seed=1)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out")
    pipe(num_inference_steps=4)
    with pytest.raises(InputError, match="draw with its own schedule"):
        pipe(num_inference_steps=3)
    pipe.save_pretrained(tmp_path / "again")
    with pytest.raises(InputError, match="draw with its own schedule"):
        DiffusionPipeline.from_pretrained(tmp_path / "again")(num_inference_steps=3)


def test_mixed_steps_are_looked_up_item_by_item(frozen):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    frozen.use_engine("simulation")
    with torch.no_grad():
        mixed = frozen.denoiser(x, torch.tensor([75, 25]))
        alone = torch.cat([frozen.denoiser(x[:1], 75), frozen.denoiser(x[1:], 25)])
        swapped = torch.cat([frozen.denoiser(x[:1], 25), frozen.denoiser(x[1:], 75)])
    assert (mixed - alone).norm() < 0.05 * (mixed - swapped).norm()


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_bare_denoisers_freeze_when_they_are_quantized(storage):
    made = tempoquant.quantize(bare_denoiser(), small_recipe("rtn"), freeze_schedule=storage == "float16")
    if storage == "int8":
        made.freeze_schedule("int8")
    assert made.generate(1, steps=4, seed=0).isfinite().all()
    assert {
        part.table.storage for part in replacements(made.denoiser.module).values() if isinstance(part, CachedLayer)
    } == {storage}


def test_a_prompt_does_not_reach_the_table_and_a_class_does(tmp_path):
    prompts = {"prompt": ["a b", "c"], "guidance_scale": 2.0}
    made = tempoquant.quantize(text_pipeline(tmp_path), small_recipe("rtn"), conditioning=prompts, freeze_schedule=True)
    assert made.facts["frozen_parameters"] > 0
    assert made.clock.conditions is None
    with pytest.raises(InputError, match="follow class_labels too"):
        tempoquant.quantize(dit_pipeline(), small_recipe("rtn"), conditioning=CLASSES, freeze_schedule=True)
    made = tempoquant.quantize(dit_pipeline(), small_recipe("rtn"), conditioning=CLASSES)
    with pytest.raises(InputError, match=r"follows more than the time step \(class_labels\): give the conditions"):
        made.freeze_schedule()
    assert not made.clock.frozen
