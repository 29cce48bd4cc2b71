"""Values that no quantized folder can have, without hashes that would notice: each is refused by its name."""

import json
import os
import shutil
import warnings

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

import tempoquant
from older import WEIGHTS, without_digest
from tempoquant.errors import FormatError, TempoquantError
from tempoquant.recipe import Recipe
from tiny import small_recipe, unet_pipeline


def recipe(**parts):
    """Plain rounding, with these entries in the parts of its recipe."""
    data = small_recipe("rtn").model_dump(mode="json")
    return Recipe.parse(data | {name: {**(data[name] or {}), **entries} for name, entries in parts.items()})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders with tables, a correction, and cached features; the first as it is, all others without a digest."""
    root = tmp_path_factory.mktemp("saved")
    stepwise = recipe(activations={"steps": "per-step"}, correction={"samples": 2})
    tempoquant.quantize(unet_pipeline(), stepwise, out=root / "whole")
    shutil.copytree(root / "whole", root / "tables")
    without_digest(root / "tables")
    tempoquant.quantize(unet_pipeline(), recipe(temporal={"cache": "int8"}), out=root / "features")
    without_digest(root / "features")
    return root


@pytest.fixture
def folder(saved, tmp_path):
    def copy(name: str):
        shutil.copytree(saved / name, tmp_path / name)
        return tmp_path / name

    return copy


def refused(folder, error=TempoquantError) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error) as caught:
            tempoquant.load(folder)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def change(folder, name, to) -> None:
    path = folder / "unet" / WEIGHTS
    tensors = load_file(path)
    tensors[name] = to(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})


def at(place, value):
    """``value`` in the place of a tensor's own, its dtype kept."""

    def to(tensor):
        flat = tensor.clone().flatten()
        flat[place] = value
        return flat.view(tensor.shape)

    return to


TABLES = ("weight_scale", "interval_scale", "timesteps", "correction_gain", "correction_bias", "correction_variance")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite(folder, name, value):
    damaged = folder("tables")
    change(damaged, f"tempoquant.{name}", at(1, value))
    assert f"'tempoquant.{name}' holds {value:g} at" in refused(damaged)


@pytest.mark.parametrize("name", ["weight_scale", "interval_scale", "correction_variance"])
@pytest.mark.parametrize("value", [0.0, -0.5])
def test_scales_and_variances_are_positive(folder, name, value):
    damaged = folder("tables")
    change(damaged, f"tempoquant.{name}", at(0, value))
    if name == "correction_variance" and value == 0:
        tempoquant.load(damaged)
    else:
        assert f"'tempoquant.{name}' holds {value:g} at [0]" in refused(damaged)


@pytest.mark.parametrize("to", [lambda t: t.flip(0), lambda t: t[:1].expand(4).clone(), at(0, 60.0)])
def test_time_steps_ascend(folder, to):
    damaged = folder("tables")
    change(damaged, "tempoquant.timesteps", to)
    assert "'tempoquant.timesteps' holds" in refused(damaged)


@pytest.mark.parametrize("name", ["weight_scale", "weight_zero", "interval_scale", "interval_zero", "vectors", *TABLES])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_another_dtype_is_not_cast(folder, name, dtype):
    damaged = folder("tables")
    change(damaged, f"tempoquant.{name}", lambda tensor: tensor.to(dtype))
    assert f"'tempoquant.{name}' is {str(dtype).removeprefix('torch.')}" in refused(damaged)


def test_integers_are_bytes(folder):
    damaged = folder("tables")
    change(damaged, "conv_in.weight", lambda tensor: tensor.float())
    assert "'conv_in.weight' of packed integers (uint8)" in refused(damaged)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("interval_zero", 300, "'tempoquant.interval_zero' has a zero point"),
        ("interval_zero", -1, "'tempoquant.interval_zero' holds -1"),
        ("weight_zero", 16, "'tempoquant.weight_zero' has a zero point"),
    ],
)
def test_zero_points_are_on_their_grid(folder, name, value, said):
    damaged = folder("tables")
    wide = torch.int32 if name == "interval_zero" else torch.uint8
    change(damaged, f"tempoquant.{name}", lambda tensor: at(0, value)(tensor.to(wide)))
    assert said in refused(damaged)


def test_features(folder):
    damaged = folder("features")
    change(damaged, "tempoquant.feature_scale", at(0, float("nan")))
    assert "'tempoquant.feature_scale' holds nan" in refused(damaged)


def configure(folder, to) -> None:
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    to(config["quantization_config"])
    path.write_text(json.dumps(config))


