"""Write docs/results.md from the JSON files beside it: no number is typed by hand.

python benchmarks/results_page.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results_parts import machine, table
from results_training import demo_qat, tdq_fashion32

RESULTS = Path(__file__).parents[1] / "docs" / "results"
INTRO = """# Results

Every table is made from a JSON file in `docs/results/` by `benchmarks/results_page.py`; the command that made the file
stands above it. Paired metrics compare images (PSNR, SSIM) and predicted noise (SQNR) with full precision from the same
noise; temporal cosine compares every temporal feature at every step, and mismatch is the share of them whose nearest
full-precision feature belongs to another step. Numbers on these small models rank methods; they are not the papers'.
"""


def main() -> None:
    parts = [INTRO, *benches()]
    for name, section in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            parts.append(section(json.loads(path.read_text())))
    (RESULTS.parent / "results.md").write_text("\n".join(parts))


def demo(rows: list[dict[str, Any]]) -> str:
    """The demonstration's table."""
    text = "## The demonstration: fashion32\n\n"
    text += "`make demo`: DDIM 20 steps, 32 calibration trajectories, 16 images, effort `fast`.\n\n"
    metrics = ("psnr", "ssim", "sqnr", "cosine", "mismatch")
    return text + table(
        ("", "MB", "smaller", "PSNR dB", "SSIM", "SQNR dB", "temporal cosine", "least", "mismatch", "seconds"),
        ((r["name"], f"{r['size']['bytes'] / 1e6:.2f}", f"{r['size']['ratio']:.2f}x", *paired(r["metrics"], metrics),
          f"{r['seconds']:.0f}") for r in rows),
    )  # fmt: skip


