"""Commands that make a diagnosis again, as a user would have typed them."""

from types import SimpleNamespace

import torch

from tempoquant.diagnosis.facts import describe_conditioning
from tempoquant.report.entries import Entry
from tempoquant.report.reproduce import commands, prompts


def entry(recipe: dict | None = None, evidence: dict | None = None, **facts) -> Entry:
    schedule = {"steps": 20, "sampler": None, "eta": 0.0, "seed": 1}
    told = {"quantized": {"recipe": recipe}, "reference": {"name": "full"}, "samples": 8, "ranking_samples": 4}
    return Entry("a", "my out", SimpleNamespace(facts={**told, "schedule": schedule, **facts}), evidence or {})


def test_all_options_are_named():
    options = {"reference": "mine.py:make", "keep": 5, "batch_size": 16, "layer": ["up*", "mid*"]}
    assert commands(entry(options=options)) == [
        "tempoquant diagnose 'my out' -n 8 --ranking-samples 4 --steps 20 --seed 1 --reference mine.py:make --keep 5 "
        "--batch-size 16 --layer 'up*' --layer 'mid*'"
    ]
    # Diagnoses of before options were kept.
    assert commands(entry())[0].endswith("--seed 1 --reference full")


def test_conditions_are_named():
    given = describe_conditioning(
        {"prompt": ["a cat", "a dog"], "class_labels": torch.tensor([3, 1]), "guidance_scale": 7.5}
    )
    found = entry({"weights": {}}, {"conditioning": {"prompt": "list", "guidance_scale": 3.0}}, conditioning=given)
    made, diagnosed = commands(found)
    assert made == ("tempoquant quantize full --recipe recipe.yaml --prompts YOUR_PROMPTS --guidance 3 -o 'my out'")
    assert diagnosed.endswith("--reference full --prompts prompts.txt --classes 3,1 --guidance 7.5")
    assert prompts(found) == ["a cat", "a dog"] and prompts(entry()) == []
    assert prompts(entry(conditioning={"prompt": "one for all"})) == ["one for all"]


def test_only_plain_conditions_are_told():
    assert describe_conditioning({"embeds": torch.zeros(2, 3), "scale": 1.5, "mixed": [torch.zeros(1)]}) == {
        "embeds": "Tensor",
        "scale": 1.5,
        "mixed": "list",
    }
