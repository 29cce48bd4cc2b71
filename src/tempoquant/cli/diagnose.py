"""``tempoquant diagnose``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    COUNT_OR_0,
    BatchSize,
    Engine,
    Factory,
    Folder,
    Json,
    Overwrite,
    Sampler,
    Seed,
    Steps,
    check_folder_place,
    check_json,
    check_not_input,
    console,
    open_model,
    progress,
    write_json,
)
from tempoquant.diagnosis import Diagnosis, diagnose
from tempoquant.errors import InputError
from tempoquant.outputs import Kind, check_output

SHOWN = 8


@app.command("diagnose")
def diagnose_command(
    model: Folder,
    reference_model: Annotated[str, typer.Option("--reference", help="the full-precision model")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder to write; MODEL/diagnosis of a quantized folder")
    ] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", **COUNT, help="trajectories to compare on")] = 8,
    ranking_samples: Annotated[
        int, typer.Option(**COUNT_OR_0, help="trajectories to rank layers on; 0 ranks none")
    ] = 4,
    keep: Annotated[int, typer.Option(**COUNT, help="costliest layers that policy.yaml keeps in higher precision")] = 5,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", help="a pattern of layers to look at; may be repeated")
    ] = None,
    recording: Annotated[Path | None, typer.Option(help="folder of recorded trajectories to make or reuse")] = None,
    steps: Steps = None,
    sampler: Sampler = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    seed: Seed = 1,
    batch_size: BatchSize = 16,
    denoiser: Factory = None,
    engine: Engine = "auto",
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Find where a quantized model leaves full precision: at which steps, in which layers, and what to do about it.

    Example: tempoquant diagnose out --reference fashion32 -o out/diagnosis
    """
    place = out or Path(model) / "diagnosis"
    if out is None and not Path(model).is_dir():
        raise InputError(f"{model!r} is no folder to write a diagnosis into: give -o DIR")
    check_output(place, overwrite, Kind.DIAGNOSIS)
    check_not_input(place, model)
    check_json(json_file, overwrite, place)
    check_folder_place("--recording", recording)
    # A bare denoiser's folder is filled with the reference's own module unless the user says otherwise.
    factory = reference_model if ".py:" in reference_model and (Path(model) / "denoiser").is_dir() else None
    target, quantized = open_model(model, denoiser or factory, engine)
    full, _ = open_model(reference_model)
    found = diagnose(
        quantized or target,
        full,
        out=place,
        samples=samples,
        steps=steps,
        seed=seed,
        sampler=sampler,
        batch_size=batch_size,
        ranking_samples=ranking_samples,
        keep=keep,
        layers=layer or (),
        recording=recording,
        conditioning=conditioning_of(full, samples, prompts, classes, guidance, quantized),
        reference_name=reference_model,
        overwrite=overwrite,
        progress=progress(),
    )
    for table in _tables(found):
        console().print(table)
    console().print(
        f"{place}: see it with `tempoquant report {place} -o report.html`; keep the costliest layers in "
        f"higher precision with `tempoquant quantize ... --policy {place / 'policy.yaml'}`",
        soft_wrap=True,
    )
    write_json(json_file, _json(found))


def _tables(found: Diagnosis) -> list[Table]:
    overview = Table("", "value", "what it says", box=None, title=f"{found.name} against full precision")
    temporal, others = found.deviations[1:, -1].tolist()
    overview.add_row("PSNR", f"{found.psnr.mean():.2f} dB", f"images from the same noise, {len(found.psnr)} samples")
    overview.add_row("trajectory", f"{100 * found.deviations[0, -1]:.1f} %", "distance at the last step")
    overview.add_row("", f"{100 * temporal:.1f} %", "with only the temporal layers quantized")
    overview.add_row("", f"{100 * others:.1f} %", "with all but the temporal layers quantized")
    if found.projections:
        overview.add_row("temporal cosine", f"{float(found.feature_cosine.min()):.6f}", "least of any feature and step")
        count, first = len(found.disturbed), "".join(f"; most: {name}" for name in found.disturbed[:1])
        overview.add_row("disturbed", f"{count} of {len(found.projections)}", f"temporal features{first}")
        share = f"{100 * (found.mismatch or 0):.1f} %"
        overview.add_row("temporal mismatch", share, "temporal features nearest to another step's")
    ranking = Table("costliest layers", "image error", "share", "sees", box=None)
    for cost in found.culprits[:SHOWN]:
        kind = "the time step alone" if cost.name in found.facts["temporal_layers"] else "the image"
        ranking.add_row(cost.name, f"{cost.error:.2e}", f"{100 * cost.share:.1f} %", kind)
    steps = Table("quantized at time steps", "image error", "share", box=None)
    for cost in found.step_ranges:
        steps.add_row(cost.name, f"{cost.error:.2e}", f"{100 * cost.share:.1f} %")
    return [overview, *([ranking, steps] if found.culprits else [])]


def _json(found: Diagnosis) -> dict[str, Any]:
    """The short result; the folder holds the rest."""
    return {
        **found.facts,
        "psnr": found.psnr.tolist(),
        "temporal_mismatch": found.mismatch,
        "deviations": found.deviations.tolist(),
        "disturbed_temporal_layers": list(found.disturbed),
        "culprits": [asdict(cost) for cost in found.culprits],
        "step_ranges": [asdict(cost) for cost in found.step_ranges],
        "policy": list(found.policy),
    }
