"""The methods that learn activation steps or choose calibration steps: what each does that the others do not."""

import pytest
import torch

import tempoquant
from conditional_models import dit_pipeline, labelled_denoiser
from tempoquant.checkpoint.blueprint import interval_providers, quantized_layers, quantized_products
from tempoquant.intervals import ConstantInterval, GroupInterval, TableInterval
from tempoquant.methods import method_recipe
from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.recipe import Recipe
from tempoquant.reconstruction.effort import EFFORTS, Effort, StepEffort
from tempoquant.recording.store import Store
from tiny import bare_denoiser, small_recipe, unet_pipeline

STEPS = StepEffort(iterations=6, batch=4, lr=2e-2, generator_lr=2e-2)
TEMPORAL = ("time_embedding.linear_1", "mid_block.resnets.0.time_emb_proj")


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "fast", Effort(True, 0, 4, 10, 1e-2, steps=STEPS))
        yield


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """Makes a method's result on the tiny UNet; the same one, from one recording, for the same arguments."""
    recording, results = tmp_path_factory.mktemp("shared") / "recording", {}

    def make(method, out=None, changes=None, **entries):
        recipe = small_recipe(method, **{"activations": 4, **entries}).model_dump()
        for part, values in (changes or {}).items():
            recipe[part] = {**recipe[part], **values}
        key = Recipe.parse(recipe).model_dump_json()
        if key not in results or out is not None:
            reuse = recording if "calibration" not in entries else None
            results[key] = tempoquant.quantize(unet_pipeline(), Recipe.parse(recipe), recording=reuse, out=out)
        return results[key]

    return make


def layers(made):
    return quantized_layers(made.denoiser.module)


def scales(made):
    """Every interval's scale, by site."""
    found = {name: layer.input_interval.scale for name, layer in layers(made).items() if layer.input_interval}
    for name, product in quantized_products(made.denoiser.module).items():
        found |= {f"{name}.{operand}": provider.scale for operand, provider in product.intervals.items()}
    return found


def moved(made, other):
    """Sites whose scales differ."""
    a, b = scales(made), scales(other)
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name].expand_as(b[name]), b[name])}


def widths(layer):
    return layer.weight_bits, layer.input_interval.bits


LEARNED = ["brecq", "q-diffusion", "freeze-reconstruction", "freeze-calibration", "s-2"]


@pytest.mark.parametrize("method", LEARNED)
def test_steps_learn_in_layers_and_attention_products_and_zero_points_stay(quantized, method):
    # Min-max ranges of so few bits are too wide for every unit.
    made, unlearned = (
        quantized(method, changes={"activations": {"range": "minmax", "learn": learn}}) for learn in (True, False)
    )
    found = moved(made, unlearned)
    assert any(name.endswith(".q") for name in found) and any(name.endswith(".p") for name in found)
    assert len(found) > len(scales(made)) / 4
    for ours, theirs in zip(*(interval_providers(m.denoiser.module) for m in (made, unlearned)), strict=True):
        assert torch.equal(ours.zero_point, theirs.zero_point)
    assert all(torch.equal(layer.weight, layers(unlearned)[name].weight) for name, layer in layers(made).items())
    assert not any(t.requires_grad for provider in interval_providers(made.denoiser.module) for t in provider.buffers())


def test_brecq_treats_temporal_layers_as_part_of_their_blocks(quantized):
    made, unlearned = quantized("brecq"), quantized("brecq", changes={"activations": {"learn": False}})
    assert all(isinstance(provider, ConstantInterval) for provider in interval_providers(made.denoiser.module))
    assert any(name.endswith("time_emb_proj") for name in moved(made, unlearned))
    ends = [layers(made)[name] for name in ("conv_in", "conv_out")]
    assert [widths(layer) for layer in ends] == [(8, 8), (8, 8)] and widths(
        layers(made)["mid_block.resnets.0.conv1"]
    ) == (4, 4)


