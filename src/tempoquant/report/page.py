"""The content of a report as plain data, the same for HTML and Markdown."""

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from tempoquant.checkpoint.evidence import versions
from tempoquant.diagnosis.figures import svg
from tempoquant.diagnosis.figures.style import INK
from tempoquant.report.entries import Entry, Missing, confidence
from tempoquant.report.pictures import GAIN, data_uri, difference, strip_uri
from tempoquant.report.plots import Plot, own_plots, shared_plots
from tempoquant.report.verdict import GOOD, chosen, verdict

MOST_IMAGES = 8
LARGE_INCHES = 6.0
TITLE = "Which quantized model to use"


def page(entries: Sequence[Entry], missing: Sequence[Missing], command: str) -> dict[str, Any]:
    """Everything that the HTML template shows.

    Args:
        command: that makes this report again.
    """
    first = entries[0].diagnosis
    return {
        "title": TITLE,
        "verdict": verdict(entries),
        "table": table(entries),
        "metrics": stored_metrics(entries),
        "missing": missing,
        "gain": GAIN,
        "samples": samples(entries),
        "film": film(entries),
        "shared": [inline(plot, "shared") for plot in shared_plots(entries)],
        "models": [model(entry, i) for i, entry in enumerate(entries)],
        "command": command,
        "versions": versions(),
        "facts": first.facts,
    }


def table(entries: Sequence[Entry]) -> dict[str, Any]:
    """Columns and rows of the one table, full precision first."""
    facts = entries[0].diagnosis.facts
    count = facts["samples"]
    columns = ["model", "bits", "size", "speed", f"PSNR, {count} images (95 %)", "noise SQNR"]
    columns += ["least temporal cosine", "disturbed features", "mismatch"]
    full = [facts["reference"]["name"], "32", _megabytes(facts["reference"]["bytes"]), "1x"]
    rows = [{"cells": [*full, "", "", "1", "0", "0 %"], "mark": ""}]
    best = chosen(entries)
    mark = "use this" if best.psnr >= GOOD else "nearest"
    rows += [{"cells": _row(entry), "mark": mark if entry is best else ""} for entry in entries]
    return {"columns": columns, "rows": rows}


def _row(entry: Entry) -> list[str]:
    d = entry.diagnosis
    size = "not known" if entry.size is None else f"{_megabytes(entry.size['total'])} ({entry.ratio:.2f}x smaller)"
    cosine = f"{float(d.feature_cosine.min()):.5f}" if d.projections else "none"
    mismatch = "none" if d.mismatch is None else f"{100 * d.mismatch:.1f} %"
    disturbed = f"{len(d.disturbed)} of {len(d.projections)}"
    quality = [_psnr(entry), _db(float(d.noise_sqnr.mean())), cosine, disturbed, mismatch]
    return [entry.label, _bits(d.facts["quantized"]["recipe"]), size, f"{d.facts['speed']:.2f}x", *quality]


