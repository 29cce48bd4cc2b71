"""Exports: the same predictions in another runtime, on integer kernels, from int8 weights on disk."""

import copy
import json
import shutil
import sys

import pytest
import torch
from torch import nn

import tempoquant
from command_line import run
from conditional_models import dit_pipeline, large_text_pipeline, scheduler, text_pipeline
from tempoquant.errors import FormatError, InputError
from tempoquant.exporting.exported import MANIFEST
from tempoquant.exporting.traceable import PlainGraph, int8_names, plain_layer, plain_product
from tempoquant.intervals import Clock, ConstantInterval, TableInterval
from tempoquant.layers import QuantizedLayer, QuantizedProduct, simulate, simulate_product, to_quantized
from tempoquant.numerics import affine_qparams
from tempoquant.numerics.weights import nearest, weight_qparams
from tempoquant.sampling.denoiser import Denoiser
from tiny import bare_denoiser, small_recipe, unet_pipeline
from transformer_models import dit, flux, pixart, qwen_image, sd3
from transformer_models import made as built_case

TARGETS = ("openvino", "onnx")
CLOSE = 0.03
"""Of a prediction's norm, for whole denoisers: float32 sums in another order turn a rounding over here and there."""


def quantized(steps="constant", pipe=None, conditioning=None, **changes):
    recipe = small_recipe("rtn", **changes)
    activations = recipe.activations.model_copy(update={"steps": steps})
    recipe = recipe.model_copy(update={"activations": activations})
    return tempoquant.quantize(pipe or unet_pipeline(), recipe, conditioning=conditioning)


@pytest.fixture(scope="module", params=["constant", "per-step"])
def made(request):
    return quantized(request.param)


@pytest.fixture(scope="module")
def frozen(made):
    other = copy.deepcopy(made)
    other.freeze_schedule()
    return other


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    pytest.importorskip("openvino")
    return tempoquant.export(made, tmp_path_factory.mktemp("openvino") / "out", "openvino")


def inputs(batch=2):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(batch, 1, 8, 8, generator=draw), torch.tensor([75, 25, 0, 50])[:batch]


def distance(a, b):
    return float((a - b).norm() / b.norm())


def test_the_plain_graph_computes_what_the_layers_mean(made):
    x, t = inputs(4)
    made.use_engine("simulation")
    with torch.no_grad():
        assert distance(PlainGraph(made.denoiser, made.clock)(x, t), made.denoiser(x, t)) < CLOSE


@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (3, 6), (4, 16), (4, 32), (16, 8)])
def test_every_width_has_a_plain_graph(weights, activations):
    made = quantized("per-step" if activations == 6 else "constant", weights=weights, activations=activations)
    made.use_engine("simulation")
    x, t = inputs(2)
    with torch.no_grad():
        assert distance(PlainGraph(made.denoiser, made.clock)(x, t), made.denoiser(x, t)) < CLOSE


def layer_of(stock, steps, activation_bits=8, out=None):
    """A quantized layer with a grid off the middle, three rows, and an output scale ``out`` times the input's."""
    layer, clock = to_quantized(stock), Clock(torch.tensor([10.0, 20.0, 30.0]), 1, "t")
    grid = weight_qparams(layer.weight, 4, False, "minmax")
    layer.set_weight(nearest(layer.weight, grid), grid, 4)
    ends = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([3.0, 1.0, 0.7])
    if steps == "constant":
        one = affine_qparams(ends[0][0], ends[1][0], activation_bits)
        layer.input_interval = ConstantInterval(one, activation_bits, out and one.scale * out)
    else:
        table = affine_qparams(*ends, activation_bits)
        layer.input_interval = TableInterval(table, activation_bits, clock, out and table.scale * out)
    return layer, clock


