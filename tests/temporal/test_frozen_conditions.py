"""A schedule and a few conditions frozen into tables: the same features, no other conditions, and what it saves."""

import copy
import dataclasses
import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

import tempoquant
from conditional_models import dit_pipeline, large_text_pipeline
from tempoquant.errors import FormatError, InputError
from tempoquant.graph import Probe, read_denoiser
from tempoquant.intervals import Clock, Conditions
from tempoquant.temporal.frozen_schedule import freeze_schedule
from tempoquant.temporal.replacements import CachedLayer, DeadLayer, replacements
from tiny import small_recipe
from transformer_models import dit, flux, made, pixart, qwen_image, sd3

STEPS = (10, 500, 900)


def frozen_case(case):
    """The case, its float module before, and what freezing it says."""
    given = case.conditions
    probe = Probe(
        case.module,
        case.run,
        case.sample_shape,
        STEPS,
        lambda batch, variant: {n: v.repeat_interleave(batch, 0) for n, v in given[variant].items()},
    )
    graph = read_denoiser(probe)
    before = copy.deepcopy(case.module)
    clock = Clock(torch.tensor(STEPS), graph.time_argument.position, graph.time_argument.name)
    x = torch.randn(1, *case.sample_shape, generator=torch.Generator().manual_seed(0))

    def run(t, row):
        with torch.no_grad():
            return case.run(x, t, **row)

    clock.attach(case.module)
    block = case.module, graph.shared, graph.projections, clock
    removed = freeze_schedule(*block, run, "float16", case.conditions, closed=True)
    return before, graph, clock, removed


def watching(module, names):
    """What these layers put out from now on, by name, and the hooks that note it."""
    seen = {}
    layers = {name: module.get_submodule(name) for name in names}
    hooks = [la.register_forward_hook(lambda m, a, out, n=n: seen.update({n: out})) for n, la in layers.items()]
    return seen, hooks


def cached(module):
    return {name: part for name, part in replacements(module).items() if isinstance(part, CachedLayer)}


@pytest.mark.parametrize("case", [dit, sd3, flux, qwen_image, pixart])
def test_what_leaves_is_what_counting_by_hand_gives(case):
    case = made(case)
    total = sum(parameter.numel() for parameter in case.module.parameters())
    _, graph, clock, removed = frozen_case(case)
    assert removed == case.modulation
    assert sum(parameter.numel() for parameter in case.module.parameters()) == total - case.modulation
    assert (tuple(clock.conditions.values) if clock.conditions else ()) == case.follows
    # What of a prompt is not one vector, such as SD3's first text projections, stays: its table would be larger.
    assert {name for name in graph.projections if "attn" not in name} <= {*cached(case.module)}
    assert not any("attn" in name for name in replacements(case.module))


@pytest.mark.parametrize("case", [dit, sd3, flux, qwen_image, pixart])
def test_features_are_the_modules_own_at_every_step_and_condition(case):
    case = made(case)
    before, *_ = frozen_case(case)
    x = torch.randn(2, *case.sample_shape)
    together = {name: torch.cat([row[name] for row in case.conditions]) for name in case.conditions[0]}
    for t in STEPS:
        seen, handles = watching(before, cached(case.module))
        with torch.no_grad():
            wanted = dataclasses.replace(case, module=before).run(x, torch.tensor([t, t]), **together)
            found = case.run(x, torch.tensor([t, t]), **together)
        for handle in handles:
            handle.remove()
        for name, part in cached(case.module).items():
            # Stored as float16, and of float layers at another batch size.
            torch.testing.assert_close(part.table(2), seen[name], rtol=1e-3, atol=1e-3)
        assert (found - wanted).norm() < 3e-3 * wanted.norm()


def test_items_of_a_batch_have_their_own_step_and_condition():
    case = made(dit)
    frozen_case(case)
    x = torch.randn(3, *case.sample_shape)
    steps, labels = torch.tensor([900, 10, 500]), torch.tensor([20, 3, 3])
    with torch.no_grad():
        together = case.run(x, steps, class_labels=labels)
        alone = [case.run(x[i : i + 1], steps[i : i + 1], class_labels=labels[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_conditions_are_told_apart_by_value():
    pooled = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    known = Conditions({"pooled": pooled, "size": torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 2.0]])})
    known.set({"pooled": pooled[[2, 0]].bfloat16(), "size": torch.tensor([[4.0, 2.0], [1.0, 2.0]])})
    assert known.index.tolist() == [2, 0]
    known.set({"pooled": pooled[[1, 1]], "size": torch.tensor([[1.0, 2.0]])})
    assert known.index.tolist() == 1
    with pytest.raises(InputError, match="pooled of item 1 is none of the 3 conditions"):
        known.set({"pooled": torch.stack([pooled[0], -pooled[0]]), "size": torch.tensor([[1.0, 2.0]])})
    with pytest.raises(InputError, match="item 0 is none of the 3 conditions"):
        known.set({"pooled": pooled[:1], "size": torch.tensor([[4.0, 2.0]])})
    with pytest.raises(InputError, match="without size"):
        known.set({"pooled": pooled})


