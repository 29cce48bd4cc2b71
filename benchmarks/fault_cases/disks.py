"""Full disks of every size, and file size limits: one line that names a path, and nothing half-written that loads."""

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tempoquant
from fault_cases.processes import DISK, REFUSED, ended, fork
from tempoquant.evaluation import save_grid, save_images
from tempoquant.outputs import Kind, writing
from tempoquant.pipelines import to_images
from tempoquant.recording.recorder import record
from tiny import bare_denoiser, small_recipe, unet_pipeline

SIZES = (16, 48, 96, 160, 240, 400)
"""KiB of the disks."""
LIMITS = (1_000, 10_000, 30_000)
"""Bytes that a file may have."""


def run(report: Any, options: Any) -> None:
    """Run all cases of this file."""
    quantized = tempoquant.quantize(unet_pipeline(), small_recipe("rtn"))
    images = to_images(quantized.generate(4, steps=2, seed=0))
    verbs: dict[str, Callable[[Path], object]] = {
        "quantize": lambda place: tempoquant.quantize(unet_pipeline(), small_recipe("rtn"), out=place / "out"),
        "save": lambda place: quantized.save_pretrained(place / "out"),
        "export": lambda place: tempoquant.export(quantized, place / "out"),
        "record": lambda place: record(bare_denoiser(), place / "out", samples=64, steps=8, seed=0),
        "grid": lambda place: save_grid(images, place / "out.png"),
        "images": lambda place: _images(images, place / "out"),
    }
    for name, verb in verbs.items():
        for limit in LIMITS:
            place = options.work / f"{name}-{limit}"
            place.mkdir()
            child = fork(lambda place=place, verb=verb, limit=limit: _limited(verb, place, limit), place / "log")
            _judge(report, "file size limits", f"{name}, {limit} bytes", place, ended(child))
        for size in SIZES:
            place = options.work / f"{name}-{size}K"
            place.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
            if subprocess.run(mount, capture_output=True).returncode:
                report.add("full disks", "left out: no file system could be mounted")
                continue
            try:
                log = place.with_suffix(".log")
                code = ended(fork(lambda place=place, verb=verb: verb(place), log))
                _judge(report, "full disks", f"{name}, {size} KiB", place, code)
            finally:
                subprocess.run(["umount", str(place)], check=True)


def _images(images: Any, out: Path) -> None:
    with writing(out, Kind.IMAGES) as output, output.staging() as folder:
        save_images(images, folder)


def _limited(verb: Callable[[Path], object], place: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    verb(place)


def _judge(report: Any, attack: str, case: str, place: Path, code: int) -> None:
    """Held: it ended well, or with one line; and what is there under the output's name loads."""
    words = {0: "ended well", DISK: "one line that names the path", REFUSED: "refused before"}
    loads = code == 0 or not (place / "out" / "model_index.json").exists()
    report.add(attack, words.get(code, f"exit code {code}"), held=code in words and loads, case=case)
