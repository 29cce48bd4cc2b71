"""What a denoiser takes: bytes on disk, peak memory, and seconds from its folder to the first prediction.

    python benchmarks/footprint.py --json docs/results/footprint.json

The UNet of the CIFAR-10 papers with random weights, on which none of it depends. Every engine runs in a process of its
own; memory is the process's peak while it loads and predicts, less what it held after its imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMPipeline, DiffusionPipeline
from inference import cifar10

import tempoquant
from tempoquant.checkpoint.evidence import machine
from tempoquant.pipelines import DiffusersModel

CALLS = 3
WIDTHS = ((8, 8), (4, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="results")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measured(args.child[0], Path(args.child[1]), args.batch)))
        return
    if args.json is None:
        parser.error("--json is needed")
    found: dict[str, Any] = {"machine": machine(), "batch": args.batch, "results": []}
    with tempfile.TemporaryDirectory() as work:
        for name, engine, folder in folders(Path(work)):
            command = [sys.executable, __file__, "--batch", str(args.batch), "--threads", str(args.threads)]
            done = subprocess.run(
                [*command, "--child", engine, str(folder)], capture_output=True, text=True, check=True
            )
            size = sum(file.stat().st_size for file in (folder / "unet").rglob("*") if file.is_file())
            row = {"name": name, "disk_mb": size / 1e6, **json.loads(done.stdout.splitlines()[-1])}
            print(
                {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
            found["results"].append(row)
            args.json.write_text(json.dumps(found, indent=1) + "\n")


def folders(work: Path) -> list[tuple[str, str, Path]]:
    """(name, engine, folder) of everything that is measured."""
    torch.manual_seed(0)
    denoiser = cifar10()
    pipe = DDIMPipeline(denoiser.module, denoiser.scheduler)
    pipe.save_pretrained(work / "full")
    rows = [("float32", "torch", work / "full")]
    calibration = {"samples": 1, "steps": 2, "rows": 2, "rows_per_step": 1}
    for weights, activations in WIDTHS:
        recipe = tempoquant.method_recipe("rtn", weights=weights, activations=activations, calibration=calibration)
        quantized = tempoquant.quantize(DiffusersModel(pipe, "cifar10"), recipe)
        ours, exported = work / recipe.name, work / f"{recipe.name} openvino"
        quantized.save_pretrained(ours)
        tempoquant.export(quantized, exported, "openvino")
        bits = f"W{weights}A{activations}"
        rows += [(f"integer {bits}", "torch", ours), (f"{bits} exported to openvino", "openvino", exported)]
    return rows


def measured(engine: str, folder: Path, batch: int) -> dict[str, float]:
    """Peak megabytes and seconds to the first prediction, and of one of the next."""
    if engine == "openvino":
        import openvino  # noqa: F401
    before, start = resident(), time.perf_counter()
    if engine == "openvino":
        pipe = tempoquant.load_exported(folder).pipe
    else:
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.scheduler.set_timesteps(2)
    step = int(pipe.scheduler.timesteps[-1])
    x = torch.zeros(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    seconds = []
    with torch.inference_mode():
        for _ in range(CALLS):
            pipe.unet(x, step)
            seconds.append(time.perf_counter() - start)
    return {
        "peak_mb": resident("VmHWM") - before,
        "first_seconds": seconds[0],
        "next_seconds": seconds[-1] - seconds[-2],
    }


def resident(which: str = "VmRSS") -> float:
    """Megabytes that this process holds, or held at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


if __name__ == "__main__":
    main()
