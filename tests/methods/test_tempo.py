"""tempo and tempo-fast: what each is composed of is there in the quantized denoiser."""

import pytest
import torch

import tempoquant
from conditional_models import dit_pipeline
from tempoquant.intervals import TableInterval
from tempoquant.layers import QuantizedLayer, QuantizedProduct
from tempoquant.methods import method_recipe
from tempoquant.temporal.replacements import CachedLayer, replacements
from tiny import small_recipe, unet_pipeline


@pytest.fixture(scope="module")
def fast():
    return tempoquant.quantize(unet_pipeline(), small_recipe("tempo-fast", activations=6))


def test_every_activation_has_an_interval_of_its_own_at_each_step(fast):
    layers = {n: m for n, m in fast.denoiser.module.named_modules() if isinstance(m, QuantizedLayer)}
    products = [m for m in fast.denoiser.module.modules() if isinstance(m, QuantizedProduct)]
    intervals = [m.input_interval for m in layers.values()] + [i for p in products for i in p.intervals.values()]
    assert layers and products and all(isinstance(interval, TableInterval) for interval in intervals)
    assert any(not torch.equal(i.scale, i.scale[:1].expand_as(i.scale)) for i in intervals)
    bits = {name: layer.input_interval.bits for name, layer in layers.items()}
    assert bits.pop("conv_in") == 16 and bits.pop("conv_out") == 8 and set(bits.values()) == {6}


def test_temporal_features_are_looked_up(fast):
    cached = [m for m in replacements(fast.denoiser.module).values() if isinstance(m, CachedLayer)]
    assert len(cached) == len(fast.blueprint.projections) and cached[0].table.storage == "float16"


def test_tempo_is_tempo_fast_and_tuning():
    fast, best = (method_recipe(name).model_dump() for name in ("tempo-fast", "tempo"))
    assert {key for key in fast if fast[key] != best[key]} == {"method", "tuning"}
    assert fast["tuning"] is None and best["tuning"]["iterations"] == 100


def test_the_released_reading_keeps_the_policy_of_tfmq_dms_code():
    ours, theirs = (method_recipe(name, reading="released") for name in ("tempo-fast", "tfmq-dm"))
    assert (ours.policy, ours.attention) == (theirs.policy, theirs.attention)
    assert (ours.weights.fit_bias, ours.temporal.cache) == (True, "float16")


def test_tuning_is_what_tempo_adds(fast):
    best = tempoquant.quantize(
        unet_pipeline(), small_recipe("tempo", activations=6, tuning={"iterations": 5}, calibration={"samples": 16})
    )
    assert "tuning" in best.facts["timings"] and "tuning" not in fast.facts["timings"]


def test_layers_that_see_a_condition_too_are_quantized_instead(tmp_path):
    labels = {"class_labels": [1, 2, 3, 999]}
    recipe = small_recipe("tempo-fast", calibration={"samples": 4})
    made = tempoquant.quantize(dit_pipeline(), recipe, out=tmp_path / "out", conditioning=labels)
    assert not replacements(made.denoiser.module) and made.recipe.temporal.cache is None
    temporal = made.denoiser.module.get_submodule("proj_out_1")
    assert temporal.weight_bits == 4 and isinstance(temporal.input_interval, TableInterval)
    run = {"steps": 3, "seed": 1, "conditioning": labels}
    assert torch.equal(tempoquant.load(tmp_path / "out").generate(4, **run), made.generate(4, **run))
