"""The content of a report as plain data, the same for HTML and Markdown."""

from collections.abc import Sequence
from typing import Any

import yaml

from tempoquant.checkpoint import versions
from tempoquant.report.entries import Entry, Missing
from tempoquant.report.inline import inline
from tempoquant.report.pictures import GAIN, data_uri, difference, strip_uri
from tempoquant.report.plots import model_plots, shared_plots
from tempoquant.report.reproduce import commands, prompts
from tempoquant.report.tables import GLOSSARY, decibels, notes, stored_metrics, table
from tempoquant.report.verdict import others, recommended, verdict

MOST_IMAGES = 8
TITLE = "Which quantized model to use"


def page(entries: Sequence[Entry], missing: Sequence[Missing], command: str) -> dict[str, Any]:
    """The data of the HTML template.

    Args:
        entries: models of the report.
        missing: folders without a diagnosis.
        command: that writes this report again.
    """
    first = entries[0].diagnosis
    return {
        "title": TITLE,
        "verdict": verdict(entries),
        "others": [*others(entries), *notes(entries)],
        "table": table(entries),
        "glossary": GLOSSARY,
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


def samples(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Images from the same noise, one set a sample: a column a model, with its image and the difference."""
    full = entries[0].diagnosis.full_images
    count = min(MOST_IMAGES, len(full))
    psnr = recommended(entries).diagnosis.psnr[:count]
    notes = {int(psnr.argmin()): "changes most", int(psnr.argmax()): "changes least"} if count > 2 else {}
    sets = []
    for i in range(count):
        columns = [{"label": "the original", "note": "full precision", "uri": data_uri(full[i]), "changed": ""}]
        for entry in entries:
            image, db = entry.diagnosis.images[i], decibels(float(entry.diagnosis.psnr[i]))
            changed = data_uri(difference(full[i], image))
            columns.append({"label": entry.label, "note": db, "uri": data_uri(image), "changed": changed})
        sets.append({"number": i + 1, "note": notes.get(i, ""), "columns": columns})
    return sets


def film(entries: Sequence[Entry]) -> dict[str, Any]:
    """Frames of the first sample while it is denoised, a strip a model."""
    first = entries[0].diagnosis
    strips = [{"label": "the original", "uri": strip_uri(first.full_frames[:, 0])}]
    strips += [{"label": entry.label, "uri": strip_uri(entry.diagnosis.frames[:, 0])} for entry in entries]
    steps = [f"{float(first.timesteps[k]):g}" for k in first.frame_steps]
    return {"strips": strips, "steps": steps, "indices": first.frame_steps.tolist()}


def model(entry: Entry, number: int) -> dict[str, Any]:
    """The section of one model.

    Args:
        entry: the model.
        number: of the section.
    """
    d, facts = entry.diagnosis, entry.diagnosis.facts
    recipe = facts["quantized"]["recipe"]
    return {
        "label": entry.label,
        "findings": findings(entry),
        "plots": [inline(plot, f"model{number}") for plot in model_plots(entry)],
        "policy": yaml.safe_dump({"policy": list(d.policy)}, sort_keys=False) if d.policy else "",
        "recipe": "" if recipe is None else yaml.safe_dump(recipe, sort_keys=False),
        "commands": commands(entry),
        "prompts": prompts(entry),
        "files": entry.evidence.get("files", facts["quantized"].get("files", {})),
        "versions": facts["versions"],
        "machine": facts["machine"],
    }


def findings(entry: Entry) -> list[str]:
    """The main results of a diagnosis in sentences."""
    d, facts = entry.diagnosis, entry.diagnosis.facts
    last, temporal, others = (100 * float(row[-1]) for row in d.deviations)
    sentences = [
        f"Its trajectories are {last:.1f} % away from full precision at the last step; with the temporal layers alone "
        f"quantized {temporal:.1f} %, with all others alone {others:.1f} %."
    ]
    if d.disturbed:
        sentences.append(
            f"{len(d.disturbed)} of {len(d.projections)} temporal features are disturbed (cosine below 0.9995), most "
            f"of all {', '.join(d.disturbed[:3])}. A method that minds them, such as tfmq-dm, heals that."
        )
    elif d.projections:
        sentences.append(f"All {len(d.projections)} temporal features are as they were (cosine at least 0.9995).")
    if d.culprits:
        names = ", ".join(f"{cost.name} ({100 * cost.share:.0f} %)" for cost in d.culprits[:3])
        worst = max(d.step_ranges, key=lambda cost: cost.share)
        sentences.append(
            f"The costliest layers are {names}; the costliest steps t = {worst.name} ({100 * worst.share:.0f} %)."
        )
        ranks = [(i, c.name) for i, c in enumerate(d.culprits, 1) if c.name in facts["temporal_layers"]]
        if ranks:
            named = ", ".join(f"{name} (rank {i})" for i, name in ranks)
            sentences.append(
                f"Of the {len(d.culprits)} costliest layers {len(ranks)} see the time step alone: {named}."
            )
    return sentences
