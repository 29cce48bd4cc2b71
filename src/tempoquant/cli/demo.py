"""``tempoquant demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tempoquant.cli import app
from tempoquant.cli.options import COUNT, Json, Overwrite, Seed, check_json, console, progress, write_json
from tempoquant.outputs import Kind, check_output, writing

if TYPE_CHECKING:
    from rich.table import Table

    from tempoquant.demo import DemoRow


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for the picture and the models")] = Path("demo"),
    samples: Annotated[int, typer.Option(**COUNT, help="calibration trajectories")] = 32,
    images: Annotated[int, typer.Option(**COUNT, help="paired images to judge by")] = 16,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Quantize the bundled model carelessly and with care, and show both.

    Example: tempoquant demo -o demo
    """
    check_output(out, overwrite, Kind.DEMONSTRATION)
    check_json(json_file, overwrite, out)
    from tempoquant.demo import METHODS, run_demo

    table, found = _table(images), []
    with writing(out, Kind.DEMONSTRATION, overwrite=overwrite) as output, output.staging() as folder:
        for row in run_demo(folder, calibration_samples=samples, images=images, seed=seed, progress=progress()):
            table.add_row(*_cells(row), end_section=row.recipe.method == METHODS[-1])
            found.append(row.to_dict())
        write_json(folder / "demo.json", found)
    console().print(table)
    console().print(f"picture: {out / 'samples.png'}   models: {out}/*")
    write_json(json_file, found)


def _table(images: int) -> "Table":
    from rich.table import Table

    from tempoquant.demo import MODEL, STEPS

    title = f"{MODEL}, DDIM {STEPS} steps, {images} images from the same noise as full precision"
    table = Table(title=title, box=None, header_style="bold")
    for name in ("method", "bits", "MB", "smaller", "PSNR dB", "SSIM", "SQNR dB", "temporal cosine", "mismatch", "s"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    return table


def _cells(row: "DemoRow") -> list[str]:
    size: dict[str, Any] = row.facts["size"]
    metrics = row.metrics
    return [
        row.recipe.method,
        f"W{row.recipe.weights.bits}A{row.recipe.activations.bits}",
        f"{size['total'] / 1e6:.2f}",
        f"{size['ratio']:.2f}x",
        f"{metrics['psnr']['mean']:.2f}",
        f"{metrics['ssim']['mean']:.3f}",
        f"{metrics['sqnr']['db']:.2f}",
        f"{metrics['cosine']['mean']:.5f}",
        f"{100 * metrics['temporal_mismatch']:.1f} %",
        f"{row.seconds:.0f}",
    ]
