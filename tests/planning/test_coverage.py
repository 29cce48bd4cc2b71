"""What is quantized of denoisers that hold more than Linear and Conv2d, against numbers worked out by hand."""

import json
import warnings
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

import tempoquant
from conditional_models import dit_pipeline
from image_layers import Decoder, Function, Rows, Volume
from tempoquant.errors import InputError
from tempoquant.job import full_precision
from tempoquant.layers import quantized_layers, quantized_products
from tempoquant.pipelines import resolve
from tempoquant.planning.coverage import arithmetic_in_float, coverage_lines, coverage_of
from tempoquant.planning.reading import read
from tempoquant.sampling.denoiser import Denoiser
from tempoquant.sampling.sampling import sample
from tempoquant.stages import probe_of
from tiny import bare_denoiser, changed_recipe, small_recipe, unet_pipeline

WIDTH, PIXELS = 4, 8 * 8


class Mixed(nn.Module):
    """Two Linear see the time step, a Conv2d the image; ``inner``, of (B, 4, 8, 8), comes between them and the end."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.time_in, self.time_out = nn.Linear(2, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.first, self.inner, self.last = nn.Conv2d(1, WIDTH, 3, padding=1), inner, nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        angle = timestep.float()[:, None] * torch.tensor([0.1, 0.01])
        emb = self.time_out(F.silu(self.time_in(angle.sin())))
        return self.last(self.inner(F.silu(self.first(sample) + emb[:, :, None, None])))


WEIGHTS = 2 * 4 + 4 * 4 + 9 * 4 + 9 * 4
BIASES = 4 + 4 + 4 + 1
MACS = 2 * 4 + 4 * 4 + 2 * PIXELS * 9 * 4
"""Those of ``Mixed`` without its inner part."""


class Unread(nn.Module):
    """A Conv2d whose forward never runs: its weight is read instead."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Conv2d(4, 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.part.weight, padding=1)