def stored_metrics(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What ``tempoquant evaluate`` left in the folders: distributional metrics and requirements."""
    found = []
    for entry in entries:
        kept = entry.evidence.get("evaluation", {})
        for part in (kept.get("distribution") or {}).values():
            if isinstance(part, dict) and "value" in part:
                images = f"{part.get('generated')} images"
                images += f" against {part['real']}" if part.get("real") else ""
                found.append(
                    {"model": entry.label, "name": part["name"], "value": f"{part['value']:.4g}", "on": images}
                )
        for line in kept.get("requirements", []):
            words = "met" if line["met"] else f"missed by {line['by']:.4g}"
            found.append({"model": entry.label, "name": line["text"], "value": _plain(line["value"]), "on": words})
    return found


def samples(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Pictures from the same noise, one set a sample."""
    full = entries[0].diagnosis.full_images
    sets = []
    for i in range(min(MOST_IMAGES, len(full))):
        pictures = [{"label": "full precision", "uri": data_uri(full[i]), "kind": "full"}]
        for entry in entries:
            own = entry.diagnosis.images[i]
            db = _db(float(entry.diagnosis.psnr[i]))
            pictures.append({"label": f"{entry.label}, {db}", "uri": data_uri(own), "kind": "own"})
            changed = data_uri(difference(full[i], own))
            pictures.append({"label": f"{entry.label}: difference, {GAIN} times", "uri": changed, "kind": "difference"})
        sets.append({"number": i + 1, "pictures": pictures})
    return sets


def film(entries: Sequence[Entry]) -> dict[str, Any]:
    """The first sample on its way, a strip of frames a model."""
    first = entries[0].diagnosis
    strips = [{"label": "full precision", "uri": strip_uri(first.full_frames[:, 0])}]
    strips += [{"label": entry.label, "uri": strip_uri(entry.diagnosis.frames[:, 0])} for entry in entries]
    steps = [f"{float(first.timesteps[k]):g}" for k in first.frame_steps]
    return {"strips": strips, "steps": steps}


def model(entry: Entry, number: int) -> dict[str, Any]:
    """One model's own section."""
    d, facts = entry.diagnosis, entry.diagnosis.facts
    recipe = facts["quantized"]["recipe"]
    return {
        "label": entry.label,
        "findings": findings(entry),
        "plots": [inline(plot, f"model{number}") for plot in own_plots(entry)],
        "policy": yaml.safe_dump({"policy": list(d.policy)}, sort_keys=False) if d.policy else "",
        "recipe": "" if recipe is None else yaml.safe_dump(recipe, sort_keys=False),
        "commands": commands(entry),
        "files": entry.evidence.get("files", facts["quantized"].get("files", {})),
        "versions": facts["versions"],
        "machine": facts["machine"],
    }


def findings(entry: Entry) -> list[str]:
    """What the diagnosis says, in sentences."""
    d, facts = entry.diagnosis, entry.diagnosis.facts
    last, temporal, others = (100 * float(row[-1]) for row in d.deviations)
    said = [
        f"Its trajectories are {last:.1f} % away from full precision at the last step; with the temporal layers alone "
        f"quantized {temporal:.1f} %, with all others alone {others:.1f} %."
    ]
    if d.disturbed:
        said.append(
            f"{len(d.disturbed)} of {len(d.projections)} temporal features are disturbed (cosine below 0.9995), most "
            f"of all {', '.join(d.disturbed[:3])}. A method that minds them, such as tfmq-dm, heals that."
        )
    elif d.projections:
        said.append(f"All {len(d.projections)} temporal features are as they were (cosine at least 0.9995).")
    if d.culprits:
        names = ", ".join(f"{cost.name} ({100 * cost.share:.0f} %)" for cost in d.culprits[:3])
        worst = max(d.step_ranges, key=lambda cost: cost.share)
        said.append(
            f"The costliest layers are {names}; the costliest steps t = {worst.name} ({100 * worst.share:.0f} %)."
        )
        ranks = [(i, c.name) for i, c in enumerate(d.culprits, 1) if c.name in facts["temporal_layers"]]
        if ranks:
            named = ", ".join(f"{name} (rank {i})" for i, name in ranks)
            said.append(f"Of the {len(d.culprits)} costliest layers {len(ranks)} see the time step alone: {named}.")
    return said


def commands(entry: Entry) -> list[str]:
    """How to make the model and its diagnosis again."""
    facts, schedule = entry.diagnosis.facts, entry.diagnosis.facts["schedule"]
    reference = facts["reference"]["name"]
    made = [f"tempoquant quantize {reference} --recipe recipe.yaml -o {entry.folder}"]
    sampler = f" --sampler {schedule['sampler']}" if schedule["sampler"] else ""
    diagnosed = f"tempoquant diagnose {entry.folder} --reference {reference} -n {facts['samples']}"
    diagnosed += f" --ranking-samples {facts['ranking_samples']} --steps {schedule['steps']}{sampler}"
    diagnosed += f" --seed {schedule['seed']}"
    return [*(made if facts["quantized"]["recipe"] else []), diagnosed]


def inline(plot: Plot, place: str) -> dict[str, str]:
    """A figure as an ``<svg>`` element whose ink is the page's, with a title for screen readers."""
    text = svg(plot.figure, f"{place}-{plot.name}")
    element = text[text.index("<svg") :].replace(INK, "currentColor")
    # Names inside must be the page's only ones.
    for reference in ('id="', "url(#", 'href="#'):
        element = element.replace(reference, f"{reference}{place}-{plot.name}-")
    title = plot.figure.axes[0].get_title()
    size = "large" if plot.figure.get_figwidth() > LARGE_INCHES else "usual"
    element = re.sub(r"<svg ", '<svg role="img" ', element, count=1)
    return {"svg": element, "title": title, "words": plot.words, "size": size}


def _psnr(entry: Entry) -> str:
    if not math.isfinite(entry.psnr):
        return "equal images"
    low, high = confidence(entry.diagnosis.psnr, "psnr", entry.label)
    return f"{entry.psnr:.2f} dB ({low:.1f} to {high:.1f})"


def _db(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "equal"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _bits(recipe: dict[str, Any] | None) -> str:
    return "another tool's" if recipe is None else f"W{recipe['weights']['bits']}A{recipe['activations']['bits']}"


def _plain(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"
