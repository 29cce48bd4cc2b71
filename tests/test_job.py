"""The main job on a tiny network: what each stage must and must not do."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tempoquant
from tempoquant.checkpoint.blueprint import interval_providers, quantized_layers, quantized_products
from tempoquant.intervals import ConstantInterval, TableInterval
from tempoquant.pipelines import DiffusersModel, state_hash
from tempoquant.progress import Silent
from tempoquant.reconstruction.effort import EFFORTS, Effort
from tempoquant.reconstruction.tiar import feature_loss
from tempoquant.stages import (
    JobState,
    Read,
    Record,
    TemporalFeatures,
    Transform,
    Units,
    WorkFolders,
    run_stages,
    temporal_features,
)
from tempoquant.stages.temporal_features import round_temporal_layers
from tempoquant.stages.units import stage_units
from tiny import bare_denoiser, small_recipe, unet_pipeline

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made():
    """The pipeline, its hash before, and what TFMQ-DM made of it at W4A8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "fast", Effort(True, 0, 4, 10, 1e-2))
        pipe = unet_pipeline()
        before = state_hash(pipe.unet), sorted(pipe.unet.state_dict()), str(pipe.unet)
        return pipe, before, tempoquant.quantize(pipe, small_recipe())


@pytest.fixture
def begun(tmp_path):
    """The state of a job before its first weight is rounded."""

    def begin(recipe):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(temporal_features, "round_temporal_layers", lambda *_: None)
            folders = WorkFolders(tmp_path / recipe.temporal.reconstruction, recording=tmp_path / "recording")
            state = JobState(DiffusersModel(unet_pipeline()), recipe, folders, Silent())
            run_stages([Read(), Record(), Transform(), TemporalFeatures()], state)
        return state

    return begin


def test_frozen_temporal_layers_stay_bit_identical_while_units_are_rounded(begun, monkeypatch):
    monkeypatch.setitem(EFFORTS, "fast", Effort(True, 4, 4, 10, 1e-2))
    state = begun(small_recipe())
    assert all(layer.weight_scale is None for layer in state.layers.values())
    round_temporal_layers(state.weights, state.temporal)
    temporal = set(state.temporal.program.layers)
    assert len(temporal) > 4 and {n for n, p in state.plans.items() if p.temporal} == temporal

    def frozen() -> dict[str, Tensor]:
        tensors = state.module.state_dict()
        return {n: t.clone() for n, t in tensors.items() if n.rpartition(".")[0] in temporal}

    before = frozen()
    assert all(state.layers[name].weight.dtype == torch.int8 for name in temporal)
    Units().run(state)
    after = frozen()
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert all(layer.weight_scale is not None for layer in state.layers.values())


def test_block_reconstruction_does_move_temporal_layers(begun, monkeypatch):
    monkeypatch.setitem(EFFORTS, "fast", Effort(True, 0, 4, 10, 1e-2))
    state = begun(small_recipe(temporal={"reconstruction": "block"}))
    round_temporal_layers(state.weights, state.temporal)
    program = state.temporal.program
    assert all(state.layers[name].weight_scale is None for name in program.layers)
    assert {n for unit in stage_units(state.weights, "block") for n in unit.layers} >= set(program.layers)


@pytest.mark.parametrize("compensate", [True, False])
def test_tiar_lowers_the_temporal_feature_loss(begun, monkeypatch, compensate):
    # Not compensated, learned rounding does the work alone.
    monkeypatch.setitem(EFFORTS, "fast", Effort(compensate, 0, 4, 300, 1e-2))
    losses = {}
    for how in ("nearest", "tiar"):
        state = begun(small_recipe(weights=4, temporal={"reconstruction": how}))
        program, externals = state.temporal.program, state.temporal.externals
        full = program.run(externals, lambda name, x, s=state: s.layers[name](x))
        round_temporal_layers(state.weights, state.temporal)
        found = program.run(externals, lambda name, x, s=state: s.layers[name](x))
        losses[how] = float(feature_loss(found, full))
    assert 0 < losses["tiar"] < losses["nearest"]