ENTRIES = {
    "an input that counts from the end": (lambda c: c["layers"]["conv_in"].update(input=-1), "layers.conv_in.input"),
    "an input that is true": (lambda c: c["layers"]["conv_in"].update(input=True), "layers.conv_in.input"),
    "an input that is no number": (lambda c: c["layers"]["conv_in"].update(input="0"), "layers.conv_in.input"),
    "an input beyond the last": (lambda c: c["layers"]["conv_in"].update(input=99), "layers.conv_in.input = 99"),
    "bits without bound": (lambda c: c["layers"]["conv_in"].update(bits=2147483648), "layers.conv_in.bits"),
    "an interval's bits without bound": (lambda c: c["intervals"][0].update(bits=2147483648), "intervals.0"),
    "symmetric as a number": (lambda c: c["layers"]["conv_in"].update(symmetric=1), "layers.conv_in.symmetric"),
    "an operand that counts from the end": (
        lambda c: next(iter(c["operands"].values())).update(q=-1),
        "operands.",
    ),
    "groups without bound": (
        lambda c: c["intervals"][0].update(kind="groups", groups=10**12, train_timesteps=100),
        "tempoquant.interval_scale",
    ),
    "a key that is not known": (lambda c: c["layers"]["conv_in"].update(offset=1), "offset"),
    "a kind that is not known": (lambda c: c["intervals"][0].update(kind="learned"), "intervals.0.kind"),
    "an interval that is none": (lambda c: c["intervals"].__setitem__(0, None), "intervals.0"),
    "a position from the end": (lambda c: c["time_argument"].update(position=-1), "time_argument.position"),
}


@pytest.mark.parametrize(("to", "said"), ENTRIES.values(), ids=ENTRIES)
def test_entries(folder, to, said):
    damaged = folder("tables")
    configure(damaged, to)
    assert said in refused(damaged, FormatError)


def test_a_feature_without_bound(folder):
    damaged = folder("features")
    configure(damaged, lambda c: next(iter(c["stand_ins"].values())).update(shape=[2**20, 2**20]))
    assert "at most 16777216" in refused(damaged, FormatError)


@pytest.mark.parametrize(
    "to",
    [
        lambda c: c["intervals"][0].update(bits=7),
        lambda c: c["layers"]["conv_in"].update(input=c["layers"]["conv_out"]["input"]),
        lambda c: c["recipe"].pop("correction"),
        lambda c: c["recipe"]["calibration"].update(steps=3),
        lambda c: c["time_argument"].update(position=0),
        lambda c: c["settings"].pop("norm_eps"),
    ],
)
def test_entries_that_could_be_are_tied_to_the_tables_by_a_digest(folder, to):
    damaged = folder("whole")
    (damaged / "tempoquant.json").unlink()
    configure(damaged, to)
    assert "'tempoquant.digest' differs" in refused(damaged, FormatError)


@pytest.mark.parametrize("name", ["weight_scale", "interval_scale", "timesteps", "correction_gain"])
def test_tables_that_could_be_are_tied_to_the_config_by_a_digest(folder, name):
    damaged = folder("whole")
    (damaged / "tempoquant.json").unlink()
    change(damaged, f"tempoquant.{name}", lambda tensor: tensor * 1.01)
    assert "'tempoquant.digest' differs" in refused(damaged, FormatError)


MANY = {"block_out_channels": [8] * 9_000, "layers_per_block": 1}


@pytest.mark.parametrize(
    "settings", [{"norm_num_groups": 2}, {"sample_size": 16}, {"attention_head_dim": -8}, {"attention_head_dim": 4}]
)
def test_settings_are_those_that_were_quantized(folder, settings):
    damaged = folder("tables")
    path = damaged / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert f"the configuration has {next(iter(settings))} = " in refused(damaged, FormatError)
    with pytest.raises(FormatError, match="the configuration has"):
        UNet2DModel.from_pretrained(damaged / "unet")


LARGER = {
    "layers": {"layers_per_block": 50_000},
    "channels": {"block_out_channels": [2**20, 2**21]},
    "blocks": {**MANY, "down_block_types": ["DownBlock2D"] * 9_000, "up_block_types": ["UpBlock2D"] * 9_000},
}


@pytest.mark.parametrize("larger", LARGER.values(), ids=LARGER)
def test_a_larger_model_than_the_stored_one_is_not_built(folder, larger, monkeypatch):
    damaged = folder("tables")
    path = damaged / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | larger))
    built = []
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", counted(torch.nn.Conv2d.__init__, built))
    assert "larger model than the stored weights" in refused(damaged, FormatError)
    assert len(built) < 500