def paired(found: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Cells of a paired comparison's metrics."""
    cells = {
        "psnr": [f"{found['psnr']['mean']:.2f}"],
        "ssim": [f"{found['ssim']['mean']:.3f}"],
        "sqnr": [f"{found['sqnr']['db']:.2f}"],
        "cosine": [f"{found['cosine']['mean']:.6f}", f"{found['cosine']['min']:.5f}"],
        "mismatch": [f"{100 * found['temporal_mismatch']:.1f} %"],
    }
    return [cell for name in names for cell in cells[name]]


def ablation_fashion32(found: dict[str, Any]) -> str:
    """TIAR and FSC turned off one by one."""
    text = (
        f"## What each part buys: fashion32, effort `{found['effort']}`\n\n`python benchmarks/ablation_fashion32.py`: "
        f"DDIM {found['steps']} steps, {found['calibration_samples']} calibration trajectories, {found['images']} "
        f'images, {machine(found)}. "Prev" and "Freeze" are the rows of the TFMQ-DM paper.\n\n'
    )
    rows = (
        (r["name"], f"{r['psnr']:.2f}", f"{r['sqnr']:.2f}", f"{r['temporal_cosine']:.6f}",
         f"{r['temporal_cosine_min']:.5f}", f"{100 * r['temporal_mismatch']:.1f} %")
        for r in found["results"]
    )  # fmt: skip
    text = f"{text}{table(('', 'PSNR dB', 'SQNR dB', 'temporal cosine', 'least', 'mismatch'), rows)}\n"
    return text + (
        "Turning either part off makes the temporal features worse; TIAR matters most. At `fast`, layers are rounded "
        'one by one, so "Prev" does not yet pull temporal layers towards block outputs as in the paper. PSNR does not '
        "rank these rows at so few images: image activations at 8 bits set its level.\n"
    )


def temporal_cache(found: dict[str, Any]) -> str:
    """Temporal features computed and looked up, shortcuts whole and split."""
    text = (
        f"## Temporal features looked up, shortcuts split: fashion32, effort `fast`\n\n"
        f"`python benchmarks/temporal_cache_fashion32.py`: DDIM {found['steps']} steps, "
        f"{found['calibration_samples']} calibration trajectories, {found['images']} images, {machine(found)}.\n\n"
    )
    rows = (
        (r["name"], f"{r['size']['total'] / 1e3:.0f}", f"{r['size']['features'] / 1e3:.0f}", f"{r['psnr']:.2f}",
         f"{r['sqnr']:.2f}", f"{r['temporal_cosine']:.7f}", f"{r['temporal_cosine_min']:.6f}")
        for r in found["results"]
    )  # fmt: skip
    head = ("", "kB", "of them features", "PSNR dB", "SQNR dB", "temporal cosine", "least")
    return text + table(head, rows)


def correction(found: dict[str, Any]) -> str:
    """PTQD's correction, with and without clipping and noise."""
    text = (
        f"## Corrections while sampling: fashion32\n\n`python benchmarks/correction_fashion32.py --methods rtn`: DDIM "
        f"{found['steps']} steps, corrections measured on {found['measured']} trajectories, {found['images']} images "
        f"of other noise, {machine(found)}. SQNR is of the prediction that the scheduler uses; clipped: the predicted "
        "image is clipped to [-1, 1] at every step, in full precision too.\n\n"
    )
    rows = (
        (r["name"], f"{r['psnr']:.2f}", f"{r.get('sqnr_corrected', r['sqnr']):.2f}", f"{r['mean_error']:+.3f}",
         f"{r['std'][0]:.3f}", f"{r['std'][1]:.3f}")
        for r in found["results"]
    )  # fmt: skip
    head = ("", "PSNR dB", "SQNR dB", "mean error", "pixels' std, full precision", "quantized")
    return f"{text}{table(head, rows)}\n" + (
        "Where the derivation holds, without clipping, the correction takes the samples' bias away and gains 5 to 8 "
        "dB; with clipping it gains less at eta 1 and loses at eta 0. Most of it is the bias: at 8 bits no slope k "
        "above 0.005 is undone, and the variance that quantization adds is small beside the sampler's own, so the "
        "variance part changes little. `mmse` takes no bias off: it wins in SQNR and not in samples. The criterion of "
        "step-wise bits asks for 4 bits at most steps, which rounding to nearest does not survive.\n"
    )


def effort_curve(found: dict[str, Any]) -> str:
    """Quality against time."""
    text = (
        "## Quality against time of the weight stage\n\n`python benchmarks/effort_curve.py --compensated 0,50,200 "
        f"--plain 200`: fashion32, W4A32, {found['images']} images, {machine(found)}.\n\n"
        "![quality against time](results/effort_curve.png)\n\n"
        "Error-compensated rounding alone (`fast`) reaches the noise SQNR of the rest; iterations on top bring images "
        "closer, which is what `balanced` (200) spends its time on.\n\n"
    )
    rows = (
        (p["curve"], str(p["iterations"]), f"{p['seconds']:.0f}", f"{p['sqnr']:.2f}", f"{p['psnr']:.2f}")
        for p in found["points"]
    )
    return text + table(("start", "iterations a unit", "seconds", "SQNR dB", "PSNR dB"), rows)


def inference(found: dict[str, Any]) -> str:
    """Latency of a denoiser call."""
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(r["command"] for r in found["results"]))
    text = (
        f"## Speed of a denoiser call\n\n{commands}\n\n{machine(found)}; engines take turns within a round, "
        "ratios are taken within rounds, to the faster of float32 contiguous and channels_last; medians with their "
        "95 % interval. Weights of `rtn`; latency does not depend on them.\n\n"
    )
    rows = (
        (r["model"], str(r["batch"]), engine, f"{row['milliseconds']:.1f}", f"{row['speedup']:.2f}x",
         f"{row['interval'][0]:.2f} to {row['interval'][1]:.2f}")
        for r in found["results"] for engine, row in r["engines"].items()
    )  # fmt: skip
    return text + table(("model", "batch", "engine", "ms", "speed-up", "95 %"), rows)


def export_fashion32(found: dict[str, Any]) -> str:
    """Pictures of exported models."""
    text = (
        "## Pictures of exported models: fashion32\n\n`python benchmarks/export_fashion32.py`: DDIM 20 steps, all "
        f"calibrated on the same {found['samples']} trajectories, {found['images']} images, {machine(found)}; drawn by "
        'the runtime in float32 but for what is int8. "here": the integer engine.\n\n'
    )
    rows = ((r["name"], f"{r['psnr']:.2f}", f"{r['sqnr']:.2f}") for r in found["results"])
    return text + table(("", "PSNR dB", "SQNR dB"), rows)


