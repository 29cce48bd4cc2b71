"""Imports that wait: lazy faces, actions after an import, and the registration with diffusers."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler

import tempoquant
from tempoquant.errors import InputError
from tempoquant.extension import ACTIVATION_RANGES, WEIGHT_RANGES, WEIGHT_ROUNDINGS
from tempoquant.imports import after_import, deferred
from tempoquant.models import HeadsUNet2DModel
from tiny import small_recipe

ROOT = Path(tempoquant.__file__).parent
FACES = [
    ".".join((ROOT.name, *path.parent.relative_to(ROOT).parts))
    for path in sorted(ROOT.rglob("__init__.py"))
    if "lazy_face(" in path.read_text()
]


@pytest.mark.parametrize("package", FACES)
def test_a_lazy_face_has_all_its_names(package):
    face = importlib.import_module(package)
    assert face.__all__ and {*face.__all__} <= {*dir(face)}
    assert all(hasattr(face, name) for name in face.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        assert face.nothing


@pytest.mark.parametrize("package", FACES)
def test_no_module_has_a_name_of_its_face(package):
    face = importlib.import_module(package)
    modules = {module.name for module in pkgutil.iter_modules(face.__path__)}
    assert not modules & {*face.__all__}


def test_importing_the_package_imports_no_library():
    code = "import sys, tempoquant; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    roots = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "diffusers", "peft", "matplotlib", "transformers", "pydantic"} & {*roots}
    assert "tempoquant" in roots


ACTIONS: list[str] = []


def noted() -> None:
    """The action of the test below: what it sees of the module."""
    ACTIONS.append(importlib.import_module("waited").value)


def test_an_action_after_an_import(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "waited.py").write_text("raise ImportError('not yet')")
    finders = len(sys.meta_path)
    after_import("waited", noted)
    after_import("waited", noted)
    assert len(sys.meta_path) == finders + 1
    with pytest.raises(ImportError, match="not yet"):
        importlib.import_module("waited")
    # An import that failed may be tried again.
    (tmp_path / "waited.py").write_text("value = 'whole module'")
    importlib.invalidate_caches()
    assert ACTIONS == []
    importlib.import_module("waited")
    assert ACTIONS == ["whole module"] and len(sys.meta_path) == finders
    # Of a module that is there, at once; of one that is none, never.
    after_import("waited", noted)
    after_import("waited_for_ever", noted)
    assert ACTIONS == ["whole module"] * 2
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("waited_for_ever")
    del sys.modules["waited"]


def test_a_deferred_function():
    assert deferred("math:hypot")(3, 4) == 5
    missing = deferred("math:nothing")
    with pytest.raises(AttributeError):
        missing()


@pytest.mark.parametrize("registry", [WEIGHT_RANGES, ACTIVATION_RANGES, WEIGHT_ROUNDINGS], ids=lambda r: r.what)
def test_built_in_names_are_those_that_modules_register(registry, fresh_registries):
    for name, module in registry.built_in.items():
        importlib.import_module(module)
        assert registry.check(name) == name and registry[name].__module__.startswith("tempoquant.")
    assert {*registry} == {*registry.built_in}
    with pytest.raises(InputError, match="exists already"):
        registry.register(next(iter(registry.built_in)))(lambda *_: None)
    with pytest.raises(KeyError):
        assert registry["nothing"]


ORDERS = {
    "before": "import tempoquant\nfrom diffusers import DiffusionPipeline",
    "after": "from diffusers import UNet2DModel\nimport tempoquant\nfrom diffusers import DiffusionPipeline",
}


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """A quantized folder of a pipeline whose denoiser is of a class that diffusers does not have, and what it draws."""
    torch.manual_seed(0)
    unet = HeadsUNet2DModel(
        num_heads=2,
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipe = DDIMPipeline(unet=unet.eval(), scheduler=DDIMScheduler(num_train_timesteps=100, clip_sample=False))
    out = tmp_path_factory.mktemp("heads") / "out"
    result = tempoquant.quantize(pipe, small_recipe("rtn", weights=8), out=out)
    with torch.no_grad():
        torch.save(result.denoiser.module(torch.ones(1, 1, 8, 8), 50).sample, out.parent / "seen.pt")
    return out


def renamed(folder: Path, copy: Path) -> Path:
    """A copy whose index names the module of the class where it was in older versions; without the index's hash."""
    shutil.copytree(folder, copy)
    index = copy / "model_index.json"
    text = index.read_text()
    assert "tempoquant.models.heads_unet" in text
    index.write_text(text.replace("tempoquant.models.heads_unet", "tempoquant.pipelines.heads_unet"))
    (copy / "tempoquant.json").unlink()
    return copy


@pytest.mark.parametrize("order", ORDERS)
def test_plain_diffusers_loads_whichever_is_imported_first(order, heads, tmp_path):
    folder = heads if order == "after" else renamed(heads, tmp_path / "old")
    code = f"""
import warnings
warnings.simplefilter("ignore")
{ORDERS[order]}
import torch
torch.set_num_threads(1)
unet = DiffusionPipeline.from_pretrained({str(folder)!r}).unet
with torch.no_grad():
    seen = unet(torch.ones(1, 1, 8, 8), 50).sample
assert torch.equal(seen, torch.load({str(heads.parent / "seen.pt")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