def test_brecq_as_released_leaves_out_what_its_code_does(quantized):
    made = quantized("brecq", reading="released")
    assert not quantized_products(made.denoiser.module)
    assert not any("conv_shortcut" in name or "downsamplers" in name for name in layers(made))
    assert widths(layers(made)["time_embedding.linear_1"]) == (8, 8) and widths(
        layers(made)["time_embedding.linear_2"]
    ) == (4, 4)


def test_units_may_learn_on_full_precision_inputs(quantized):
    one, other = quantized("q-diffusion"), quantized("q-diffusion", reading="released")
    # The first unit has nothing quantized before it.
    found = moved(one, other)
    assert found and "conv_in" not in found


def test_freeze_reconstruction_rounds_temporal_layers_to_nearest(quantized):
    model = unet_pipeline().unet
    frozen, free = layers(quantized("freeze-reconstruction")), layers(quantized("brecq"))
    for name in TEMPORAL:
        weight = model.get_submodule(name).weight.detach()
        plain = nearest(weight, weight_qparams(weight, 4, False, "mse"))
        assert torch.equal(frozen[name].weight.float(), plain) and not torch.equal(free[name].weight.float(), plain)
    conv = model.mid_block.resnets[0].conv1.weight.detach()
    assert not torch.equal(
        frozen["mid_block.resnets.0.conv1"].weight.float(), nearest(conv, weight_qparams(conv, 4, False, "mse"))
    )


def test_freeze_calibration_leaves_temporal_intervals_at_min_max(quantized):
    made, free = quantized("freeze-calibration"), quantized("brecq")
    assert (
        set(TEMPORAL) & moved(made, quantized("freeze-calibration", changes={"activations": {"learn": False}})) == set()
    )
    emb = made.clock.timesteps
    for name in TEMPORAL:
        interval = layers(made)[name].input_interval
        assert isinstance(interval, ConstantInterval)
        assert torch.equal(layers(made)[name].weight, layers(free)[name].weight)
    # The first temporal layer sees sinusoids alone: its range can be had without the network.
    first = unet_pipeline().unet.time_proj(emb)
    low, high = float(first.min().clamp(max=0)), float(first.max())
    assert float(layers(made)[TEMPORAL[0]].input_interval.scale) == pytest.approx((high - low) / 15, rel=1e-5)
    assert float(layers(free)[TEMPORAL[0]].input_interval.scale) < (high - low) / 15


def test_q_diffusion_has_no_layer_at_more_bits_and_reads_all_steps_alike(quantized, monkeypatch):
    read = spy(monkeypatch)
    made = quantized("q-diffusion", seed=1, calibration={})
    assert {widths(layer) for layer in layers(made).values()} == {(4, 4)}
    assert [p.bits for p in next(iter(quantized_products(made.denoiser.module).values())).intervals.values()] == [
        4,
        4,
        4,
        8,
    ]
    assert all(torch.bincount(steps, minlength=4).tolist() == [2] * 4 for steps in read if len(steps) == 8)


def test_q_diffusion_learns_both_parts_of_its_shortcuts(quantized):
    made, unlearned = quantized("q-diffusion"), quantized("q-diffusion", changes={"activations": {"learn": False}})
    parts = {name for name in layers(made) if name.endswith(("conv_shortcut.first", "conv_shortcut.second"))}
    assert len(parts) == 8 and parts & moved(made, unlearned)


@pytest.mark.parametrize("method", ["tfmq-cache", "tfmq-cache-int8"])
def test_steps_learn_beside_cached_temporal_features(method, tmp_path):
    recipe = Recipe.parse({**small_recipe(method).model_dump(), "activations": {"bits": 4, "learn": True}})
    made = tempoquant.quantize(unet_pipeline(), recipe, out=tmp_path / "out")
    images = made.generate(2, steps=4, seed=1)
    assert torch.equal(images, tempoquant.load(tmp_path / "out").generate(2, steps=4, seed=1))


