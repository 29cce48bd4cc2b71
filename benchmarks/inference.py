"""How fast a denoiser call is: float engines and other packages' int8 against ours, in one process, interleaved.

    python benchmarks/inference.py --json docs/results/inference.json [--models fashion32,cifar10] [--batches 1,4]

Models: fashion32; anime64 (TEMPOQUANT_ANIME64 names its folder); cifar10, the UNet of CIFAR-10 papers, and sd1, that
of Stable Diffusion v1 at 64x64 latents, both with random weights, on which latency does not depend. In every round
each engine has its turn (those of ``rival_engines.py`` with --rivals, as far as they are installed): some calls in a
row, as a sampler makes them, after one that is not timed. Ratios are taken within a round, and their median stands with
its 95 % interval (bootstrap). A model and batch that the file has already are measured anew, others stay.
"""

import argparse
import copy
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel
from rival_engines import exported, rivals
from torch import Tensor

import tempoquant
from tempoquant import Denoiser
from tempoquant.capture.replay import Replay
from tempoquant.checkpoint.evidence import machine
from tempoquant.kernels.engine import engine_report
from tempoquant.pipelines import resolve

BASELINES = ("float32", "float32 channels_last")
REST = 0.1
"""Seconds before every turn: other engines' threads spin on for more work, and would slow the next."""
Run = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--models", default="fashion32,cifar10,anime64")
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=3, help="timed calls of a turn")
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    command = f"python benchmarks/inference.py --models {args.models} --batches {args.batches} --rounds {args.rounds}"
    command += f" --calls {args.calls}" * (args.calls != 3) + " --rivals" * args.rivals
    found = json.loads(args.json.read_text()) if args.json.exists() else {"machine": machine(), "results": []}
    for name in args.models.split(","):
        for batch in (int(b) for b in args.batches.split(",")):
            entry = {"command": command, **measure(name, batch, args.rounds, args.calls, args.rivals)}
            others = [r for r in found["results"] if (r["model"], r["batch"]) != (name, batch)]
            found["results"] = [*others, entry]
            args.json.write_text(json.dumps(found, indent=1) + "\n")


