"""One plain line about which model to use, and one about each other."""

import math
from types import SimpleNamespace

import pytest
import torch

from tempoquant.report.entries import Entry
from tempoquant.report.verdict import level, others, recommended, verdict


def entry(name: str, psnr: float | list[float], ratio: float, speed: float = 1.0) -> Entry:
    facts = {"quantized": {"size": {"ratio": ratio, "total": 1}}, "speed": speed}
    values = psnr if isinstance(psnr, list) else [psnr, psnr]
    return Entry(name, name, SimpleNamespace(facts=facts, psnr=torch.tensor(values)))


SMALL, LARGE, BROKEN = entry("small", 30.0, 7.4), entry("large", 40.0, 3.9), entry("broken", 18.0, 7.4)
TINY = entry("tiny", 15.0, 14.0)


def test_levels():
    assert [level(p) for p in (50, 30, 25, 10)] == [
        "practically the same pictures",
        "nearly the same pictures",
        "similar pictures with visible differences",
        "different pictures",
    ]


def test_which_to_use_and_why():
    assert recommended([LARGE, BROKEN, SMALL, TINY]) is SMALL
    assert verdict([SMALL, BROKEN]) == (
        "Use small: it is 7.4 times smaller than the original and draws nearly the same pictures (PSNR 30.0 dB on 2 "
        "images)."
    )
    assert others([BROKEN, SMALL]) == ["broken is as small but draws different pictures (PSNR 18.0 dB)."]
    assert "large is larger but" in others([SMALL, LARGE])[0] and "tiny is smaller but" in others([SMALL, TINY])[0]


def test_nothing_worth_using():
    said = verdict([BROKEN, TINY])
    assert said.startswith("Do not use any of these: the best of them, broken, is 7.4 times smaller")
    assert verdict([BROKEN]).startswith("Do not use this: broken is") and others([BROKEN]) == []


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (1.8, "original, runs 1.8 times as fast and draws"),
        (1.05, "original and draws nearly the same pictures (PSNR 30.0 dB on 2 images)."),
        (0.5, "images), but takes 2.0 times as long here."),
    ],
)
def test_speed_counts_where_it_differs(speed, said):
    assert said in verdict([entry("a", 30.0, 7.4, speed)])


def test_models_that_few_images_cannot_tell_apart():
    first, second = entry("first", [30.0, 34.0, 31.0, 35.0], 7.4), entry("second", [32.0, 31.0, 34.0, 31.0], 7.4)
    assert others([first, second]) == ["second is as small and, as far as 4 images can tell, as good (PSNR 32.0 dB)."]
    # One that is always nearer is told apart.
    assert others([first, entry("third", [29.0, 33.0, 30.0, 34.0], 7.4)]) == [
        "third is as small but draws nearly the same pictures (PSNR 31.5 dB)."
    ]


def test_equal_images():
    same = entry("same", math.inf, 2.0)
    assert verdict([same]).endswith("draws practically the same pictures (equal to the last bit on 2 images).")