def spy(monkeypatch):
    """The steps of every later reading of a recording."""
    seen, read = [], Store.read

    def reading(self, steps, indices):
        seen.append(steps)
        return read(self, steps, indices)

    monkeypatch.setattr(Store, "read", reading)
    return seen


def test_ptq4dm_reads_more_of_the_steps_close_to_the_image(quantized, monkeypatch):
    read = spy(monkeypatch)
    choice = {"rows": 64, "rows_per_step": 20, "samples": 4, "steps": 10}
    made = quantized("ptq4dm", calibration=choice)
    weights = next(steps for steps in read if len(steps) == 64)
    ranges = torch.cat([steps for steps in read if len(steps) <= 4])
    # Of Normal(0.4, 0.4), 60 % lie below a half, of a uniform choice 50 %; 0 counts the noisiest step.
    assert float((weights >= 5).float().mean()) > 0.52 and torch.bincount(weights, minlength=10)[9] > 8
    assert len(ranges) > 20
    for layer in layers(made).values():
        assert int(layer.input_interval.zero_point) == 2 ** (layer.input_interval.bits - 1)
        assert (layer.weight_zero == 2 ** (layer.weight_bits - 1)).all()
    even = quantized("ptq4dm", calibration=choice | {"step_choice": "uniform"})
    assert moved(made, even) and any(
        not torch.equal(layer.weight, layers(even)[name].weight) for name, layer in layers(made).items()
    )


def test_ptq4dm_as_released_rounds_to_nearest(quantized):
    made, weight = (
        quantized("ptq4dm", reading="released"),
        unet_pipeline().unet.mid_block.resnets[0].conv1.weight.detach(),
    )
    plain = nearest(weight, weight_qparams(weight, 4, True, "mse"))
    assert torch.equal(layers(made)["mid_block.resnets.0.conv1"].weight.float(), plain)
    assert not torch.equal(layers(quantized("ptq4dm"))["mid_block.resnets.0.conv1"].weight.float(), plain)


@pytest.mark.parametrize("method", ["tdq-ptq", "tdq-thin"])
def test_tdq_leaves_tables_that_follow_the_time_step_and_no_network(quantized, method, tmp_path):
    made = quantized(method, out=tmp_path / "out")
    tables = [p for p in interval_providers(made.denoiser.module) if isinstance(p, TableInterval)]
    assert len(tables) > 10 and all(p.scale.shape == (4,) and p.zero_point.unique().numel() == 1 for p in tables)
    assert sum(p.scale.unique().numel() > 1 for p in tables) > 10
    assert any(layer.input_interval in tables for name, layer in layers(made).items() if "time_emb" in name)
    kinds = {type(p) for p in interval_providers(made.denoiser.module)}
    assert kinds <= {TableInterval, ConstantInterval}
    again = tempoquant.load(tmp_path / "out")
    assert torch.equal(again.generate(2, steps=4, seed=1), made.generate(2, steps=4, seed=1))
    other = quantized("tdq-thin" if method == "tdq-ptq" else "tdq-ptq")
    assert not torch.equal(other.generate(2, steps=4, seed=1), made.generate(2, steps=4, seed=1))


def test_tdq_as_released_keeps_temporal_layers_ends_and_products_in_float(quantized):
    made = quantized("tdq-thin", reading="released")
    assert not quantized_products(made.denoiser.module)
    assert not any("time_emb" in name or name in ("conv_in", "conv_out") for name in layers(made))


