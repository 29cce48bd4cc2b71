"""``tempoquant doctor``."""

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from tempoquant.cli import app
from tempoquant.cli.options import Json, Overwrite, check_json, check_overwrite, console, write_json
from tempoquant.kernels import BACKENDS, COMPILER, ENGINES, backend_name

PACKAGE = "tempoquant"
SHOWN = (PACKAGE, "torch", "diffusers", "transformers", "openvino", "onnxruntime")
EXTRAS = ("eval", "train", "openvino", "onnx")


@app.command("doctor")
def doctor_command(overwrite: Overwrite = False, json_file: Json = None) -> None:
    """Say what runs on this machine: versions, integer arithmetic, compiled parts, and what is missing.

    Example: tempoquant doctor
    """
    check_overwrite(overwrite, json=json_file)
    check_json(json_file, overwrite)
    from rich.table import Table

    found = machine_facts()
    table = Table("what", "here", box=None)
    for name, value in _rows(found):
        table.add_row(name, value)
    console().print(table, markup=False)
    write_json(json_file, found)


def machine_facts() -> dict[str, Any]:
    """What decides how models run here, as JSON data."""
    import torch

    from tempoquant.kernels import cache_folder, compiled_library, integers_are_exact, scales_apply_in_order

    exact, library, extras = integers_are_exact(), compiled_library(), {name: _missing(name) for name in EXTRAS}
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in SHOWN}},
        "processor": {
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "int8_exact": exact,
            "scales_in_order": exact and scales_apply_in_order(),
        },
        "engines": {name: _what_computes(name) for name in ENGINES},
        "compiled": {
            "compiler": library.compiler,
            "library": None if library.path is None else str(library.path),
            "state": _state(library.functions is not None, library.built, library.problem),
            "cache": None if (folder := cache_folder()) is None else str(folder),
        },
        "extras": {
            name: {"missing": missing, "install": f"pip install '{PACKAGE}[{name}]'" if missing else None}
            for name, missing in extras.items()
        },
    }


def _what_computes(engine: str) -> str:
    chosen = BACKENDS[backend_name(engine)]
    return (chosen if chosen.available() else BACKENDS["simulation"]).label


def _state(there: bool, built: bool, problem: str | None) -> str:
    if not there:
        return f"none: {problem}" if problem else f"none: {COMPILER} is empty"
    return "built now" if built else "found in the cache"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _missing(extra: str) -> list[str]:
    """Packages of an extra that are not installed, or too old."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in requires(PACKAGE) or ()]
    of_extra = [r for r in found if r.marker is not None and r.marker.evaluate({"extra": extra})]
    return [str(r).partition(";")[0].strip() for r in of_extra if not r.specifier.contains(_version(r.name) or "0")]


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    processor, compiled = found["processor"], found["compiled"]
    rows = [(name, text or "not installed") for name, text in found["versions"].items()]
    rows += [
        ("processor", f"{processor['machine']}, {processor['capability']}, {processor['threads']} threads"),
        ("int8 operators", "exact" if processor["int8_exact"] else "not exact: layers are simulated in float"),
        ("weight scales", "by the operators" if processor["scales_in_order"] else "in a pass after the operators"),
        *((f"engine {name}", kernel) for name, kernel in found["engines"].items()),
        ("C compiler", compiled["compiler"] or "none"),
        ("compiled library", compiled["state"]),
        ("its file", compiled["library"] or "none"),
        ("its cache", compiled["cache"] or "none: there is no folder of mode 0700 that is yours"),
    ]
    for name, extra in found["extras"].items():
        missing = f"missing {', '.join(extra['missing'])}: {extra['install']}"
        rows.append((f"extra {name}", missing if extra["missing"] else "installed"))
    return rows