def test_a_table_of_one_row_is_a_constant():
    images = []
    for calibration in ("finite-set", "constant"):
        recipe = small_recipe(calibration={"steps": 1}, temporal={"calibration": calibration})
        made = tempoquant.quantize(bare_denoiser(), recipe)
        kind = TableInterval if calibration == "finite-set" else ConstantInterval
        assert isinstance(made.denoiser.module.time_in.input_interval, kind)
        images.append(made.generate(2, steps=1, seed=5))
    assert torch.equal(*images)


def test_tables_have_a_row_a_time_step_and_are_shared(made):
    module, clock = made[2].denoiser.module, made[2].clock
    tables = [p for p in interval_providers(module) if isinstance(p, TableInterval)]
    temporal = [n for n, layer in quantized_layers(module).items() if layer.input_interval in tables]
    assert len(clock) == 4 and all(t.scale.shape == (4,) for t in tables)
    assert len(temporal) > len(tables) and {"time_embedding.linear_1", "mid_block.resnets.0.time_emb_proj"} <= {
        *temporal
    }


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_the_same_seed_gives_the_same_bytes(effort, tmp_path):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)
        tempoquant.quantize(unet_pipeline(), small_recipe(effort=effort, seed=seed), out=tmp_path / out)
    data = [(tmp_path / out / WEIGHTS).read_bytes() for out in "abc"]
    assert data[0] == data[1] != data[2]


def test_attention_products_are_quantized(made):
    pipe, _, quantized = made
    products = quantized_products(quantized.denoiser.module)
    assert len(products) == len(quantized.blueprint.attention) > 2
    assert all(set(product.intervals) == set("qkvp") for product in products.values())
    stock = tempoquant.quantize(pipe, small_recipe(attention={"quantize": False}))
    assert not quantized_products(stock.denoiser.module)
    # Weights come before products are quantized.
    ours, theirs = (quantized_layers(q.denoiser.module) for q in (quantized, stock))
    assert all(torch.equal(layer.weight, ours[name].weight) for name, layer in theirs.items())
    run = {"steps": 4, "seed": 0}
    assert not torch.equal(quantized.generate(2, **run), stock.generate(2, **run))
    wide = tempoquant.quantize(pipe, small_recipe(activations=16, attention={"softmax_bits": 4}))
    widths = {o: p.bits for o, p in next(iter(quantized_products(wide.denoiser.module).values())).intervals.items()}
    assert widths == {"q": 16, "k": 16, "v": 16, "p": 4}


def test_every_quantized_layer_holds_integers(made):
    module, graph = made[2].denoiser.module, made[2].blueprint
    layers = quantized_layers(module)
    stock = [n for n, m in module.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert sorted(layers) == sorted(stock)
    for name, layer in layers.items():
        bits = graph.recipe.weights.bits
        assert layer.weight.dtype == torch.int8 and layer.weight_bits == bits, name
        q = layer.weight.int() + layer.weight_zero.view(-1, *(1,) * (layer.weight.dim() - 1))
        assert int(q.min()) >= 0 and int(q.max()) < 2**bits
        assert layer.input_interval.bits == 8
    assert not any(p.requires_grad for p in module.parameters())


def test_the_users_pipeline_is_unchanged(made):
    pipe, before, quantized = made
    assert (state_hash(pipe.unet), sorted(pipe.unet.state_dict()), str(pipe.unet)) == before
    assert quantized.pipeline is not pipe and quantized.pipeline.unet is not pipe.unet
    assert pipe.unet.conv_in.weight.requires_grad and not pipe.unet._forward_pre_hooks
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(pipe.unet(x, 50).sample, unet_pipeline().unet(x, 50).sample)


def test_mixed_time_steps_equal_single_calls(made):
    denoiser = made[2].denoiser
    steps = torch.tensor([75, 0, 50, 25])
    assert {float(t) for t in made[2].clock.timesteps} == {float(t) for t in steps}
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mixed = denoiser(x, steps)
        for i, t in enumerate(steps):
            # At one batch shape, since the float parts of a network may sum in another order at another.
            assert torch.equal(mixed[i], denoiser(x, t.expand(4))[i])
        unseen = denoiser(x, torch.tensor([70, 5, 50, 30]))
    assert unseen.isfinite().all() and not torch.equal(unseen, mixed)