@pytest.mark.parametrize("groups", [1, 4, 20])
def test_s_n_has_n_intervals_on_disk_and_off(quantized, groups, tmp_path):
    made = quantized(f"s-{groups}", out=tmp_path / "out")
    providers = interval_providers(made.denoiser.module)
    assert all(isinstance(p, GroupInterval) and p.scale.shape == (groups,) for p in providers) and len(providers) > 20
    again = tempoquant.load(tmp_path / "out")
    # Seven steps, most of which were not recorded.
    assert torch.equal(again.generate(2, steps=7, seed=1), made.generate(2, steps=7, seed=1))
    loaded = interval_providers(again.denoiser.module)
    for ours, theirs in zip(providers, loaded, strict=True):
        assert torch.equal(ours.scale, theirs.scale) and torch.equal(ours.zero_point, theirs.zero_point)
        assert (ours.train_timesteps, ours.bits) == (theirs.train_timesteps, theirs.bits) == (100, ours.bits)
    size = made.facts["size"]
    assert size["tables"] == len(providers) * groups * 5


def test_one_group_is_one_interval(quantized):
    one, constant = scales(quantized("s-1")), scales(quantized("brecq"))
    for name, scale in one.items():
        # Gradients add up over the batch in another order.
        torch.testing.assert_close(scale[0], constant[name], rtol=1e-2, atol=0)


def test_groups_start_at_the_ranges_of_their_own_time_steps(quantized):
    # Recorded are 0, 25, 50 and 75 of 100: of four groups each has one step, so they are the table of all steps.
    groups, table = (
        quantized("s-4", changes={"activations": {"learn": False, **how}}) for how in ({}, {"steps": "per-step"})
    )
    assert all(torch.equal(scale, scales(table)[name]) for name, scale in scales(groups).items())


@pytest.mark.parametrize("method", ["brecq", "q-diffusion", "ptq4dm", "tdq-thin", "s-4"])
def test_the_integer_engine_draws_the_same_bits(quantized, method):
    made, images = quantized(method), []
    for engine in ("simulation", "auto"):
        made.use_engine(engine)
        # Most of seven steps were not recorded.
        images.append(made.generate(2, steps=7, seed=1))
    assert torch.equal(*images)


@pytest.mark.parametrize("method", ["q-diffusion", "tdq-thin", "s-2"])
@pytest.mark.parametrize("model", ["bare", "labelled", "dit"])
def test_other_denoisers(method, model):
    target = {"bare": bare_denoiser, "labelled": labelled_denoiser, "dit": dit_pipeline}[model]()
    labels = {"bare": None, "labelled": torch.tensor([0, 3]), "dit": [1, 2]}[model]
    conditioning = None if labels is None else {"class_labels": labels}
    recipe = small_recipe(method, activations=6, calibration={"steps": 3})
    made = tempoquant.quantize(target, recipe, conditioning=conditioning)
    images = made.generate(2, steps=3, seed=0, conditioning=conditioning)
    assert images.isfinite().all()


@pytest.mark.parametrize("name", ["brecq", "q-diffusion", "ptq4dm", "tdq-ptq", "tdq-thin", "s-4"])
def test_float_activations_need_no_learning(name):
    made = tempoquant.quantize(bare_denoiser(), small_recipe(name, activations=32))
    assert all(layer.input_interval is None or layer.input_interval.bits == 8 for layer in layers(made).values())


def test_paper_effort_has_the_papers_settings():
    paper = EFFORTS["paper"].steps
    assert (paper.iterations, paper.batch, paper.lr, paper.relative, paper.generator_lr) == (
        5000,
        32,
        4e-4,
        False,
        4e-4,
    )


def test_the_choice_is_stated_in_the_recipe():
    groups = {n: method_recipe(f"s-{n}").activations.groups for n in (1, 2, 4, 10, 20)}
    assert all(n == found for n, found in groups.items())
    assert [method_recipe(n).activations.generator for n in ("tdq-ptq", "tdq-thin")] == ["tdq", "thin"]
    choice = method_recipe("ptq4dm").calibration
    assert (choice.step_choice, choice.step_mean, choice.step_std) == ("skewed-normal", 0.4, 0.4)
    assert method_recipe("brecq", activations=32).bits_of("x", frozenset({"@first"})) == (8, 32)