class Standardized(nn.Conv2d):
    """A convolution whose weight is scaled as it runs."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / self.weight.std(), self.bias)


KIND, OUTSIDE = "this kind of layer is not supported", "outside of any layer"
# By hand: name, kind, reason, parameters, multiply-accumulates.
INSIDE: dict[str, tuple[Any, list[tuple]]] = {
    "ConvTranspose3d": (
        lambda: Volume(nn.ConvTranspose3d),
        [("inner.part", "ConvTranspose3d", KIND, 2 * 2 * 27, 2 * PIXELS * 2 * 2 * 27)],
    ),
    # Three gates of 4 x 4 for the input and the state, and two biases each.
    "GRU": (
        lambda: Rows(nn.GRU(4, 4, batch_first=True), tokens=True),
        [("inner.part", "GRU", KIND, 3 * (2 * 16 + 2 * 4), PIXELS * 3 * 2 * 16)],
    ),
    # q, k, v and the output's projection, a bias each; and both products of 64 x 64 x 4.
    "MultiheadAttention": (
        lambda: Rows(nn.MultiheadAttention(4, 2, batch_first=True), tokens=True),
        [("inner.part", "MultiheadAttention", KIND, 4 * (16 + 4), PIXELS * 4 * 16 + 2 * PIXELS * PIXELS * 4)],
    ),
    # The same, two Linear of 4 x 8 and a bias each, and two normalizations.
    "TransformerEncoderLayer": (
        lambda: Rows(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), tokens=True),
        [
            (
                "inner.part",
                "TransformerEncoderLayer",
                KIND,
                4 * (16 + 4) + 2 * 4 * 8 + 8 + 4 + 2 * 2 * 4,
                PIXELS * (4 * 16 + 2 * 4 * 8) + 2 * PIXELS * PIXELS * 4,
            )
        ],
    ),
    "function": (Function, [("inner", "Function", OUTSIDE, 4 * 4 * 9, PIXELS * 4 * 4 * 9)]),
    "unread layer": (
        Unread,
        [
            ("inner", "Unread", OUTSIDE, 0, PIXELS * 4 * 4 * 9),
            ("inner.part", "Conv2d", "never executed", 4 * 4 * 9, 0),
        ],
    ),
    "forward of its own": (
        lambda: Standardized(4, 4, 3, padding=1, bias=False),
        [("inner", "Standardized", KIND, 4 * 4 * 9, PIXELS * 4 * 4 * 9)],
    ),
    # A gain for every output channel beside the directions.
    "computed weight": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1, bias=False)),
        [
            ("inner", "ParametrizedConv2d", KIND, 0, PIXELS * 4 * 4 * 9),
            ("inner.parametrizations.weight", "ParametrizationList", OUTSIDE, 4 + 4 * 4 * 9, 0),
        ],
    ),
    "normalization": (
        lambda: nn.GroupNorm(2, 4),
        [("inner", "GroupNorm", "normalization, or another scale or shift", 4 + 4, 0)],
    ),
}


FLOAT_ROLES = [
    {"match": f"@{role}", "weight_bits": 32, "activation_bits": 32} for role in ("first", "strided", "shared[0]")
]
FLOAT_ROLES += [{"match": "@second", "activation_bits": 32}]


def denoiser(module: nn.Module, shape: tuple[int, ...] = (1, 8, 8)) -> Denoiser:
    return Denoiser(module.eval(), DDIMScheduler(num_train_timesteps=100, clip_sample=False), shape, name="mixed")


def covered(model: Any, recipe: tempoquant.Recipe) -> dict[str, Any]:
    """The coverage as it is planned, without quantizing."""
    probe = probe_of(full_precision(model), recipe)
    return coverage_of(probe, read(probe, recipe)).to_dict()


def rows(found: dict[str, Any]) -> list[tuple]:
    """What is float but for biases."""
    return [tuple(part.values()) for part in found["float"] if part["reason"] != "bias"]


@pytest.mark.parametrize("kind", INSIDE)
def test_what_stays_float_and_why(kind):
    make, expected = INSIDE[kind]
    found = covered(denoiser(Mixed(make())), small_recipe("rtn"))
    assert sorted(rows(found)) == sorted(expected)
    parameters, macs = (sum(row[i] for row in expected) for i in (3, 4))
    assert (found["parameters"], found["macs"]) == (WEIGHTS + BIASES + parameters, MACS + macs)
    assert (found["quantized_parameters"], found["quantized_macs"]) == (WEIGHTS, MACS)
    assert found["parameters"] == sum(p.numel() for p in Mixed(make()).parameters())


@pytest.mark.parametrize("kind", ["TransformerEncoderLayer", "forward of its own", "computed weight"])
@pytest.mark.filterwarnings("ignore:.* of the arithmetic is quantized")
def test_what_only_looks_like_a_layer_that_can_be_quantized_computes_as_before(kind):
    model = denoiser(Mixed(INSIDE[kind][0]()))
    made = tempoquant.quantize(model, small_recipe("rtn", weights=8))
    drawn = sample(model, samples=4, steps=4, seed=1)
    assert (made.generate(4, steps=4, seed=1) - drawn).abs().max() < 0.1 * drawn.abs().max()


def test_every_layer_and_product_of_an_ordinary_denoiser():
    found = covered(unet_pipeline(), small_recipe("rtn"))
    assert found["quantized_macs"] == found["macs"]
    assert {part["reason"] for part in found["float"]} == {"bias", "normalization, or another scale or shift"}
    shares = [max(part["parameters"] / found["parameters"], part["macs"] / found["macs"]) for part in found["float"]]
    assert shares == sorted(shares, reverse=True)
    unet = unet_pipeline().unet
    weights = sum(part.weight.numel() for part in unet.modules() if isinstance(part, nn.Linear | nn.Conv2d))
    assert found["quantized_parameters"] == weights


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        (unet_pipeline, "rtn", {}),
        (unet_pipeline, "rtn", {"policy": FLOAT_ROLES}),
        (unet_pipeline, "q-diffusion", {}),
        (unet_pipeline, "rtn", {"activations": 32}),
        (unet_pipeline, "rtn", {"weights": 32}),
        (unet_pipeline, "rtn", {"attention": {"quantize": False}}),
        (dit_pipeline, "rtn", {}),
    ],
)
def test_the_quantized_module_agrees(model, method, options):
    recipe = small_recipe(method, **options)
    conditioning = {"class_labels": [0, 1]} if model is dit_pipeline else None
    made = tempoquant.quantize(model(), recipe, conditioning=conditioning)
    found, layers = made.facts["coverage"], quantized_layers(made.denoiser.module)
    weights = sum(layer.weight.numel() for layer in layers.values() if layer.weight_scale is not None)
    assert found["quantized_parameters"] == weights

    def as_the_recipe_says(name: str) -> bool:
        parts = [layers[n] for n in (name, f"{name}.first", f"{name}.second") if n in layers]
        return bool(parts) and all(
            (recipe.weights.bits == 32 or part.weight_scale is not None)
            and (recipe.activations.bits == 32 or part.input_interval is not None)
            for part in parts
        )

    module = resolve(model()).denoiser.module
    stock = [n for n, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    in_float = [part for part in found["float"] if part["macs"]]
    names = {part["name"] for part in in_float if part["kind"] != "attention product"}
    assert names == {name for name in stock if not as_the_recipe_says(name)}
    products = quantized_products(made.denoiser.module).values()
    assert any(product.intervals for product in products) == (len(in_float) == len(names))


# By hand: parameters and multiply-accumulates of the weights, all of which are quantized.
KINDS = {
    "Conv1d": (lambda: Rows(nn.Conv1d(4, 4, 3, padding=1)), 4 * 4 * 3, PIXELS * 4 * 4 * 3),
    "Conv3d": (Volume, 2 * 2 * 27, 2 * PIXELS * 2 * 2 * 27),
    "ConvTranspose2d": (Decoder, 4 * 4 * 4, 16 * 4 * 4 * 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind_are_quantized(kind):
    make, parameters, macs = KINDS[kind]
    found = covered(denoiser(Mixed(make())), small_recipe("rtn"))
    assert rows(found) == []
    assert (found["quantized_parameters"], found["quantized_macs"]) == (WEIGHTS + parameters, MACS + macs)


def test_weights_alone_count_where_the_recipe_keeps_activations():
    found = covered(bare_denoiser(), small_recipe("rtn", activations=32))
    assert found["quantized_macs"] == found["macs"] and rows(found) == []
    last = ({"match": "last", "activation_bits": 32},)
    found = covered(bare_denoiser(), small_recipe("rtn", policy=last))
    assert [(row[0], row[2], row[4]) for row in rows(found)] == [("last", "kept by the recipe", 64 * 8 * 9)]
    assert found["quantized_macs"] == found["macs"] - 64 * 8 * 9


def test_layers_that_tables_replace_count_no_longer():
    recipe = small_recipe("tfmq-cache")
    made, plain = tempoquant.quantize(bare_denoiser(), recipe), covered(bare_denoiser(), small_recipe("tfmq-dm"))
    temporal = 4 * 8 + 8 * 8
    assert made.facts["coverage"]["macs"] == plain["macs"] - temporal
    assert made.facts["coverage"]["parameters"] == plain["parameters"] - temporal - 2 * 8
    frozen = tempoquant.quantize(bare_denoiser(), small_recipe("rtn"), freeze_schedule=True).facts["coverage"]
    assert (frozen["parameters"], frozen["macs"]) == (
        made.facts["coverage"]["parameters"],
        made.facts["coverage"]["macs"],
    )


def test_an_embedding_of_the_time_step():
    class Embedded(Mixed):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.steps = nn.Embedding(100, 2)

        def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
            emb = self.time_out(F.silu(self.time_in(self.steps(timestep))))
            return self.last(F.silu(self.first(sample) + emb[:, :, None, None]))

    found = covered(denoiser(Embedded()), small_recipe("rtn"))
    assert rows(found) == [("steps", "Embedding", "looked up, not multiplied", 200, 0)]
    assert found["float"][0]["name"] == "steps"


def test_little_is_quantized_of_a_denoiser_and_a_warning_says_so(tmp_path):
    with pytest.warns(UserWarning) as caught:
        made = tempoquant.quantize(
            denoiser(Mixed(Volume(nn.ConvTranspose3d))), small_recipe("rtn"), out=tmp_path / "out"
        )
    # 4632 of 4632 + 13824 multiply-accumulates.
    line = next(str(w.message) for w in caught if "arithmetic" in str(w.message))
    assert line == (
        "25.1 % of the arithmetic is quantized; float are inner.part (ConvTranspose3d) "
        "(this kind of layer is not supported, 74.9 % of the arithmetic)"
    )
    facts = json.loads((tmp_path / "out" / "tempoquant.json").read_text())
    assert facts["coverage"] == made.facts["coverage"] and facts["coverage"]["quantized_macs"] == MACS


def test_what_a_recipe_keeps_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keeps = ({"match": "middle", "weight_bits": 32, "activation_bits": 32},)
        tempoquant.quantize(bare_denoiser(), small_recipe("rtn", policy=keeps))
        tempoquant.quantize(bare_denoiser(), small_recipe("rtn", weights=32, activations=32))


class Smoothed(nn.Conv1d):
    """A convolution of a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(super().forward(input), 3, 1, 1)


