"""A folder's index names what is loaded: nothing is imported because it says so."""

import json
import sys

import pytest
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, SchedulerMixin, UNet2DModel

import tempoquant
from tempoquant.errors import FormatError
from tempoquant.models.heads_unet import HeadsUNet2DModel
from tempoquant.pipelines import resolve
from tiny import small_recipe, unet_pipeline
from twins import imagenet


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module on the path that leaves a file when it is imported."""
    (tmp_path / "path").mkdir()
    text = f"open({str(tmp_path / 'imported')!r}, 'w')\nclass DDIMScheduler: pass\nclass DDIMPipeline: pass\n"
    (tmp_path / "path" / "evil_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "path")
    return tmp_path / "imported"


NAMES = {
    "scheduler": {"scheduler": ["evil_module", "DDIMScheduler"]},
    "unet": {"unet": ["evil_module", "UNet2DModel"]},
    "a part that the pipeline has not": {"extra": ["evil_module", "Extra"]},
    "a name with a path": {"../extra": ["diffusers", "DDIMScheduler"]},
    "pipeline": {"_class_name": ["evil_module", "DDIMPipeline"]},
    "pipeline of another module": {"_class_name": "evil_module.DDIMPipeline"},
    "a pipeline that is none": {"_class_name": "UNet2DModel"},
    "no pipeline": {"_class_name": None},
    "three names": {"scheduler": ["diffusers", "DDIMScheduler", "x"]},
    "half a name": {"scheduler": ["diffusers", None]},
    "a class that transformers has not": {"scheduler": ["transformers", "Nothing"]},
    "a function of a module that is there": {"scheduler": ["os", "system"]},
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("load", [resolve, tempoquant.load])
def test_names_that_are_refused(names, load, evil, tmp_path):
    folder = tmp_path / "model"
    if load is resolve:
        unet_pipeline().save_pretrained(folder)
    else:
        tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=folder)
        (folder / "tempoquant.json").unlink()
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    with pytest.raises(FormatError, match=r"model_index\.json|cannot be loaded") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not evil.exists() and "evil_module" not in sys.modules


def test_names_that_are_ours_load(tmp_path):
    imagenet(tmp_path).save_pretrained(tmp_path / "classes")
    assert type(resolve(tmp_path / "classes").pipe).__name__ == "ClassLatentPipeline"
    heads = HeadsUNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_heads=2,
    )
    DDIMPipeline(unet=heads, scheduler=DDIMScheduler()).save_pretrained(tmp_path / "heads")
    assert type(resolve(tmp_path / "heads").denoiser.module) is HeadsUNet2DModel


# SchedulerMixin is named because diffusers looks for it in the module of a class that is not its own.
class Mine(DDPMScheduler, SchedulerMixin):
    """A scheduler of the caller's own module, which is imported."""


def test_a_module_that_the_caller_imported_loads(tmp_path):
    pipe = unet_pipeline()
    DDPMPipeline(unet=pipe.unet, scheduler=Mine(num_train_timesteps=100)).save_pretrained(tmp_path / "mine")
    index = json.loads((tmp_path / "mine" / "model_index.json").read_text())
    assert index["scheduler"] == [Mine.__module__, "Mine"]
    assert type(resolve(tmp_path / "mine").denoiser.scheduler) is Mine


def test_a_larger_component_than_the_stored_one_is_not_built(tmp_path):
    unet_pipeline().save_pretrained(tmp_path)
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_per_block": 50_000}))
    with pytest.raises(FormatError, match="larger model than the stored weights"):
        resolve(tmp_path)
    # The bound is gone with the call.
    assert len(UNet2DModel(layers_per_block=3).down_blocks[0].resnets) == 3