def footprint(found: dict[str, Any]) -> str:
    """Disk, memory and start."""
    text = (
        "## What a denoiser takes\n\n`python benchmarks/footprint.py`: the CIFAR-10 UNet, 35.7 M parameters, batch "
        f"{found['batch']}, {machine(found)}; a process each. Peak memory while loading and predicting, less what the "
        "imports take; seconds from the folder to the first prediction.\n\n"
    )
    rows = (
        (
            r["name"],
            f"{r['disk_mb']:.1f}",
            f"{r['peak_mb']:.0f}",
            f"{r['first_seconds']:.2f}",
            f"{r['next_seconds']:.3f}",
        )
        for r in found["results"]
    )
    return text + table(("", "MB on disk", "MB in memory", "s to the first", "s for the next"), rows)


def range_search(found: dict[str, Any]) -> str:
    """The per-channel range search."""
    return (
        f"## The per-channel range search\n\n`{found['command']}`: {found['parameters'] / 1e6:.1f} M weights of the "
        f"CIFAR-10 UNet, p = 2.4, 80 candidates, {machine(found)}: {found['seconds']:.1f} s, "
        f"{found['ratio']:.0f} times faster than a loop over channels, with the same winner for "
        f"{100 * found['same_winner']:.2f} % of {found['channels_compared']} channels.\n"
    )


def diagnose_fashion32(found: dict[str, Any]) -> str:
    """What diagnoses say of temporal layers, and what their policies gain."""
    text = (
        "## Diagnosed: fashion32, effort `fast`\n\n`python benchmarks/diagnose_fashion32.py`: DDIM "
        f"{found['steps']} steps, {found['calibration_samples']} calibration trajectories, diagnosed on 8 trajectories "
        f"of seed 1, {machine(found)}. Disturbed: temporal features whose cosine falls below 0.9995 at some step. "
        "Distances are those of the trajectories from full precision at the last step, and with the temporal layers "
        "alone quantized. Ranks are those of temporal layers among the 24 judged by images.\n\n"
    )
    rows = (
        (r["name"], f"{r['psnr']:.2f}", f"{len(r['disturbed'])} of {r['projections']}", f"{r['cosine_min']:.5f}",
         f"{100 * r['deviation']['all']:.1f} %", f"{100 * r['deviation']['temporal']:.2f} %",
         ", ".join(f"{name} {rank}" for name, rank in r["temporal_ranks"].items()) or "none")
        for r in found["diagnoses"]
    )  # fmt: skip
    head = ("", "PSNR dB", "disturbed", "least cosine", "distance", "temporal alone", "temporal layers' ranks")
    text += table(head, rows)
    text += (
        f"\nThe five costliest layers kept at 8 bits, beside five layers drawn at random; {found['images']} images of "
        f"seed {found['seed']}, which no diagnosis saw:\n\n"
    )
    kept = ((r["name"], r["kept"], f"{r['psnr']:.2f}") for r in found["policies"])
    return f"{text}{table(('', 'kept in higher precision', 'PSNR dB'), kept)}\n" + (
        "Rounding to nearest at 4-bit weights disturbs every temporal feature, and TFMQ-DM heals them. On this small "
        "model image layers cost more: temporal layers alone cause about a thirtieth of the distance. Keeping layers "
        "that the diagnosis of `rtn` names gains three times as much as the luckiest of five random draws; after "
        "TFMQ-DM error is spread over all layers, and five of them gain no more than chance.\n"
    )


def benches() -> list[str]:
    """The tables of ``tempoquant bench``, as it left them: beside the command, and notes on how to read them."""
    tables = []
    for place in sorted(RESULTS.glob("*/table.md")):
        title, _, rest = place.read_text().removeprefix("# ").partition("\n")
        command, told = ((place.parent / name).read_text().strip() for name in ("command", "notes.md"))
        lines = f"Results by run: [results.jsonl](results/{place.parent.name}/results.jsonl)."
        tables.append(f"## {title}\n\n`{command}`.{rest.rstrip()}\n\n{told}\n\n{lines}\n")
    return tables


SECTIONS: dict[str, Callable[[Any], str]] = {
    "demo": demo,
    "ablation_fashion32": ablation_fashion32,
    "demo_qat": demo_qat,
    "tdq_fashion32": tdq_fashion32,
    "diagnose_fashion32": diagnose_fashion32,
    "temporal_cache": temporal_cache,
    "correction": correction,
    "effort_curve": effort_curve,
    "inference": inference,
    "export_fashion32": export_fashion32,
    "footprint": footprint,
    "range_search": range_search,
}

if __name__ == "__main__":
    main()
