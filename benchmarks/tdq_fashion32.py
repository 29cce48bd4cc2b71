"""Training at few bits on the bundled model: LSQ and TDQ, beside post-training quantization at the same widths.

    python benchmarks/tdq_fashion32.py --work out/tdq --json docs/results/tdq_fashion32.json \
        --data /usr/share/datasets/fashion-mnist

Without --data models train by distillation from their own trajectories. "tdq-ptq" is post-training with the precision
policy of the trained rows (first and last layer, temporal layers and attention products float). Results are written as
they finish; a killed run continues, within a training too. Lengths stand beside every number.
"""

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any

import torch

import tempoquant
from tempoquant.bench.experiment import parse_bits
from tempoquant.checkpoint.evidence import machine
from tempoquant.evaluation import Reference, compare, feature_extractor, frechet_distance, reference, save_grid
from tempoquant.graph import read_denoiser
from tempoquant.pipelines import Model, resolve, to_images
from tempoquant.progress import RichProgress
from tempoquant.stages import probe_of
from tempoquant.training import Rhythm
from tempoquant.workplace import partial_of

MODEL, STEPS, SEED = "fashion32", 20, 1000
ROWS = "tfmq-dm W4A4;tdq-ptq W4A4;lsq W4A4;tdq W4A4;tfmq-dm W3A3;tdq-ptq W3A3;lsq W3A3;tdq W3A3"
WIDE = "lsq W8A8;tdq W8A8;lsq W8A4;tdq W8A4"
READINGS = {"tdq-ptq": "released"}
SHOWN = 10


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="recordings, checkpoints and models")
    parser.add_argument("--json", type=Path, required=True, help="results")
    parser.add_argument("--picture", type=Path, help="a .png of rows of samples from the same noise")
    parser.add_argument("--data", help="images to train on; without them distillation")
    parser.add_argument("--rows", default=f"{ROWS};{WIDE}", help="method WxAy;...")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--effort", default="balanced", help="of post-training rows: fast, balanced or paper")
    parser.add_argument("--samples", type=int, default=256, help="recorded trajectories")
    parser.add_argument("--images", type=int, default=32, help="paired images to judge by")
    parser.add_argument("--drawn", type=int, default=512, help="samples of the distance between distributions")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.json.read_text()) if args.json.exists() else {"machine": machine(), "results": []}
    told = command(args)
    found |= {"commands": list(dict.fromkeys([*found.get("commands", []), told]))}
    full = resolve(MODEL)
    truth, real = full_precision(full, args), drawn(full, args)
    picture = {"full precision": to_images(truth.images[:SHOWN])}
    done = {row["name"] for row in found["results"]}
    for seed in (int(part) for part in args.seeds.split(",")):
        for row in args.rows.split(";"):
            recipe = recipe_of(row, seed, args)
            name = f"{row} {recipe_length(recipe)}seed {seed}"
            if name in done:
                continue
            quantized, seconds = made(full, recipe, args)
            metrics = compare(truth, quantized.model)
            assert metrics.images is not None
            picture[f"{row} seed {seed}"] = to_images(metrics.images[:SHOWN])
            distance = frechet_distance(real, drawn(quantized.model, args), feature_extractor("fashion32-cnn"))
            told = {"psnr": metrics.to_dict()["psnr"]["mean"], "sqnr": metrics.sqnr, distance.name: distance.value}
            print(name, {key: round(value, 3) for key, value in told.items()}, f"{seconds:.0f} s", flush=True)
            size = quantized.facts.get("size") or {}
            lengths = {"steps": args.steps, "batch": args.batch, "data": args.data or "its own trajectories"}
            lengths |= {"images": args.images, "drawn": args.drawn}
            entry = {"name": name, **told, "seconds": seconds, "bytes": size.get("total"), **lengths}
            found["results"].append(entry | {"recipe": recipe.model_dump(mode="json")})
            args.json.write_text(json.dumps(found, indent=1) + "\n")
    if args.picture is not None:
        save_grid(picture, args.picture)


def command(args: argparse.Namespace) -> str:
    """What gives these rows again."""
    names = (
        "rows",
        "seeds",
        "steps",
        "batch",
        "lr",
        "ema",
        "effort",
        "samples",
        "images",
        "drawn",
        *(["data"] * bool(args.data)),
    )
    options = " ".join(f"--{name} {shlex.quote(str(getattr(args, name)))}" for name in names)
    return f"python benchmarks/tdq_fashion32.py {options}"


def recipe_of(row: str, seed: int, args: argparse.Namespace) -> tempoquant.Recipe:
    """The recipe of a row such as ``tdq W4A4``."""
    method, bits = row.split()
    weights, activations = parse_bits(bits)
    recipe = tempoquant.method_recipe(
        method,
        weights=weights,
        activations=activations,
        reading=READINGS.get(method, "paper"),
        effort="fast" if method in ("lsq", "tdq") else args.effort,
        calibration={"steps": STEPS, "samples": args.samples, "rows_per_step": 4},
        seed=seed,
    )
    if recipe.training is None:
        return recipe
    data = recipe.model_dump(mode="json")
    length = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "warm_up": args.steps // 20, "ema": args.ema}
    return tempoquant.Recipe.parse({**data, "training": {**data["training"], **length}})


def recipe_length(recipe: tempoquant.Recipe) -> str:
    """How long a recipe trains, for names."""
    how = recipe.training
    return "" if how is None else f"{how.steps}x{how.batch} "


def made(full: Model, recipe: tempoquant.Recipe, args: argparse.Namespace) -> tuple[Any, float]:
    """The quantized model, continued where it was stopped, and the seconds of this part of the work."""
    start, recording = time.perf_counter(), args.work / f"recording-{args.samples}-seed-{recipe.seed}"
    if recipe.training is None:
        quantized = tempoquant.quantize(full, recipe, recording=recording, progress=RichProgress())
    else:
        out = args.work / f"{recipe.name} {recipe_length(recipe)}seed {recipe.seed}".replace(" ", "-")
        begun = partial_of(out).exists()
        options = {"data": args.data, "recording": recording, "rhythm": Rhythm(save=50)}
        quantized = tempoquant.train(
            full, recipe, out=out, resume=begun, overwrite=not begun, progress=RichProgress(), **options
        )
    return quantized, time.perf_counter() - start


def full_precision(full: Model, args: argparse.Namespace) -> Reference:
    """What every row is compared with, image by image."""
    graph = read_denoiser(probe_of(full, tempoquant.method_recipe("rtn", calibration={"steps": STEPS})))
    few = min(8, args.images)
    return reference(
        full, projections=graph.projections, samples=args.images, noise_samples=few, steps=STEPS, seed=SEED
    )


def drawn(target: Model, args: argparse.Namespace) -> torch.Tensor:
    """Samples for the distance between distributions, (N, C, H, W) uint8: of noise that nothing else uses."""
    images = target.generate(args.drawn, steps=STEPS, seed=SEED + 1, batch_size=64, progress=RichProgress())
    return to_images(images).permute(0, 3, 1, 2).contiguous()


if __name__ == "__main__":
    main()