@pytest.mark.parametrize(("activation_bits", "out"), [(8, None), (6, None), (8, 1.3)])
@pytest.mark.parametrize("steps", ["constant", "per-step"])
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2}, {"padding": "same"}, {"padding": 1, "groups": 4}, {}]
)
def test_a_layers_plain_form_is_the_layer(options, steps, activation_bits, out):
    torch.manual_seed(0)
    linear = not options
    stock = nn.Linear(16, 8) if linear else nn.Conv2d(16, 8, 3, **options)
    layer, clock = layer_of(stock, steps, activation_bits, out)
    # Points well inside of a step: no rounding is close to turning over.
    x = torch.randn(4, 5, 16) if linear else torch.randn(4, 16, 6, 6)
    with clock.at(torch.tensor([30.0, 10.0, 20.0, 10.0])):
        interval = layer.input_interval(x)
        x = (torch.round(x / interval.scale) + 0.25 * torch.rand(x.shape)) * interval.scale
        torch.testing.assert_close(plain_layer(layer, x), simulate(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", ["constant", "per-step"])
@pytest.mark.parametrize("names", ["qk", "pv", "vp"])
def test_a_products_plain_form_is_the_product(names, steps):
    torch.manual_seed(0)
    clock = Clock(torch.tensor([10.0, 20.0, 30.0]), 1, "t")
    ends = {"q": (-1.0, 2.0), "k": (-2.0, 1.5), "v": (-1.0, 1.0), "p": (0.0, 1.0)}
    product = QuantizedProduct()
    for name in names:
        low, high = (torch.tensor([end, 0.9 * end, 1.2 * end]) for end in ends[name])
        table = affine_qparams(low, high, 8)
        first = affine_qparams(low[0], high[0], 8)
        product.intervals[name] = ConstantInterval(first, 8) if steps == "constant" else TableInterval(table, 8, clock)
    left, right = (torch.rand(4, 2, 6, 6) if name == "p" else torch.randn(4, 2, 6, 6) for name in names)
    with clock.at(torch.tensor([30.0, 10.0, 20.0, 10.0])):
        left, right = (
            (torch.round(x / s) + 0.25 * torch.rand(x.shape)) * s
            for x, s in ((x, product.intervals[n](x).scale) for n, x in zip(names, (left, right), strict=True))
        )
        plain, meant = plain_product(product, names, left, right), simulate_product(product, names, left, right)
    torch.testing.assert_close(plain, meant, rtol=1e-5, atol=1e-5)


def test_every_quantized_product_runs_in_int8_in_openvino(exported, made):
    import openvino

    features = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "INT8" not in features:
        pytest.skip("this processor has no int8 kernels")
    target = tempoquant.load_exported(exported)
    x, t = inputs()
    kernels = target.denoiser.module.session.kernels({"sample": x.numpy(), "timestep": t.float().numpy()})
    block = {*made.blueprint.shared, *made.blueprint.projections}
    layers = {n for n, m in made.denoiser.module.named_modules() if isinstance(m, QuantizedLayer) and m.is_quantized}
    products = [m for m in made.denoiser.module.modules() if isinstance(m, QuantizedProduct)]
    assert {name for name in kernels if " product " not in name} == layers - block
    assert sum(" product " in name for name in kernels) == 2 * len(products) > 0
    assert {kernel.lower()[-3:] for kernel in kernels.values()} == {"_i8"}, kernels


def test_weights_are_bytes_on_disk(exported, frozen):
    module = frozen.denoiser.module
    count = sum(module.get_submodule(name).weight.numel() for name in int8_names(module))
    other = sum(p.numel() for p in module.parameters() if p.is_floating_point())
    rows = sum(b.numel() for b in module.buffers())
    size = (exported / "unet" / "openvino_model.bin").stat().st_size
    assert count < size < count + 4 * (other + 4 * rows)
    assert size < 2 * count


@pytest.mark.parametrize("to", TARGETS)
def test_an_export_predicts_and_draws_the_same(to, made, frozen, request, tmp_path):
    pytest.importorskip("openvino" if to == "openvino" else "onnxruntime")
    folder = request.getfixturevalue("exported") if to == "openvino" else tempoquant.export(made, tmp_path / "out", to)
    target = tempoquant.load_exported(folder)
    frozen.use_engine("simulation")
    for batch in (1, 2) if to == "openvino" else (1, 2, 4):
        x, t = inputs(batch)
        with torch.no_grad():
            assert distance(target.denoiser(x, t), frozen.denoiser(x, t)) < CLOSE
            if batch > 1:
                assert distance(target.denoiser(x, t.flip(0)), frozen.denoiser(x, t)) > 2 * CLOSE
    images = target.pipe(num_inference_steps=4, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert images.shape == (1, 8, 8, 1)
    with pytest.raises(InputError, match="frozen to"):
        target.generate(1, steps=3, seed=0)


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize("to", TARGETS)
def test_bare_denoisers_of_any_schedule_are_exported(to, tmp_path):
    pytest.importorskip("openvino" if to == "openvino" else "onnxruntime")
    made = quantized("per-step", bare_denoiser())
    target = tempoquant.load_exported(tempoquant.export(made, tmp_path / "out", to, freeze=False))
    made.use_engine("simulation")
    x, _ = inputs()
    with torch.no_grad():
        for t in (75, 33):
            assert distance(target.denoiser(x, t), made.denoiser(x, t)) < CLOSE
    assert target.generate(1, steps=3, seed=0).isfinite().all()


def text_case(folder):
    text = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    return text_pipeline(folder), {"prompt": ["a", "b"]}, {"encoder_hidden_states": text}


def class_case(folder):
    return dit_pipeline(), {"class_labels": [1, 2]}, {"class_labels": torch.tensor([1, 2])}


def large_case(folder):
    draw = torch.Generator().manual_seed(1)
    pooled = {"text_embeds": torch.randn(2, 8, generator=draw), "time_ids": torch.full((2, 6), 16.0)}
    words = torch.randn(2, 8, 16, generator=draw)
    given = {"encoder_hidden_states": words, "added_cond_kwargs": pooled}
    return large_text_pipeline(folder), {"prompt": ["a", "b"]}, given


def modulated_case(made_case):
    """A bare transformer: its conditions are of the caller's making."""

    def case(folder):
        built = built_case(made_case)
        given = {name: torch.cat([row[name] for row in built.conditions]) for name in built.conditions[0]}

        def call(module, x, t, **conditions):
            out = module(x, timestep=t, return_dict=False, **conditions, **built.fixed(len(x)))[0]
            # Some also predict a variance.
            return out[:, : x.shape[1]]

        return Denoiser(built.module, scheduler(), built.sample_shape, call), given, given

    return case


BOTH = {
    "text": text_case, "class": class_case, "large text": large_case, "dit": modulated_case(dit),
    "sd3": modulated_case(sd3),
}  # fmt: skip
CASES = BOTH | {"flux": modulated_case(flux), "pixart": modulated_case(pixart), "qwen": modulated_case(qwen_image)}


@pytest.mark.parametrize(
    ("to", "case"),
    [
        pytest.param("onnx", "text", marks=pytest.mark.slow),
        *(("onnx", case) for case in BOTH if case != "text"),
        *(pytest.param("openvino", case, marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_conditional_denoisers_are_exported(to, case, tmp_path):
    pytest.importorskip("openvino" if to == "openvino" else "onnxruntime")
    pipe, conditioning, given = CASES[case](tmp_path)
    made = quantized("per-step", pipe, conditioning)
    example = conditioning if isinstance(pipe, Denoiser) else None
    folder = tempoquant.export(made, tmp_path / "out", to, freeze=False, conditioning=example)
    target = tempoquant.load_exported(folder)
    made.use_engine("simulation")
    draw = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, *made.denoiser.sample_shape, generator=draw), torch.tensor([75, 25])
    with torch.no_grad():
        found, wanted = (d(x, t, **given) for d in (target.denoiser, made.denoiser))
        others = made.denoiser(x, t, **{name: flipped(value) for name, value in given.items()})
    assert distance(found, wanted) < min(CLOSE, distance(others, wanted))


def flipped(value):
    return {name: flipped(part) for name, part in value.items()} if isinstance(value, dict) else value.flip(0)


def test_a_pipeline_of_pooled_prompts_draws_through_its_export(tmp_path):
    pytest.importorskip("onnxruntime")
    pipe, conditioning, _ = large_case(tmp_path)
    made = quantized("per-step", pipe, conditioning)
    target = tempoquant.load_exported(tempoquant.export(made, tmp_path / "out", "onnx"))
    options = {"steps": 4, "seed": 0, "conditioning": {"prompt": ["a b"], "guidance_scale": 3.0}}
    assert (target.generate(1, **options) - made.generate(1, **options)).abs().max() < 0.1
    drawn = target.pipe("a b", num_inference_steps=4, output_type="np", height=16, width=16)
    assert drawn.images.shape == (1, 16, 16, 3)


def test_what_a_runtime_does_not_know_is_one_line_and_leaves_nothing(tmp_path, capfd):
    pytest.importorskip("onnxruntime")
    denoiser, given, _ = CASES["flux"](tmp_path)
    made = quantized("constant", denoiser, given)
    capfd.readouterr()
    with pytest.raises(InputError, match=r"a FluxTransformer2DModel cannot be exported to onnx: .*rms_norm"):
        tempoquant.export(made, tmp_path / "out", "onnx", conditioning=given)
    assert capfd.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_conditions_that_cannot_be_invented_are_asked_for(tmp_path):
    pytest.importorskip("onnxruntime")
    denoiser, given, _ = modulated_case(sd3)(tmp_path)
    made = quantized("per-step", denoiser, given)
    with pytest.raises(InputError, match="more than a prompt's words: give an example of its conditions"):
        tempoquant.export(made, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_class_conditional_denoiser_frozen_to_labels_takes_its_tables_along(to, tmp_path):
    pytest.importorskip("openvino" if to == "openvino" else "onnxruntime")
    made = quantized("per-step", dit_pipeline(), {"class_labels": [1, 2]})
    made.freeze_schedule(conditioning={"class_labels": [1, 2, 7]})
    target = tempoquant.load_exported(tempoquant.export(made, tmp_path / "out", to))
    made.use_engine("simulation")
    x, t = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([75, 25, 75])
    labels = torch.tensor([7, 1000, 1])
    with torch.no_grad():
        found, wanted = (d(x, t, class_labels=labels) for d in (target.denoiser, made.denoiser))
        others = made.denoiser(x, t, class_labels=labels.roll(1))
    assert distance(found, wanted) < CLOSE < distance(others, wanted)
    with pytest.raises(InputError, match="class_labels 3 is none of the 4 conditions"):
        target.denoiser(x, t, class_labels=torch.tensor([7, 3, 1]))
    with pytest.raises(InputError, match="draw with its own schedule"):
        target.denoiser(x, 33, class_labels=labels)


def test_inputs_that_were_not_exported_are_named(exported):
    target = tempoquant.load_exported(exported)
    x, t = inputs()
    with pytest.raises(InputError, match="class_labels: this denoiser was exported for sample, timestep"):
        target.denoiser(x, t, class_labels=torch.zeros(2))
    with pytest.raises(InputError, match="cannot take inputs of shapes"):
        target.denoiser(torch.zeros(2, 3, 8, 8), t)


def test_a_damaged_or_newer_export_is_told(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "out")
    manifest = tmp_path / "out" / "unet" / MANIFEST
    entries = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(entries | {"format_version": 2}))
    with pytest.raises(FormatError, match="newer"):
        tempoquant.load_exported(tmp_path / "out")
    manifest.write_text("{}")
    with pytest.raises(FormatError, match="damaged"):
        tempoquant.load_exported(tmp_path / "out")
    for wrong in (
        {"sample_shape": [1, 2**40, 8]},
        {"sample_shape": [True, 8, 8]},
        {"recorded": [1.0, float("nan")]},
        {"recorded": []},
        {"frozen": 1},
        {"target": "../x"},
        {"known": {"class_labels": [[1], [2, 3]]}},
    ):
        manifest.write_text(json.dumps(entries | wrong))
        with pytest.raises(FormatError, match=f"damaged: {next(iter(wrong))}") as caught:
            tempoquant.load_exported(tmp_path / "out")
        assert "\n" not in str(caught.value)
    manifest.write_text('{"format_version": ' + "[" * 100_000)
    with pytest.raises(FormatError, match="damaged: more than 64 levels"):
        tempoquant.load_exported(tmp_path / "out")
    manifest.write_text(json.dumps(entries))
    (tmp_path / "out" / "unet" / "openvino_model.xml").write_text("<net")
    with pytest.raises(FormatError, match="cannot be read"):
        tempoquant.load_exported(tmp_path / "out")
    with pytest.raises(FormatError, match="is no exported folder"):
        tempoquant.load_exported(tmp_path)


@pytest.mark.parametrize("to", TARGETS)
def test_a_missing_extra_is_named_and_nothing_is_left(to, made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, to, None)
    with pytest.raises(InputError, match=rf"{to} is not installed: pip install 'tempoquant\[{to}\]'"):
        tempoquant.export(made, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())


def test_wrong_requests_are_refused_first(made, tmp_path):
    with pytest.raises(InputError, match="unknown export target 'openvin': did you mean openvino"):
        tempoquant.export(made, tmp_path / "out", "openvin")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists"):
        tempoquant.export(made, tmp_path / "there")
    corrected = tempoquant.quantize(unet_pipeline(), small_recipe("rtn", correction={"samples": 2}))
    with pytest.raises(InputError, match="correction acts in the scheduler"):
        tempoquant.export(corrected, tmp_path / "out")


def test_from_the_command_line(tmp_path, monkeypatch, capfd):
    pytest.importorskip("onnxruntime")
    quantized().save_pretrained(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    for command in (
        ["export", "in", "--to", "onnx", "-o", "out", "--json", "r.json"],
        ["generate", "out", "-n", "2", "--steps", "4", "-o", "g.png"],
    ):
        code, _, err = run(monkeypatch, capfd, *command)
        assert code == 0, err
    assert json.loads((tmp_path / "r.json").read_text())["denoiser_bytes"] > 0
    assert (tmp_path / "g.png").stat().st_size > 0
