"""CLIP score with a tiny random model; the cosine is computed here from the model's own parts."""

import importlib
import json

import pytest
import torch

from corners import Corners, pictures
from tempoquant.errors import InputError
from tempoquant.evaluation import ClipScore, distribution_metrics

transformers = pytest.importorskip("transformers")
PROMPTS = ["a b", "c", "d e f g h a b c d e f g h", "h"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP model that sees 8x8 images and knows the letters a to h."""
    place = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefgh", *(f"{c}</w>" for c in "abcdefgh"), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"))
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 18, "max_position_embeddings": 8, "bos_token_id": 16, "eos_token_id": 17, **size}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config={"image_size": 8, "patch_size": 4, **size}, projection_dim=6
    )
    transformers.CLIPModel(config).eval().save_pretrained(place)
    tokenizer.save_pretrained(place)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    images.save_pretrained(place)
    return place


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
