"""``tempoquant diagnose``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.cli import app
from tempoquant.cli.conditioning import Classes, ConditioningFlags, Guidance, Prompts, conditioning_of
from tempoquant.cli.options import (
    COUNT,
    COUNT_OR_0,
    BatchSize,
    Engine,
    Factory,
    Folder,
    Json,
    Layers,
    Overwrite,
    Plugins,
    Recording,
    ReferenceModel,
    Sampler,
    Seed,
    Steps,
    check_json,
    check_model,
    check_not_input,
    check_recording,
    console,
    factory_for,
    flag_in_use,
    open_model,
    progress,
    refuse,
    write_json,
)
from tempoquant.errors import InputError
from tempoquant.outputs import Kind, check_output
from tempoquant.plugins import load_plugins
from tempoquant.sampling import check_sampler

if TYPE_CHECKING:
    from rich.table import Table

    from tempoquant.diagnosis import Diagnosis

SHOWN = 8


@app.command("diagnose")
def diagnose_command(
    context: typer.Context,
    model: Folder,
    reference_model: ReferenceModel,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder to write; MODEL/diagnosis of a quantized folder")
    ] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", **COUNT, help="trajectories to compare on")] = 8,
    ranking_samples: Annotated[
        int, typer.Option(**COUNT_OR_0, help="trajectories to rank layers on; 0 ranks none")
    ] = 4,
    keep: Annotated[int, typer.Option(**COUNT, help="costliest layers that policy.yaml keeps in higher precision")] = 5,
    layer: Layers = None,
    recording: Recording = None,
    steps: Steps = None,
    sampler: Sampler = None,
    prompts: Prompts = None,
    classes: Classes = None,
    guidance: Guidance = None,
    seed: Seed = 1,
    batch_size: BatchSize = 16,
    denoiser: Factory = None,
    plugin: Plugins = None,
    engine: Engine = "auto",
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Find where a quantized model leaves full precision: at which steps, in which layers, and what to do about it.

    Example: tempoquant diagnose out --reference fashion32 -o out/diagnosis
    """
    load_plugins(plugin or ())
    place = _check_place(model, out, overwrite)
    check_json(json_file, overwrite, place)
    check_recording(recording)
    _check_ranking(context, samples, ranking_samples)
    if sampler is not None:
        check_sampler(sampler)
    factory = factory_for(model, reference_model, denoiser)
    check_model(model, factory, engine)
    check_model(reference_model)
    flags = ConditioningFlags(prompts, classes, guidance)
    from tempoquant.diagnosis import diagnose

    target, quantized = open_model(model, factory, engine)
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
        conditioning=conditioning_of(full, samples, flags, quantized),
        reference_name=reference_model,
        overwrite=overwrite,
        progress=progress(),
    )
    _show(found, place)
    write_json(json_file, _json(found))


def _check_place(model: str, out: Path | None, overwrite: bool) -> Path:
    """The folder to write; InputError if it cannot be written, or is the model."""
    place = out or Path(model) / "diagnosis"
    if out is None and not Path(model).is_dir():
        raise InputError(f"{model!r} is no folder to write a diagnosis into: give -o DIR")
    check_output(place, overwrite, Kind.DIAGNOSIS)
    check_not_input(place, model)
    return place


def _check_ranking(context: typer.Context, samples: int, ranking_samples: int) -> None:
    """Refuse trajectories to rank on that are not there, and layers to keep of a ranking that is not made."""
    if ranking_samples > samples and flag_in_use(context, "ranking_samples"):
        raise InputError(f"--ranking-samples {ranking_samples} is out of range: 0 to {samples}, the samples")
    if ranking_samples == 0:
        refuse(context, ("keep",), "is of no use with --ranking-samples 0: no layer is ranked")


def _show(found: "Diagnosis", place: Path) -> None:
    """Print the tables of a diagnosis, and what to do with the folder it lies in."""
    for table in _tables(found):
        console().print(table)
    console().print(
        f"{place}: see it with `tempoquant report {place} -o report.html`; keep the costliest layers in "
        f"higher precision with `tempoquant quantize ... --policy {place / 'policy.yaml'}`",
        soft_wrap=True,
    )


def _tables(found: "Diagnosis") -> "list[Table]":
    from rich.table import Table

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


def _json(found: "Diagnosis") -> dict[str, Any]:
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
