"""Folders that are not what they should be: one line each, and nothing that loads after a failed save."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tempoquant
from tempoquant.checkpoint import read_component
from tempoquant.errors import FormatError, InputError
from tempoquant.sampling.denoiser import Denoiser
from tiny import bare_denoiser, small_recipe, unet_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Quantized folders by component, never changed."""
    root = tmp_path_factory.mktemp("saved")
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=root / "unet")
    tempoquant.quantize(bare_denoiser(), small_recipe("rtn"), out=root / "denoiser")
    return root


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved / "unet", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def bare_folder(saved, tmp_path):
    shutil.copytree(saved / "denoiser", tmp_path / "bare")
    return tmp_path / "bare"


def refused(folder, error=FormatError, **options) -> str:
    """The one line with which loading ``folder`` fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error) as caught:
            tempoquant.load(folder, **options)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def edit(folder, change, component="unet") -> None:
    """Change the ``quantization_config``; the evidence, which would notice, is dropped."""
    (folder / "tempoquant.json").unlink()
    path = folder / component / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


def test_without_evidence_a_folder_loads_unverified(folder):
    expected = tempoquant.load(folder).generate(1, steps=2, seed=0)
    (folder / "tempoquant.json").unlink()
    with pytest.warns(UserWarning, match="unverified"):
        loaded = tempoquant.load(folder)
    assert torch.equal(loaded.generate(1, steps=2, seed=0), expected) and loaded.facts == {}
    loaded.save_pretrained(folder.with_name("copy"))


def test_the_component_folder_alone_is_enough(saved, tmp_path):
    shutil.copytree(saved / "unet" / "unet", tmp_path / "alone")
    pipe = unet_pipeline(seed=4)
    module, _, clock = read_component(tmp_path / "alone", lambda config: type(pipe.unet).from_config(config))
    x, whole = torch.randn(2, 1, 8, 8), tempoquant.load(saved / "unet", engine="simulation").denoiser
    assert len(clock) == 4 and torch.equal(module(x, 50).sample, whole.module(x, 50).sample)


@pytest.mark.parametrize("name", [f"unet/{WEIGHTS}", "unet/config.json", "scheduler/scheduler_config.json"])
def test_one_flipped_byte_is_noticed(folder, name):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    text = refused(folder)
    assert "differs from its recorded hash" in text or (name == "unet/config.json" and "cannot be read" in text)


def test_missing_and_added_files_are_noticed(folder):
    extra = folder / "unet" / "model.safetensors.index.json"
    extra.write_text("{}")
    assert "was added" in refused(folder)
    extra.unlink()
    (folder / "unet" / WEIGHTS).unlink()
    assert "is missing" in refused(folder)


@pytest.mark.parametrize("evidence", ["", "[]", "{}", '{"files": 3, "format_version": 1}', '{"files": {}}'])
def test_foreign_evidence_is_refused(folder, evidence):
    (folder / "tempoquant.json").write_text(evidence)
    assert "not a tempoquant evidence file" in refused(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_truncated_tensors(folder, keep):
    (folder / "tempoquant.json").unlink()
    path = folder / "unet" / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert "cannot be read" in refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"quantization_config": 3}', "{}", "\x00\xff"])
def test_a_config_that_is_none(folder, text):
    (folder / "tempoquant.json").unlink()
    (folder / "unet" / "config.json").write_bytes(text.encode("latin-1"))
    refused(folder)


def test_newer_formats(folder):
    facts = json.loads((folder / "tempoquant.json").read_text())
    (folder / "tempoquant.json").write_text(json.dumps(facts | {"format_version": 2}))
    assert "newer" in refused(folder)
    edit(folder, lambda config: config.update(format_version=3))
    assert "format version 3 is newer than 2" in refused(folder)


CHANGES = {
    "other method": lambda c: c.update(quant_method="gptq"),
    "version is text": lambda c: c.update(format_version="new"),
    "no recipe": lambda c: c.pop("recipe"),
    "newer recipe": lambda c: c["recipe"].update(version=2),
    "layers is a list": lambda c: c.update(layers=[]),
    "unknown layer": lambda c: c["layers"].update(nothing=next(iter(c["layers"].values()))),
    "other bits": lambda c: c["layers"]["conv_in"].update(bits=5),
    "no such bits": lambda c: c["layers"]["conv_in"].update(bits=99),
    "one layer less": lambda c: c["layers"].pop("conv_in"),
    "no such interval": lambda c: c["layers"]["conv_in"].update(input=9999),
    "one interval less": lambda c: c["intervals"].pop(),
    "unknown owner": lambda c: c["attention"][0].update(owner="nobody"),
    "attention of the future": lambda c: c["attention"][0].update(window=3),
    "unknown operand owner": lambda c: c["operands"].update(nobody={"q": 0}),
    "splits is a list": lambda c: c.update(splits=["conv_in"]),
    "unknown split": lambda c: c.update(splits={"nobody": 1}),
    "a layer that was not split": lambda c: c.update(splits={"conv_out": 4}),
    "transforms is a dictionary": lambda c: c.update(transforms={"conv_in": 1}),
    "a transform of no layer": lambda c: c.update(transforms=[{"kind": "rotate", "group": 4}]),
    "an unknown transform": lambda c: c.update(transforms=[{"layer": "conv_out", "kind": "twist", "turns": 4}]),
    "a transform of other fields": lambda c: c.update(transforms=[{"layer": "conv_out", "kind": "rotate", "size": 4}]),
    "a group that is no number": lambda c: c.update(transforms=[{"layer": "conv_out", "kind": "rotate", "group": "4"}]),
    "a group that does not divide": lambda c: c.update(transforms=[{"layer": "conv_in", "kind": "rotate", "group": 4}]),
    "a group of no matrix": lambda c: c.update(transforms=[{"layer": "conv_out", "kind": "rotate", "group": 8}]),
    "stand-ins is a list": lambda c: c.update(stand_ins=["conv_in"]),
    "a layer without features": lambda c: c.update(stand_ins={"conv_in": {}}),
    "other layout": lambda c: c.update(layout="0"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_quantization_config(folder, change):
    edit(folder, change)
    refused(folder)


@pytest.mark.parametrize(
    "name", ["tempoquant.timesteps", "tempoquant.weight_scale", "tempoquant.vectors", "conv_in.weight"]
)
def test_a_missing_or_shorter_tensor_is_named(folder, name):
    (folder / "tempoquant.json").unlink()
    path = folder / "unet" / WEIGHTS
    tensors = load_file(path)
    whole = tensors.pop(name)
    save_file(tensors, path)
    assert name in refused(folder)
    if name != "tempoquant.timesteps":
        save_file({**tensors, name: whole[:-1].clone()}, path)
        refused(folder)
        save_file({**tensors, name: torch.cat([whole, whole[:1]])}, path)
        refused(folder)


def test_a_tensor_too_many(folder):
    (folder / "tempoquant.json").unlink()
    path = folder / "unet" / WEIGHTS
    save_file(load_file(path) | {"stranger": torch.zeros(2, 2)}, path)
    assert "stranger" in refused(folder)


def test_folders_that_are_not_ours(folder, tmp_path):
    refused(tmp_path / "nowhere", InputError)
    (tmp_path / "empty").mkdir()
    assert "no quantized folder" in refused(tmp_path / "empty")
    unet_pipeline().save_pretrained(tmp_path / "float")
    assert "is not quantized" in refused(tmp_path / "float")
    (folder / "tempoquant.json").unlink()
    (folder / "model_index.json").unlink()
    refused(folder)


def test_a_class_that_is_no_model(folder):
    (folder / "tempoquant.json").unlink()
    path = folder / "unet" / "config.json"
    for name in ("Nothing", "logging", "DDIMPipeline", "DDIMScheduler", 3):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
        assert repr(name) in refused(folder)


class Swapped(nn.Module):
    """The layers of the stored denoiser under the same names and sizes, but another order of its vectors."""

    def __init__(self, module):
        super().__init__()
        for name, child in reversed(list(module.named_children())):
            self.add_module(name, child)

    def forward(self, sample, timestep):
        return sample


def test_a_bare_folder_needs_its_denoiser(bare_folder):
    assert "denoiser=" in refused(bare_folder, InputError)
    scheduler = bare_denoiser().scheduler
    refused(bare_folder, denoiser=bare_denoiser(width=16))
    refused(bare_folder, denoiser=Denoiser(nn.Sequential(nn.Linear(2, 2)), scheduler, (1, 8, 8)))
    refused(bare_folder, denoiser=Denoiser(Swapped(bare_denoiser().module), scheduler, (1, 8, 8)))
    more = bare_denoiser()
    more.module.extra = nn.Linear(2, 2)
    refused(bare_folder, denoiser=more)
    given = bare_denoiser(seed=5)
    before = tempoquant.pipelines.state_hash(given.module)
    tempoquant.load(bare_folder, denoiser=given)
    assert tempoquant.pipelines.state_hash(given.module) == before


def test_an_existing_folder_is_kept_unless_told(saved, folder):
    made = tempoquant.load(saved / "unet")
    before = (folder / "tempoquant.json").read_bytes()
    with pytest.raises(InputError, match="exists"):
        made.save_pretrained(folder)
    with pytest.raises(InputError, match="exists"):
        tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=folder)
    assert (folder / "tempoquant.json").read_bytes() == before
    made.save_pretrained(folder, overwrite=True)
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn", weights=8), out=folder, overwrite=True)
    assert tempoquant.load(folder).recipe.weights.bits == 8
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


FAILING = ["checkpoint.component.save_tensors", "quantized.write_evidence", "outputs.staging.publish"]


@pytest.mark.parametrize("where", FAILING)
def test_a_full_disk_leaves_nothing_that_loads(saved, tmp_path, monkeypatch, where):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    made = tempoquant.load(saved / "unet")
    with monkeypatch.context() as patch:
        patch.setattr(f"tempoquant.{where}", full)
        with pytest.raises(OSError, match="No space"):
            made.save_pretrained(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(OSError, match="No space"):
            tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=tmp_path / "new")
        assert not list(tmp_path.rglob("*/config.json")) and not (tmp_path / "new").exists()
    made.save_pretrained(tmp_path / "out")
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=tmp_path / "new", resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out"]
