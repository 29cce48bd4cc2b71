"""Commands that reproduce a quantized model and its diagnosis."""

import shlex
from collections.abc import Iterator
from typing import Any

from tempoquant.report.entries import Entry

PROMPTS = "prompts.txt"


def commands(entry: Entry) -> list[str]:
    """Commands that quantize the model and diagnose it again; the page shows the files that they read.

    Args:
        entry: a model; one of another tool has no command that quantizes it.
    """
    recipe = entry.diagnosis.facts["quantized"]["recipe"]
    return [*([shlex.join(_quantize(entry))] if recipe else []), shlex.join(_diagnose(entry))]


def prompts(entry: Entry) -> list[str]:
    """Prompts of the diagnosis, the lines of ``prompts.txt``; empty without prompts."""
    stored = _conditioning(entry).get("prompt", [])
    return [stored] if isinstance(stored, str) else stored


def _quantize(entry: Entry) -> Iterator[str]:
    yield from ("tempoquant", "quantize", _options(entry)["reference"], "--recipe", "recipe.yaml")
    # A folder keeps which kinds of conditions calibrated it, but not the conditions.
    conditioning = entry.evidence.get("conditioning", {})
    yield from ("--prompts", "YOUR_PROMPTS") if "prompt" in conditioning else ()
    yield from ("--classes", "YOUR_CLASSES") if "class_labels" in conditioning else ()
    yield from ("--guidance", f"{conditioning['guidance_scale']:g}") if "guidance_scale" in conditioning else ()
    yield from ("-o", entry.folder)


def _diagnose(entry: Entry) -> Iterator[str]:
    facts, schedule = entry.diagnosis.facts, entry.diagnosis.facts["schedule"]
    yield from ("tempoquant", "diagnose", entry.folder)
    yield from ("-n", str(facts["samples"]), "--ranking-samples", str(facts["ranking_samples"]))
    yield from ("--steps", str(schedule["steps"]), "--seed", str(schedule["seed"]))
    yield from ("--sampler", schedule["sampler"]) if schedule["sampler"] else ()
    for name, value in _options(entry).items():
        for argument in value if isinstance(value, list) else [value]:
            yield from (f"--{name.replace('_', '-')}", str(argument))
    conditioning = _conditioning(entry)
    yield from ("--prompts", PROMPTS) if "prompt" in conditioning else ()
    labels = conditioning.get("class_labels", [])
    yield from ("--classes", ",".join(map(str, labels))) if isinstance(labels, list) and labels else ()
    yield from ("--guidance", f"{conditioning['guidance_scale']:g}") if "guidance_scale" in conditioning else ()


def _options(entry: Entry) -> dict[str, Any]:
    # Older diagnoses did not store them.
    facts = entry.diagnosis.facts
    return {"reference": facts["reference"]["name"], **facts.get("options", {})}


def _conditioning(entry: Entry) -> dict[str, Any]:
    conditioning: dict[str, Any] = entry.diagnosis.facts.get("conditioning", {})
    return conditioning