CLASSES = {"class_labels": [1, 7, 207], "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def labelled():
    return tempoquant.quantize(dit_pipeline(), small_recipe("rtn"), conditioning={**CLASSES, "class_labels": [1, 2]})


@pytest.fixture(scope="module")
def frozen(labelled):
    other = copy.deepcopy(labelled)
    other.freeze_schedule(conditioning=CLASSES)
    return other


def test_the_label_of_no_class_comes_along_and_others_are_refused(labelled, frozen):
    assert frozen.clock.conditions.values["class_labels"].tolist() == [1, 7, 207, 1000]
    options = {"steps": 4, "seed": 0, "conditioning": {**CLASSES, "class_labels": [207, 1]}}
    assert (frozen.generate(2, **options) - labelled.generate(2, **options)).abs().max() < 0.05
    with pytest.raises(InputError, match=r"class_labels 5 is none of the 4 conditions .* frozen to: 1, 7, 207, 1000"):
        frozen.generate(1, steps=4, seed=0, conditioning={"class_labels": [5]})
    with pytest.raises(InputError, match="draw with its own schedule"):
        frozen.generate(1, steps=3, seed=0, conditioning={"class_labels": [1]})


def test_integer_features_are_the_layers_bits(labelled, frozen):
    t, names = labelled.clock.timesteps, labelled.blueprint.projections
    labels = torch.tensor([207, 1000, 7])
    for step in t.tolist():
        seen, hooks = watching(labelled.denoiser.module, names)
        for made_ in (labelled, frozen):
            made_.denoiser(torch.zeros(3, 4, 16, 16), int(step), class_labels=labels)
        for hook in hooks:
            hook.remove()
        for name in names:
            assert torch.equal(replacements(frozen.denoiser.module)[name].table(3), seen[name].half().float())


def test_a_saved_folder_draws_the_same_without_the_weights(labelled, frozen, tmp_path):
    before = labelled.save_pretrained(tmp_path / "before")
    after = frozen.save_pretrained(tmp_path / "after")
    assert after.weights < before.weights and after.full == before.full
    options = {"steps": 4, "seed": 0, "conditioning": CLASSES}
    wanted = frozen.generate(3, **options)
    assert torch.equal(tempoquant.load(tmp_path / "after").generate(3, **options), wanted)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "after")
    pipe([7], num_inference_steps=4)
    with pytest.raises(InputError, match="class_labels 8 is none of the 4 conditions"):
        pipe([8], num_inference_steps=4)
    pipe.save_pretrained(tmp_path / "again")
    assert torch.equal(tempoquant.load(tmp_path / "again").generate(3, **options), wanted)


@pytest.mark.parametrize("damage", ["missing", "short", "text"])
def test_damaged_conditions_are_refused(frozen, tmp_path, damage):
    frozen.save_pretrained(tmp_path / "out")
    component = tmp_path / "out" / "transformer"
    path = component / "diffusion_pytorch_model.safetensors"
    tensors, name = load_file(path), "tempoquant.condition.class_labels"
    if damage == "text":
        config = json.loads((component / "config.json").read_text())
        config["quantization_config"]["conditions"] = 3
        (component / "config.json").write_text(json.dumps(config))
    elif damage == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:2].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    (tmp_path / "out" / "tempoquant.json").unlink()
    with pytest.raises(FormatError):
        tempoquant.load(tmp_path / "out")


def test_pooled_prompts_are_known_by_their_embedding(tmp_path):
    prompts = {"prompt": ["a b", "c"], "guidance_scale": 2.0}
    made_ = tempoquant.quantize(large_text_pipeline(tmp_path), small_recipe("rtn"), conditioning=prompts)
    with pytest.raises(
        InputError, match=r"\(added_cond_kwargs\.text_embeds, .*give the conditions that are to be known"
    ):
        made_.freeze_schedule()
    other = copy.deepcopy(made_)
    other.freeze_schedule("int8", conditioning={**prompts, "prompt": ["a b", "c", "d e"]})
    assert list(other.clock.conditions.values) == ["added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids"]
    parts = replacements(other.denoiser.module)
    assert isinstance(parts["add_embedding.linear_2"], DeadLayer)
    other.save_pretrained(tmp_path / "out")
    again = tempoquant.load(tmp_path / "out")
    options = {"steps": 4, "seed": 0, "conditioning": {**prompts, "prompt": ["d e", "a b"]}}
    assert (again.generate(2, **options) - made_.generate(2, **options)).abs().max() < 0.05
    with pytest.raises(InputError, match=r"text_embeds of item \d is none of the 4 conditions"):
        again.generate(2, **{**options, "conditioning": {**prompts, "prompt": ["d e", "h h"]}})
