"""Cached temporal features through the whole job: what is stored, what runs, what is chosen, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import tempoquant
from conditional_models import dit_pipeline, labelled_denoiser, text_pipeline
from tempoquant.errors import FormatError, InputError
from tempoquant.evaluation import compare, cosine, reference
from tempoquant.layers import QuantizedLayer
from tempoquant.pipelines import resolve
from tempoquant.recipe import Recipe
from tempoquant.sampling.denoiser import Denoiser
from tempoquant.temporal.feature_cache import cache_is_nearer
from tempoquant.temporal.replacements import CachedLayer, DeadLayer, replacements
from tiny import Bare, bare_denoiser, small_recipe, unet_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"
TIME_MLP = ["time_embedding.linear_1", "time_embedding.linear_2"]
STEPS = [0, 25, 50, 75]


def features_of(module: nn.Module, names, steps=STEPS) -> dict[str, Tensor]:
    """What the named layers put out for a batch of these time steps."""
    found: dict[str, Tensor] = {}

    def hook(name: str):
        return lambda layer, args, output: found.__setitem__(name, output.clone())

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    with torch.no_grad():
        module(torch.randn(len(steps), 1, 8, 8), torch.tensor(steps))
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture(scope="module")
def made():
    """TFMQ-DM and every way to cache, by name, of one pipeline."""
    quantized = {"tfmq-cache": {}, "tfmq-cache-int8": {}, "tfmq-select": {}, "tfmq-dm": {}}
    quantized["own"] = {"temporal": {"cache": "float16", "cache_features": "quantized"}}
    return {n: tempoquant.quantize(unet_pipeline(), small_recipe("tfmq-dm" if n == "own" else n, **changes))
            for n, changes in quantized.items()}  # fmt: skip


def test_float16_features_are_those_of_full_precision_rounded(made):
    quantized = made["tfmq-cache"]
    names = quantized.blueprint.projections
    assert len(names) == 8 and quantized.clock.timesteps.tolist() == STEPS
    full, found = features_of(unet_pipeline().unet, names), features_of(quantized.denoiser.module, names)
    for name in names:
        assert torch.equal(found[name], full[name].half().float()), name


def test_int8_features_are_within_half_a_step(made):
    quantized = made["tfmq-cache-int8"]
    names = quantized.blueprint.projections
    full, found = features_of(unet_pipeline().unet, names), features_of(quantized.denoiser.module, names)
    for name in names:
        low, high = full[name].amin(1, keepdim=True).clamp(max=0), full[name].amax(1, keepdim=True).clamp(min=0)
        error = (found[name] - full[name]).abs()
        assert (error <= 0.5001 * (high - low) / 255).all() and error.max() > 0, name


def test_its_own_features_are_those_that_the_quantized_layers_compute(made):
    names = made["own"].blueprint.projections
    computed = features_of(made["tfmq-dm"].denoiser.module, names)
    found = features_of(made["own"].denoiser.module, names)
    full = features_of(unet_pipeline().unet, names)
    assert all(torch.equal(found[name], computed[name].half().float()) for name in names)
    assert not any(torch.equal(found[name], full[name].half().float()) for name in names)


def test_the_temporal_layers_are_gone(made):
    for name in ("tfmq-cache", "tfmq-cache-int8", "own"):
        module, blueprint = made[name].denoiser.module, made[name].blueprint
        found = replacements(module)
        assert {n for n, part in found.items() if isinstance(part, CachedLayer)} == {*blueprint.projections}
        assert [n for n, part in found.items() if isinstance(part, DeadLayer)] == TIME_MLP
        storage = dict.fromkeys(blueprint.projections, "int8" if "int8" in name else "float16")
        assert made[name].facts["cached_layers"] == storage | dict.fromkeys(TIME_MLP, "never read")
        assert not any(n.startswith((*blueprint.projections, *TIME_MLP)) for n, _ in module.named_parameters())
        others = [n for n, part in module.named_modules() if isinstance(part, QuantizedLayer)]
        assert len(others) == 41 and all(module.get_submodule(n).weight.dtype == torch.int8 for n in others)


@pytest.mark.parametrize("name", ["tfmq-cache", "tfmq-cache-int8"])
def test_mixed_and_unseen_time_steps(made, name):
    denoiser = made[name].denoiser
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    steps = torch.tensor([75, 0, 50, 25])
    with torch.no_grad():
        mixed = denoiser(x, steps)
        for i, t in enumerate(steps):
            assert torch.equal(mixed[i], denoiser(x, t.expand(4))[i])
        # 62 is nearer to 50, 63 to 75; 99 has no row above it.
        assert torch.equal(denoiser(x, torch.tensor([99, 12, 62, 37])), mixed)
        assert not torch.equal(denoiser(x, torch.tensor([99, 12, 63, 37]))[2], mixed[2])


def test_temporal_cosine_is_bounded_by_float16_alone(made):
    pipe, names = unet_pipeline(), made["tfmq-cache"].blueprint.projections
    # Structural similarity needs sides of 11.
    pipe.unet.register_to_config(sample_size=16)
    truth = reference(resolve(pipe), projections=names, samples=2, noise_samples=2, steps=4, seed=0)
    methods = ("tfmq-cache", "tfmq-cache-int8", "tfmq-dm")
    found = {name: compare(truth, tempoquant.quantize(pipe, small_recipe(name)).model) for name in methods}
    rounded = [cosine(truth.features[n], truth.features[n].half().float()) for n in names]
    bound = float(torch.cat(rounded).mean())
    assert 1 - found["tfmq-cache"].cosine_mean == pytest.approx(1 - bound, rel=1e-2)
    assert found["tfmq-cache"].cosine_mean > found["tfmq-cache-int8"].cosine_mean > found["tfmq-dm"].cosine_mean
    assert found["tfmq-cache"].temporal_mismatch == 0


def test_the_nearer_one_is_chosen():
    full = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    # Squared errors over all rows: 0.04 + 0.01, and 0.04.
    two, one = full + torch.tensor([[0.2, 0.0], [0.0, 0.1]]), full + torch.tensor([[0.0, 0.2], [0.0, 0.0]])
    assert cache_is_nearer(full, quantized=two, cached=one) and not cache_is_nearer(full, quantized=one, cached=two)
    # An error at one step counts, however good the others are.
    assert not cache_is_nearer(full, quantized=full + 0.1, cached=full + torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert cache_is_nearer(full, quantized=full, cached=full)


def test_selection_takes_the_cache_where_it_is_nearer_and_keeps_the_layer_elsewhere(monkeypatch):
    kept = "mid_block.resnets.0.time_emb_proj"
    seen = []

    def nearer(full: Tensor, own: Tensor, cached: Tensor) -> bool:
        seen.append((full, own, cached))
        return len(seen) != 3

    monkeypatch.setattr("tempoquant.temporal.feature_cache.cache_is_nearer", nearer)
    made = tempoquant.quantize(unet_pipeline(), small_recipe("tfmq-select"))
    found, names = replacements(made.denoiser.module), made.blueprint.projections
    assert names[2] == kept and {*found} == {*names} - {kept}
    assert all(isinstance(part, CachedLayer) for part in found.values())
    # h computes for the layer that stays, and that one with its calibrated tables.
    layers = [made.denoiser.module.get_submodule(name) for name in (*TIME_MLP, kept)]
    assert all(layer.weight_bits == 4 and len(layer.input_interval.scale) == 4 for layer in layers)
    full, own, cached = seen[2]
    assert torch.equal(features_of(made.denoiser.module, [kept])[kept], own) and not torch.equal(cached, own)
    assert torch.equal(full, features_of(unet_pipeline().unet, [kept])[kept])


def test_selection_by_its_own_error_is_never_worse_than_either(made):
    names = made["tfmq-dm"].blueprint.projections
    full = features_of(unet_pipeline().unet, names)
    errors = {}
    for method in ("tfmq-select", "tfmq-dm", "tfmq-cache-int8"):
        found = features_of(made[method].denoiser.module, names)
        errors[method] = {n: float((found[n].double() - full[n].double()).square().sum()) for n in names}
    for name in names:
        assert errors["tfmq-select"][name] == min(errors["tfmq-dm"][name], errors["tfmq-cache-int8"][name])


class Direct(Bare):
    """Adds h to the image itself, beside g(h)."""

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        angle = timestep.float()[:, None] / torch.tensor([1.0, 100.0])
        h = self.time_in(torch.cat([angle.sin(), angle.cos()], 1))
        emb = self.time_out(nn.functional.silu(h))
        return self.last(nn.functional.silu(self.first(sample) + (h + emb)[:, :, None, None]))


def test_shared_layers_that_the_image_reads_are_cached_too(tmp_path):
    torch.manual_seed(0)
    denoiser = Denoiser(Direct().eval(), bare_denoiser().scheduler, (1, 8, 8))
    made = tempoquant.quantize(denoiser, small_recipe("tfmq-cache"), out=tmp_path / "out")
    assert {n: type(part) for n, part in replacements(made.denoiser.module).items()} == {
        "time_in": CachedLayer, "time_out": CachedLayer}  # fmt: skip
    again = tempoquant.load(tmp_path / "out", denoiser=Denoiser(Direct(), denoiser.scheduler, (1, 8, 8)))
    assert torch.equal(made.generate(2, steps=4, seed=0), again.generate(2, steps=4, seed=0))


METHODS = ["tfmq-cache", "tfmq-cache-int8", "tfmq-select"]


@pytest.mark.parametrize("kind", ["unet", "denoiser"])
@pytest.mark.parametrize("method", METHODS)
def test_images_are_the_same_after_loading(kind, method, tmp_path):
    model = unet_pipeline() if kind == "unet" else bare_denoiser()
    made = tempoquant.quantize(model, small_recipe(method), out=tmp_path / "out")
    again = tempoquant.load(tmp_path / "out", denoiser=bare_denoiser(seed=9) if kind == "denoiser" else None)
    run = {"steps": 4, "seed": 3}
    assert torch.equal(made.generate(2, **run), again.generate(2, **run))
    again.save_pretrained(tmp_path / "copy")
    for name in (WEIGHTS, "config.json"):
        assert (tmp_path / "copy" / kind / name).read_bytes() == (tmp_path / "out" / kind / name).read_bytes()


@pytest.mark.parametrize("method", ["tfmq-cache", "tfmq-cache-int8"])
def test_the_folder_holds_features_in_the_place_of_weights(method, tmp_path):
    pipe = unet_pipeline()
    size = tempoquant.quantize(pipe, small_recipe(method), out=tmp_path / "out").facts["size"]
    whole = tempoquant.quantize(pipe, small_recipe("tfmq-dm"), out=tmp_path / "whole").facts["size"]
    assert size["full"] == whole["full"] == sum(4 * p.numel() for p in pipe.unet.parameters())
    stored = load_file(tmp_path / "out" / "unet" / WEIGHTS)
    assert not any("time_e" in name for name in stored)
    # Eight resnets of these widths, four rows; 8 bits come with a float32 scale and a zero point a row.
    widths = (8, 16, 16, 16, 16, 16, 8, 8)
    assert stored["tempoquant.features"].numel() == 4 * sum(widths)
    assert size["features"] == (8 * sum(widths) if method == "tfmq-cache" else 4 * sum(widths) + 8 * 4 * 5)
    assert size["total"] < whole["total"] and size["total"] - size["features"] < whole["total"] - 500
    assert whole["features"] == 0


DAMAGE = {
    "a longer feature": ("time_out", {"shape": [99]}, r"tempoquant\.features' is missing or too short"),
    "a shorter feature": ("time_out", {"shape": [2]}, r"tempoquant\.features' is longer"),
    "another storage": ("time_out", {"storage": "int8"}, r"features of 'time_out' are torch.float16, not int8"),
    "no such storage": ("time_out", {"storage": "float99"}, "float99"),
    "no such layer": ("nobody", {"storage": None, "shape": [1], "parameters": 1}, "nobody"),
}


@pytest.mark.parametrize(("layer", "change", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_folder_whose_features_do_not_fit_is_refused(layer, change, said, tmp_path):
    tempoquant.quantize(bare_denoiser(), small_recipe("tfmq-cache"), out=tmp_path / "out")
    (tmp_path / "out" / "tempoquant.json").unlink()
    path = Path(tmp_path / "out" / "denoiser" / "config.json")
    config = json.loads(path.read_text())
    config["quantization_config"]["stand_ins"].setdefault(layer, {}).update(change)
    path.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="unverified"), pytest.raises(FormatError, match=said) as caught:
        tempoquant.load(tmp_path / "out", denoiser=bare_denoiser())
    assert "\n" not in str(caught.value)


def test_features_that_follow_a_condition_are_refused_before_anything_is_recorded(tmp_path):
    for model, given in (
        (labelled_denoiser(), {"class_labels": torch.tensor([0, 1])}),
        (dit_pipeline(), {"class_labels": [1, 2]}),
    ):
        with pytest.raises(InputError, match=r"temporal.cache = 'float16'.*the condition \('.*' sees both\)") as caught:
            tempoquant.quantize(model, small_recipe("tfmq-cache"), conditioning=given, recording=tmp_path / "r")
        assert "\n" not in str(caught.value) and not (tmp_path / "r").exists()


def test_prompts_that_leave_the_features_alone_are_served(tmp_path):
    made = tempoquant.quantize(
        text_pipeline(tmp_path), small_recipe("tfmq-cache"), conditioning={"prompt": ["a b", "c"]}, out=tmp_path / "out"
    )
    run = {"steps": 4, "seed": 0, "conditioning": {"prompt": ["d", "e f"], "guidance_scale": 3.0}}
    assert torch.equal(made.generate(2, **run), tempoquant.load(tmp_path / "out").generate(2, **run))


def test_recipes_of_before_have_no_cache():
    data = small_recipe().model_dump()
    for key in ("cache", "cache_choice", "cache_features"):
        del data["temporal"][key]
    assert Recipe.parse(data).temporal.cache is None