def cifar10() -> Denoiser:
    """The CIFAR-10 UNet, 35,746,307 parameters."""
    module = UNet2DModel(
        sample_size=32,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    return Denoiser(module.eval(), DDIMScheduler(), (3, 32, 32), name="cifar10")


def sd1() -> Denoiser:
    """The UNet of Stable Diffusion v1: diffusers' default configuration with its cross-attention width."""
    module = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return Denoiser(module.eval(), DDIMScheduler(), (4, 64, 64), name="sd1")


def anime64() -> Denoiser:
    """The 63 M-parameter model; see ``anime64_model.py``."""
    from anime64_model import denoiser

    return denoiser()


MODELS: dict[str, Callable[[], Denoiser]] = {
    "fashion32": lambda: resolve("fashion32").denoiser,
    "cifar10": cifar10,
    "anime64": anime64,
    "sd1": sd1,
}


def measure(name: str, batch: int, rounds: int, calls: int, with_rivals: bool) -> dict[str, Any]:
    """Latencies and ratios of all engines on one model at one batch size."""
    torch.manual_seed(0)
    denoiser = MODELS[name]()
    given = {"encoder_hidden_states": torch.randn(1, 77, 768)} if name == "sd1" else None
    x = torch.randn(batch, *denoiser.sample_shape)
    context = {key: value.expand(batch, -1, -1).contiguous() for key, value in (given or {}).items()}
    engines, kernels = engines_of(denoiser, given, x, context, with_rivals)
    with torch.inference_mode():
        seconds = timed(engines, rounds, calls)
    summary = {engine: {"milliseconds": 1000 * median(times)} for engine, times in seconds.items()}
    best = min(BASELINES, key=lambda engine: summary[engine]["milliseconds"])
    for engine, times in seconds.items():
        ratios = torch.tensor([b / t for b, t in zip(seconds[best], times, strict=True)])
        summary[engine]["speedup"] = float(ratios.median())
        summary[engine]["interval"] = bootstrap(ratios)
    print(name, batch, {engine: round(row["speedup"], 2) for engine, row in summary.items()}, flush=True)
    return {"model": name, "batch": batch, "baseline": best, "rounds": rounds, "engines": summary, "kernels": kernels}


def engines_of(
    denoiser: Denoiser, given: dict[str, Tensor] | None, x: Tensor, context: dict[str, Tensor], with_rivals: bool
) -> tuple[dict[str, Run], dict[str, int]]:
    """What is timed, by name; and how many layers each kernel runs."""
    last = x.contiguous(memory_format=torch.channels_last)
    engines: dict[str, Run] = {
        "float32": lambda: denoiser(x, 50, **context),
        "float32 channels_last": lambda: denoiser(last, 50, **context),
    }
    kernels: dict[str, int] = {}
    calibration = {"samples": 1, "steps": 2, "rows": 2, "rows_per_step": 1}
    plain = tempoquant.method_recipe("rtn", weights=4, activations=8, calibration=calibration)
    # Speed does not depend on where ranges end, and a search takes minutes on Stable Diffusion's weights.
    plain = plain.model_copy(update={"weights": plain.weights.model_copy(update={"range": "minmax"})})
    stepwise = plain.model_copy(update={"activations": plain.activations.model_copy(update={"steps": "per-step"})})
    recipes = {"W4A8": plain, "W4A8 per-step scales": stepwise}
    if given is not None:
        # Stable Diffusion's calls take seconds, and its temporal block holds 3 % of the weights.
        del recipes["W4A8 per-step scales"]
    for label, recipe in recipes.items():
        quantized = tempoquant.quantize(denoiser, recipe, conditioning=given)
        quantized.use_engine("integer")
        for kernel in engine_report(quantized.denoiser.module).values():
            kernels[f"{label}: {kernel}"] = kernels.get(f"{label}: {kernel}", 0) + 1
        engines[f"integer {label}"] = lambda d=quantized.denoiser: d(last, 50, **context)
        engines[f"integer {label}, replayed"] = replayed(quantized, 50, last, context)
        if with_rivals:
            engines |= exported(label, quantized, x, context)
        if recipe is plain and given is None:
            frozen = copy.deepcopy(quantized)
            frozen.freeze_schedule()
            step = float(frozen.clock.timesteps[0])
            engines[f"integer {label}, temporal table"] = lambda d=frozen.denoiser, t=step: d(last, t, **context)
            engines[f"integer {label}, temporal table, replayed"] = replayed(frozen, step, last, context)
    if with_rivals:
        engines |= rivals(denoiser, x, context)
    return engines, kernels


def replayed(quantized: tempoquant.QuantizedPipeline, step: float, x: Tensor, context: dict[str, Tensor]) -> Run:
    """A copy of the model whose calls are replayed, after the first ones: that call."""
    made = copy.deepcopy(quantized)
    made.use_engine("integer")
    replay = Replay(made.denoiser.module, made.clock)
    replay.__enter__()
    with torch.inference_mode():
        for _ in range(3):
            made.denoiser(x, step, **context)
    assert replay.replays
    return lambda: made.denoiser(x, step, **context)


def timed(engines: dict[str, Run], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds of a call of every engine in every round, after a round that is not counted."""
    # As timeit does: collections go over whatever all engines together have imported.
    gc.collect()
    gc.disable()
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    for round_number in range(rounds + 1):
        for engine, run in engines.items():
            time.sleep(REST)
            run()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            if round_number:
                seconds[engine].append((time.perf_counter() - start) / calls)
    gc.enable()
    return seconds


def median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())


def bootstrap(ratios: Tensor, draws: int = 2000) -> list[float]:
    """The 95 % interval of the median."""
    picks = torch.randint(len(ratios), (draws, len(ratios)), generator=torch.Generator().manual_seed(0))
    ends = torch.quantile(ratios[picks].median(1).values, torch.tensor([0.025, 0.975]))
    return [round(float(end), 3) for end in ends]


if __name__ == "__main__":
    main()
