"""The exact commands that make a model and its diagnosis again."""

import shlex
from collections.abc import Iterator
from typing import Any

from tempoquant.report.entries import Entry

PROMPTS = "prompts.txt"


def commands(entry: Entry) -> list[str]:
    """How to make the model and its diagnosis again; the files they read stand on the page beside them."""
    recipe = entry.diagnosis.facts["quantized"]["recipe"]
    return [*([shlex.join(_quantize(entry))] if recipe else []), shlex.join(_diagnose(entry))]


def prompts(entry: Entry) -> list[str]:
    """The prompts of the diagnosis, the content of ``prompts.txt``; none where there are none."""
    given = _conditioning(entry).get("prompt", [])
    return [given] if isinstance(given, str) else given


def _quantize(entry: Entry) -> Iterator[str]:
    yield from ("tempoquant", "quantize", _options(entry)["reference"], "--recipe", "recipe.yaml")
    # A folder keeps which kinds of conditions calibrated it, but not the conditions.
    given = entry.evidence.get("conditioning", {})
    yield from ("--prompts", "YOUR_PROMPTS") if "prompt" in given else ()
    yield from ("--classes", "YOUR_CLASSES") if "class_labels" in given else ()
    yield from ("--guidance", f"{given['guidance_scale']:g}") if "guidance_scale" in given else ()
    yield from ("-o", entry.folder)


def _diagnose(entry: Entry) -> Iterator[str]:
    facts, schedule = entry.diagnosis.facts, entry.diagnosis.facts["schedule"]
    yield from ("tempoquant", "diagnose", entry.folder)
    yield from ("-n", str(facts["samples"]), "--ranking-samples", str(facts["ranking_samples"]))
    yield from ("--steps", str(schedule["steps"]), "--seed", str(schedule["seed"]))
    yield from ("--sampler", schedule["sampler"]) if schedule["sampler"] else ()
    for name, value in _options(entry).items():
        for one in value if isinstance(value, list) else [value]:
            yield from (f"--{name.replace('_', '-')}", str(one))
    given = _conditioning(entry)
    yield from ("--prompts", PROMPTS) if "prompt" in given else ()
    labels = given.get("class_labels", [])
    yield from ("--classes", ",".join(map(str, labels))) if isinstance(labels, list) and labels else ()
    yield from ("--guidance", f"{given['guidance_scale']:g}") if "guidance_scale" in given else ()


def _options(entry: Entry) -> dict[str, Any]:
    # Older diagnoses did not keep them.
    facts = entry.diagnosis.facts
    return {"reference": facts["reference"]["name"], **facts.get("options", {})}


def _conditioning(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = entry.diagnosis.facts.get("conditioning", {})
    return found