class Signals(nn.Module):
    """A policy of layers with a forward of their own, for trajectories (B, 4, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(2, 4)
        self.down, self.up = Smoothed(4, 4, 3, padding=1), Smoothed(4, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        angle = timestep.float()[:, None] * torch.tensor([0.1, 0.01])
        return self.up(F.silu(self.down(sample) + self.time(angle.sin())[:, :, None]))


def test_a_denoiser_without_a_layer_to_quantize_is_refused_before_any_work(tmp_path):
    line = r"^rtn W4A8 quantizes no layer of this denoiser that sees the sample: layers of other kinds stay float: "
    with pytest.raises(InputError, match=line + r"down \(Smoothed\), up \(Smoothed\)$"):
        tempoquant.quantize(denoiser(Signals(), (4, 8)), small_recipe("rtn"), out=tmp_path / "out")
    assert not any(tmp_path.iterdir())
    images = tuple({"match": name, "weight_bits": 32, "activation_bits": 32} for name in ("first", "middle", "last"))
    with pytest.raises(InputError, match="that sees the sample: its policy keeps all in float"):
        tempoquant.quantize(bare_denoiser(), small_recipe("rtn", policy=images))


def test_the_lines_of_a_terminal():
    found = covered(denoiser(Mixed(Volume(nn.ConvTranspose3d))), small_recipe("rtn"))
    assert coverage_lines(found) == [
        "quantized: 44.2 % of 217 parameters, 25.1 % of 18,456 multiply-accumulates of a call",
        "float: 74.9 % of the arithmetic, 49.8 % of the parameters: inner.part (ConvTranspose3d): " + KIND,
        "float: 6.0 % of the parameters: 2 Linear, 2 Conv2d: bias",
    ]
    assert arithmetic_in_float(found) == [f"inner.part (ConvTranspose3d) ({KIND}, 74.9 % of the arithmetic)"]
    assert arithmetic_in_float(covered(bare_denoiser(), small_recipe("rtn"))) == []


def test_inputs_without_tokens_are_named_where_the_recipe_says_per_token():
    recipe = changed_recipe(small_recipe("rtn"), activations={"granularity": "per-token", "range": "minmax"})
    found = covered(bare_denoiser(), recipe)
    assert found["per_tensor"] == ["first", "middle", "last"]
    line = "one activation scale a tensor, since its inputs have no tokens: first, middle, last"
    assert coverage_lines(found)[-1] == line
    assert "per_tensor" not in covered(bare_denoiser(), small_recipe("rtn"))
