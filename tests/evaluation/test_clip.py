"""CLIP score with a tiny random model; the cosine is computed here from the model's own parts."""

import importlib

import pytest
import torch

from corners import Corners, pictures
from tempoquant.errors import InputError
from tempoquant.evaluation import ClipScore, distribution_metrics
from twins import tiny_clip

transformers = pytest.importorskip("transformers")
PROMPTS = ["a b", "c", "d e f g h a b c d e f g h", "h"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def by_hand(folder, images):
    """Images of the model's own size need no resizing: scaling and normalising is all of the preprocessing."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    found = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        pixels = (image.permute(2, 0, 1).float() / 255 - mean) / std
        ids = [16, *("abcdefgh".index(c) + 8 for c in prompt.split()), 17]
        ids = ids if len(ids) <= 8 else [*ids[:7], 17]
        with torch.no_grad():
            vision = model.visual_projection(model.vision_model(pixels[None]).pooler_output)
            text = model.text_projection(model.text_model(torch.tensor([ids])).pooler_output)
        found.append(float((vision * text).sum() / vision.norm() / text.norm()))
    return torch.tensor(found)


def test_scores_are_cosines_and_never_negative(folder):
    images = pictures(4, channels=3, size=8)
    cosines = by_hand(folder, images)
    assert cosines.min() < 0 < cosines.max(), "the case must show both"
    clip = ClipScore(str(folder))
    found = clip(images, PROMPTS)
    torch.testing.assert_close(found.float(), cosines.clamp(min=0), atol=1e-5, rtol=1e-4)
    assert len(clip.digest) == 64 and "8" in clip.preprocessing and "8 tokens" in clip.preprocessing
    with pytest.raises(InputError, match="3 prompts for 4 images"):
        clip(images, PROMPTS[:3])


def test_as_a_metric(folder):
    images = pictures(4, channels=3, size=8)
    found = distribution_metrics(images, metrics=["clip"], clip=str(folder), prompts=PROMPTS)
    assert found["clip"]["value"] == pytest.approx(float(by_hand(folder, images).clamp(min=0).mean()), abs=1e-5)
    assert found["generated"] == found["clip"]["generated"] == 4
    clip = ClipScore(str(folder))
    grey = pictures(70, size=8)
    both = distribution_metrics(grey, grey, Corners(), ["fd", "clip"], clip=clip, prompts=["a"] * 70)
    assert both["clip"]["value"] == pytest.approx(float(clip(grey, ["a"] * 70).mean())) and "fd" in both
    for prompts, said in ((None, "and none are given"), (["a"], "and 1 are given")):
        with pytest.raises(InputError, match=said):
            distribution_metrics(images, metrics=["clip"], clip=clip, prompts=prompts)


def test_models_that_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be loaded") as refused:
        ClipScore(str(tmp_path))
    assert "\n" not in str(refused.value)

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install tempoquant\[eval\]"):
        ClipScore(str(tmp_path))
