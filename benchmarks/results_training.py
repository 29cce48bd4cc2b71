"""Sections of the results page on training at few bits, from what ``tdq_fashion32.py`` writes."""

from typing import Any

from results_parts import machine, spread, table


def distance_of(found: dict[str, Any]) -> str:
    """The distance between distributions that every row has, by name."""
    return next(key for key in found["results"][0] if key.startswith("FD"))


def judged(found: dict[str, Any]) -> str:
    """By how many samples rows are judged, and where."""
    first = found["results"][0]
    return (
        f"{first['images']} paired images, {distance_of(found)} of {first['drawn']} samples against full precision's, "
        f"{machine(found)}"
    )


def demo_qat(found: dict[str, Any]) -> str:
    """The demonstration of training."""
    results = found["results"]
    first, distance = results[0], distance_of(found)
    text = (
        "## The demonstration of training: fashion32\n\n`make demo-qat`: DDIM 20 steps, post-training effort `fast`, "
        f"{first['steps']} training steps of {first['batch']} by distillation, {judged(found)}, busy with "
        "other work.\n\n"
    )
    rows = (
        (r["name"], f"{r['psnr']:.2f}", f"{r['sqnr']:.2f}", f"{r[distance]:.1f}", f"{r['seconds']:.0f}")
        for r in results
    )
    text += table(("", "PSNR dB", "SQNR dB", distance, "seconds"), rows)
    return f"{text}\n![full precision; at W4A4 TFMQ-DM and TDQ without training; TDQ trained](results/demo_qat.png)\n"


def tdq_fashion32(found: dict[str, Any]) -> str:
    """Training at few bits beside post-training quantization, mean and spread over seeds."""
    results = found["results"]
    distance = distance_of(found)
    text = (
        "## Trained at few bits: fashion32\n\n"
        + "\n".join(f"    {command}" for command in found["commands"])
        + f"\n\nDDIM 20 steps, {judged(found)}. Training distils from the "
        "model's own trajectories unless data are named; steps x batch stand beside the name. All rows but `tfmq-dm` "
        "keep the first and last layer, temporal layers and attention products in float, as the papers do.\n\n"
    )
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        groups.setdefault(row["name"].rpartition(" seed ")[0], []).append(row)
    rows = (
        (name, *(spread([row[key] for row in group]) for key in ("psnr", "sqnr", distance)), str(len(group)))
        for name, group in groups.items()
    )
    text += table(("", "PSNR dB", "SQNR dB", distance, "seeds"), rows)
    return text + (
        "\n![samples from the same noise: full precision, LSQ, TDQ, and post-training at W4A4]"
        "(results/tdq_fashion32.png)\n\n"
        "Post-training breaks at four-bit activations; a few minutes of training bring the pictures back, and "
        "intervals generated from the time step bring them nearer than static ones: at W4A4 and W3A3 every seed of TDQ "
        "is better than every seed of LSQ by PSNR and SQNR, and than LSQ at the same seed by distance. At eight-bit "
        "activations they are alike.\n"
    )