def counted(init, built):
    def counting(self, *args, **kwargs):
        built.append(None)
        init(self, *args, **kwargs)

    return counting


def test_networks_of_another_shape_are_not_made():
    from tempoquant.learned.baking import bank_of
    from tempoquant.learned.kept import KeptNetworks

    plain = {"hidden": [10**9], "encoding": "normalized", "dropout": 0.0, "initialization": "he", "statistics": 0}
    form = {"scheme": "lsq", "architecture": plain, "train_timesteps": 100}
    tensors = {"zero": torch.zeros(2), "generators.weights.0": torch.zeros(2, 1, 4)}
    with pytest.raises(FormatError, match="no weight of 1 inputs and 1000000000 outputs"):
        bank_of(KeptNetworks(form, tensors))


EVIDENCE = {
    "a file outside": ({"../x": "0"}, "outside of the folder"),
    "an absolute name": ({"/proc/kmsg": "0"}, "outside of the folder"),
    "files that are a list": (["unet/config.json"], "not a tempoquant evidence file"),
}


@pytest.mark.parametrize(("files", "said"), EVIDENCE.values(), ids=EVIDENCE)
def test_evidence_names_files_of_its_folder(folder, files, said):
    damaged = folder("whole")
    facts = json.loads((damaged / "tempoquant.json").read_text())
    (damaged / "tempoquant.json").write_text(json.dumps(facts | {"files": files}))
    assert said in refused(damaged, FormatError)


@pytest.mark.parametrize(
    "name", ["tempoquant.json", "unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"]
)
@pytest.mark.parametrize("evidence", [True, False])
def test_a_pipe_in_the_place_of_a_file_is_not_opened(folder, name, evidence):
    damaged = folder("whole")
    if not evidence:
        (damaged / "tempoquant.json").unlink()
    (damaged / name).unlink(missing_ok=True)
    os.mkfifo(damaged / name)
    refused(damaged, FormatError)


@pytest.mark.parametrize("shards", [{"a": None}, {"a": 3}, {"a": ""}, {"a": "../x"}, [], None, {"a": "config.json"}])
def test_an_index_names_files_of_its_folder(folder, shards):
    damaged = folder("tables")
    (damaged / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": shards}))
    refused(damaged, FormatError)


def test_a_header_without_bound(folder):
    damaged = folder("tables")
    (damaged / "unet" / WEIGHTS).write_bytes((2**60).to_bytes(8, "little") + b"{}")
    assert "cannot be read" in refused(damaged, FormatError)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": None}),
        ("scheduler/scheduler_config.json", {"_class_name": None, "beta_schedule": 3}),
        ("unet/config.json", {"sample_size": 10**9}),
        ("unet/config.json", {"sample_size": "8"}),
        ("unet/config.json", {"sample_size": [8] * 20_000}),
        ("unet/config.json", {"_class_name": {"a": 1}}),
        ("unet/config.json", {"norm_num_groups": 0}),
        ("unet/config.json", {"norm_num_groups": -4}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "100"}),
    ],
)
def test_other_settings_stay_one_line(folder, name, settings):
    damaged = folder("tables")
    path = damaged / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    refused(damaged)


@pytest.mark.parametrize("load", [DiffusionPipeline, UNet2DModel])
def test_plain_diffusers_checks_the_hashes(folder, load):
    changed = folder("whole")
    place = changed if load is DiffusionPipeline else changed / "unet"
    with pytest.warns(UserWarning, match="corrects predictions"):
        load.from_pretrained(place)
    change(changed, "conv_in.weight", at(0, 1))
    with pytest.raises(FormatError, match="differs from its recorded hash"):
        load.from_pretrained(place)
    # A component's folder alone has no evidence beside it.
    shutil.copytree(changed / "unet", changed.parent / "alone" / "unet")
    with pytest.warns(UserWarning, match="corrects predictions"):
        UNet2DModel.from_pretrained(changed.parent / "alone" / "unet")


def test_plain_diffusers_refuses_what_cannot_be(folder):
    damaged = folder("tables")
    configure(damaged, lambda c: c["layers"]["conv_in"].update(input=-1))
    with pytest.raises(FormatError, match=r"layers\.conv_in\.input") as caught:
        UNet2DModel.from_pretrained(damaged / "unet")
    assert "\n" not in str(caught.value)


def test_half_precision_that_diffusers_saved_loads(folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half = UNet2DModel.from_pretrained(folder("tables") / "unet", dtype=torch.bfloat16)
        half.save_pretrained(tmp_path / "half")
        assert UNet2DModel.from_pretrained(tmp_path / "half").dtype == torch.float32
