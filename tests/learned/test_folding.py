"""What trained is what runs: the same intervals, the same weights, in the layers and tables of every method."""

import pytest
import torch

import tempoquant
from tempoquant.checkpoint.blueprint import interval_providers
from tempoquant.errors import InputError
from tempoquant.intervals import ConstantInterval, TableInterval
from tempoquant.layers import QuantConv2d, QuantLinear, simulate
from tempoquant.learned.bank import LearnedInterval
from tempoquant.learned.schemes import SCHEMES
from tempoquant.methods.trained import PAPERS
from tempoquant.training.prepare import fold
from training_models import images, recipe, shaken, trainee, unet_pipeline

METHODS = [*PAPERS, "tdq", *(f"{name}-tdq" for name in PAPERS if name != "lsq")]
QUANTIZED = {"attention": {"quantize": True}, "policy": ()}


def test_every_scheme_has_its_methods():
    assert set(PAPERS) == set(SCHEMES)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return tmp_path_factory.mktemp("recording") / "r"


@pytest.mark.parametrize("method", METHODS)
def test_a_folded_network_is_the_trained_one_bit_for_bit(method, recording):
    made = shaken(trainee(recording, recipe(method, 8, 8, **QUANTIZED)))
    rows, clock = torch.arange(len(made.clock)), made.clock
    x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 25, 25, 75])
    with torch.no_grad():
        out = made.module.eval()(x, t).sample
        before = [site.provider.at(rows) for site in made.sites]
        weights = {name: layer.weight.clone() for name, layer in made.layers.items()}
    assert len(before) > 20 and any(":" in site.name for site in made.sites)
    module = fold(made)
    for site, interval in zip(made.sites, before, strict=True):
        kind = TableInterval if method.endswith("tdq") else ConstantInterval
        assert type(site.provider) is kind and (kind is ConstantInterval or site.provider.clock is clock)
        for ours, theirs in zip(vars(site.provider.at(rows)).values(), vars(interval).values(), strict=True):
            assert torch.equal(ours.expand(len(rows)), theirs.expand(len(rows)))
    for name, layer in made.layers.items():
        assert type(layer) in (QuantConv2d, QuantLinear) and layer.kernel is simulate
        assert torch.equal(layer.dequantized_weight(), weights[name]) and layer.weight.dtype == torch.int8
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(isinstance(p, LearnedInterval) for p in interval_providers(module))
    zeros = torch.stack([site.provider.at(rows).zero_point.expand(len(rows)) for site in made.sites])
    assert torch.equal(zeros, zeros.round()) and (zeros >= 0).all()
    # Float sums are ordered differently, and now and then a rounding turns over.
    with torch.no_grad():
        assert float((module(x, t).sample - out).square().mean().sqrt()) < 0.02 * float(out.std())


@pytest.mark.parametrize("method", ["tdq", "duq-tdq", "qil", "lsq+-tdq"])
def test_a_folder_loads_and_runs_on_every_engine_as_before(method, tmp_path):
    made = tempoquant.train(unet_pipeline(), recipe(method), data=images(), out=tmp_path / "out")
    expected = made.generate(2, steps=4, seed=1)
    again = tempoquant.load(tmp_path / "out")
    assert torch.equal(again.generate(2, steps=4, seed=1), expected)
    assert again.recipe == made.recipe and again.recipe.training.steps == 6
    assert set(again.use_engine("integer").values()) <= {"onednn int8", "simulation (float input)"}
    (tmp_path / "again").mkdir()
    again.write(tmp_path / "again")
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_layers_of_a_trained_model_compute_the_same_in_integers(tmp_path):
    made = tempoquant.train(unet_pipeline(), recipe("duq-tdq", 8, 8), out=tmp_path / "out")
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(25)
    module, seen = made.denoiser.module, {}

    def keep(name):
        return lambda layer, args, out: seen.setdefault(name, []).append((args[0], out))

    layers = {n: m for n, m in module.named_modules() if isinstance(m, QuantConv2d) and m.is_quantized}
    for name, layer in layers.items():
        layer.register_forward_hook(keep(name))
    with torch.no_grad():
        module(x, t)
        for name, layer in layers.items():
            ((given, out),) = seen[name]
            assert torch.equal(simulate(layer, given), out)
    assert len(layers) > 5


def test_silu_inputs_keep_their_lowest_value_while_the_step_moves(tmp_path):
    made = trainee(tmp_path / "r", recipe("tdq"))
    bank = made.bank
    assert bank.moves.any() and not bank.moves.all()
    index = int(bank.moves.nonzero()[0])
    for step in (0.05, 0.1, 0.3):
        interval = bank.interval(index, (torch.tensor(step),), torch.tensor(0.0), torch.tensor(15.0))
        assert float(interval.zero_point) == round(-float(bank.offset[index]) / step)


def test_adapters_fold_into_the_weights_and_nothing_else_trains(tmp_path):
    made = trainee(tmp_path / "r", recipe("tdq", lora=2))
    learned = {n.rpartition(".")[2] for n, p in made.module.named_parameters() if p.requires_grad}
    assert {"down", "up"} <= learned and not any("bias" in n and "generators" not in n for n, p in
                                                 made.module.named_parameters() if p.requires_grad)  # fmt: skip
    full = dict(unet_pipeline().unet.named_parameters())
    trained = sum(p.numel() for n, p in made.module.named_parameters() if p.requires_grad and ".generators." not in n)
    assert trained < sum(p.numel() for p in full.values()) / 2
    layer = next(iter(made.layers.values()))
    low_rank, quantizer = layer.parametrizations.weight
    with torch.no_grad():
        low_rank.up.normal_(generator=torch.Generator().manual_seed(0))
        expected = quantizer(
            layer.parametrizations.weight.original + (low_rank.up @ low_rank.down).view(layer.weight.shape)
        )
    fold(made)
    assert torch.equal(layer.dequantized_weight(), expected)


def test_only_what_trains_is_trained_and_the_other_way_round(tmp_path):
    with pytest.raises(InputError, match="tdq trains: use `tempoquant train`"):
        tempoquant.quantize(unet_pipeline(), recipe("tdq"))
    with pytest.raises(InputError, match="rtn does not train: use `tempoquant quantize`"):
        tempoquant.train(unet_pipeline(), tempoquant.method_recipe("rtn"))
