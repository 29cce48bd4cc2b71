"""Inception features: torch-fidelity's network on random weights where it can be imported, else a stand-in for it."""

import hashlib
import importlib
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from corners import pictures
from tempoquant.errors import InputError
from tempoquant.evaluation import distribution_metrics, feature_extractor, inception
from tempoquant.evaluation.inception import InceptionFeatures

MODULE = "torch_fidelity.feature_extractor_inceptionv3"


class StandIn(nn.Module):
    """What this package uses of torch-fidelity's class: its constructor, one branch, and two outputs."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 9, 4, stride=4)
        self.fc = nn.Linear(9, 5)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        pooled = self.Mixed_6d.branch1x1(x.float()).mean((2, 3))
        return pooled, pooled @ self.fc.weight.T


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """torch-fidelity replaced, and a file of weights for it."""
    module = types.SimpleNamespace(FeatureExtractorInceptionV3=StandIn, URL_INCEPTION_V3="https://none/w-6726825d.pth")
    monkeypatch.setattr(inception, "_torch_fidelity", lambda: module)
    torch.manual_seed(0)
    state = {
        "Mixed_6d.branch1x1.weight": torch.randn(9, 3, 4, 4) / 500,
        "Mixed_6d.branch1x1.bias": torch.randn(9),
        "fc.weight": torch.randn(5, 9),
        "fc.bias": torch.ones(5),
    }
    torch.save(state, tmp_path / "w.pth")
    return state


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_outputs_and_name(stand_in, tmp_path):
    found = InceptionFeatures(tmp_path / "w.pth")
    images = pictures(3, channels=3, size=8).permute(0, 3, 1, 2)
    maps = nn.functional.conv2d(
        images.float(), stand_in["Mixed_6d.branch1x1.weight"], stand_in["Mixed_6d.branch1x1.bias"], stride=4
    )
    outputs = found(images)
    torch.testing.assert_close(outputs["pooled"], maps.mean((2, 3)))
    torch.testing.assert_close(outputs["logits"], maps.mean((2, 3)) @ stand_in["fc.weight"].T)
    # Position by position, seven channels each: the order of ADM's mu_s.
    wanted = torch.stack([maps[:, c, y, x] for y in range(2) for x in range(2) for c in range(7)], 1)
    torch.testing.assert_close(outputs["spatial"], wanted)
    assert torch.equal(found(images[:2])["spatial"], outputs["spatial"][:2])
    sha = digest(tmp_path / "w.pth")
    assert found.digest == sha and found.name == f"inception-{sha[:8]}"
    grey = pictures(20, size=8)
    assert distribution_metrics(grey, grey, found)["fd"]["name"] == f"FD-inception-{sha[:8]}"


def test_the_published_file_is_called_inception(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "PUBLISHED", digest(tmp_path / "w.pth")[:8])
    assert feature_extractor("inception", tmp_path / "w.pth").name == "inception"
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "w.pth").rename(tmp_path / "hub" / "checkpoints" / "w-6726825d.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert feature_extractor("inception").name == "inception"


def test_weights_that_are_not_there_or_something_else(stand_in, tmp_path, monkeypatch):
    def offline(url, path, hash_prefix):
        assert hash_prefix == "6726825d"
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=r"w-6726825d.pth cannot be read \(no network\): give a local file"):
        InceptionFeatures()
    with pytest.raises(InputError, match="no Inception weights at none"):
        InceptionFeatures("none")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text.pth cannot be read as weights"):
        InceptionFeatures(tmp_path / "text.pth")
    save_file({"fc.bias": torch.zeros(5)}, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match="holds no Inception weights of torch-fidelity's layout"):
        InceptionFeatures(tmp_path / "part.safetensors")


class Shout:
    """Pickled, it would run code when it is read."""

    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_runs_no_code(stand_in, tmp_path, capsys):
    torch.save({"fc.bias": Shout()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil.pth cannot be read as weights"):
        InceptionFeatures(tmp_path / "evil.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("error", [ModuleNotFoundError("torch_fidelity"), RuntimeError("torchvision::nms")])
def test_missing_or_broken_packages_are_one_line(monkeypatch, error):
    import_module = importlib.import_module

    def refuse(name):
        if name.startswith("torch_fidelity"):
            raise error
        return import_module(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    said = r"pip install tempoquant\[eval\]" if isinstance(error, ImportError) else "cannot be imported: torchvision"
    with pytest.raises(InputError, match=said):
        feature_extractor("inception")


def test_torch_fidelitys_network(tmp_path, monkeypatch):
    try:
        module = importlib.import_module(MODULE)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    network = module.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        # Its constructor always reads weights; these are wanted before there are any.
        patched.setattr(network, "load_state_dict", lambda self, state: None)
        patched.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: None)
        patched.setattr(module, "get_kwarg", lambda *args: False)
        bare = network("bare", ["2048", "logits_unbiased"])
    save_file(bare.state_dict(), tmp_path / "w.safetensors")
    images = pictures(2, channels=3, size=40).permute(0, 3, 1, 2)
    seen = []
    # The block's output begins with its 1x1 branch.
    bare.Mixed_6d.register_forward_hook(lambda *call: seen.append(call[-1][:, :7]))
    pooled, logits = bare(images)
    found = InceptionFeatures(tmp_path / "w.safetensors")(images)
    torch.testing.assert_close(found["pooled"], pooled)
    torch.testing.assert_close(found["logits"], logits)
    torch.testing.assert_close(found["spatial"], seen[0].permute(0, 2, 3, 1).flatten(1))
    assert (pooled.shape, found["spatial"].shape, logits.shape) == ((2, 2048), (2, 2023), (2, 1008))
