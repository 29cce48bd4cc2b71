"""Damaged quantized folders, drawn from a number: what loading and drawing make of them.

A folder is copied, one thing in it is changed, and it is loaded and drawn from. It may be refused in one line, or draw
the very picture of the folder that it was; another picture is right only where nothing in the folder could tell, see
:func:`may_differ`. Used by the tests and by the attack of benchmarks.
"""

import json
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tempoquant
from tempoquant.errors import TempoquantError
from tiny import small_recipe, unet_pipeline

EVIDENCE, CONFIG = "tempoquant.json", "unet/config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
STEPS = 2
PROCESSOR_SECONDS, SECONDS = 5.0, 20.0
"""Of one case: what it may compute, and what it may wait, on a machine that does other work too."""
LONGEST_LINE = 1000

REFUSED, SAME, PLAIN = "refused in one line", "the same picture", "another picture, of changed plain data"
TRACEBACK, HANG, SILENT = "traceback", "hang", "another picture without an error"
BAD = (TRACEBACK, HANG, SILENT)


class Original(NamedTuple):
    """A sound folder and the picture it draws."""

    name: str
    folder: Path
    picture: Tensor


class Outcome(NamedTuple):
    """What became of a damaged folder: which, what was done to it, one of the results above, and the error."""

    folder: str
    damage: str
    result: str
    error: str


class Hang(BaseException):
    """A case that takes too long; no ``except Exception`` catches it."""


def make_originals(root: Path) -> list[Original]:
    """A plain, a corrected, a trained and a frozen folder in ``root``."""
    calibration = {"steps": STEPS}
    correction = {"samples": 2, "step_bits": [6, 8]}
    training = {"steps": 2, "batch": 2, "warm_up": 1, "lr": 1e-3}
    tempoquant.quantize(unet_pipeline(), small_recipe("rtn", calibration=calibration), out=root / "plain")
    ptqd = small_recipe("rtn", calibration=calibration, correction=correction)
    tempoquant.quantize(unet_pipeline(), ptqd, out=root / "ptqd")
    trained = small_recipe("tdq", calibration=calibration, training=training, activations=4)
    tempoquant.train(unet_pipeline(), trained.keeping_generators(), out=root / "trained")
    frozen = small_recipe("rtn", calibration=calibration)
    tempoquant.quantize(unet_pipeline(), frozen, out=root / "frozen", freeze_schedule=True)
    folders = [root / name for name in ("plain", "ptqd", "trained", "frozen")]
    return [Original(folder.name, folder, draw(folder)) for folder in folders]


def draw(folder: Path) -> Tensor:
    """One picture of the folder's model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tempoquant.load(folder).generate(1, steps=STEPS, seed=0)


def attack(originals: list[Original], number: int, work: Path) -> Outcome:
    """Damage a copy of one of the folders as ``number`` says, in ``work``, and load and draw from it."""
    rng = random.Random(number)
    original = originals[number % len(originals)]
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(original.folder, work)
    kept = rng.random() < 0.4
    if not kept:
        (work / EVIDENCE).unlink()
    damage = f"{'with' if kept else 'without'} evidence, {_damage(work, rng)}"
    result, error = _result(original, work)
    return Outcome(original.name, damage, result, error)


def _result(original: Original, work: Path) -> tuple[str, str]:
    try:
        with _bounded():
            picture = draw(work)
    except TempoquantError as error:
        line = str(error)
        return (REFUSED if line and "\n" not in line and len(line) < LONGEST_LINE else TRACEBACK), line
    except Hang as error:
        return HANG, str(error)
    except Exception as error:
        return TRACEBACK, f"{type(error).__name__}: {error}"
    if torch.equal(picture, original.picture):
        return SAME, ""
    return (PLAIN if may_differ(original.folder, work) else SILENT), ""


def may_differ(original: Path, damaged: Path) -> bool:
    """Whether the picture may be another one: no hash is there, and what changed is plain data.

    These are float and integer weights, the scheduler's configuration and the index. The module's configuration, with
    the quantization_config in it, and all tables are tied together by a digest, and may not.
    """
    if (damaged / EVIDENCE).exists():
        return False
    before, after = (json.loads((folder / CONFIG).read_text())["quantization_config"] for folder in (original, damaged))
    first, second = (_tables(folder) for folder in (original, damaged))
    return before == after and first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def _tables(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / WEIGHTS).items()
    plain = ("tempoquant.vectors", "tempoquant.digest")
    return {name: tensor for name, tensor in tensors if name.startswith("tempoquant.") and name not in plain}


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise :class:`Hang` in what takes more than it may: of the processor, or of the clock where it only waits."""

    def stop(number: int, frame: Any) -> None:
        raise Hang(f"more than {PROCESSOR_SECONDS:g} s of work, or {SECONDS:g} s of waiting")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, PROCESSOR_SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, SECONDS))
    before = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _damage(folder: Path, rng: random.Random) -> str:
    """Change one thing in ``folder``; what it was."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    kind = rng.choices((_damage_file, _damage_json, _damage_tensor), (3, 4, 3))[0]
    suffix = {_damage_file: "", _damage_json: ".json", _damage_tensor: ".safetensors"}[kind]
    path = rng.choice([path for path in files if path.name.endswith(suffix)])
    return f"{path.relative_to(folder)}: {kind(path, files, rng)}"


def _damage_file(path: Path, files: list[Path], rng: random.Random) -> str:
    data = path.read_bytes()
    place = rng.randrange(len(data))
    other = rng.choice(files)
    changes: dict[str, Callable[[], Any]] = {
        f"bit flipped in byte {place}": lambda: path.write_bytes(_flipped(data, place, rng)),
        f"cut off at byte {place}": lambda: path.write_bytes(data[:place]),
        f"bytes inserted at {place}": lambda: path.write_bytes(data[:place] + rng.randbytes(5) + data[place:]),
        "emptied": lambda: path.write_bytes(b""),
        "deleted": path.unlink,
        f"swapped with {other.name}": lambda: _swap(path, other),
        "a pipe": lambda: (path.unlink(), os.mkfifo(path)),
        "a link to /dev/zero": lambda: (path.unlink(), path.symlink_to("/dev/zero")),
        "a link to a file of the kernel": lambda: (path.unlink(), path.symlink_to("/proc/self/mounts")),
        "a link to itself": lambda: (path.unlink(), path.symlink_to(path.name)),
        "a folder": lambda: (path.unlink(), path.mkdir()),
    }
    weights = (6, 2, 2, 1, 1, 2, 1, 1, 1, 1, 1)
    what = rng.choices(list(changes), weights[: len(changes)])[0]
    changes[what]()
    return what


def _flipped(data: bytes, place: int, rng: random.Random) -> bytes:
    changed = bytearray(data)
    # Half of them at the front, where a tensor file has its names and shapes.
    changed[place if rng.random() < 0.5 else place % min(len(data), 2000)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2147483648, -(2**63), 10**30, 0.5, float("nan"), float("inf"), "", "x", "nan",
    "../../x", "/proc/kmsg", "\x00", "\ud800", "a" * 5000, [], {}, [None], [1, 2, 3], {"a": 1}, [[0]],
)  # fmt: skip


def _damage_json(path: Path, files: list[Path], rng: random.Random) -> str:
    data = json.loads(path.read_text())
    holder, key, where = _place(data, rng)
    kind = rng.choices(("value", "scaled", "deleted", "added", "deep", "twice"), (6, 2, 2, 1, 1, 1))[0]
    if kind == "value":
        holder[key] = rng.choice(VALUES)
        said = f"{where} = {holder[key]!r}"[:100]
    elif kind == "scaled":
        found = holder[key]
        holder[key] = found * rng.choice((2, 1000, -1)) if isinstance(found, int | float) else [found]
        said = f"{where} = {holder[key]!r}"[:100]
    elif kind == "deleted":
        del holder[key]
        said = f"{where} deleted"
    elif kind == "added":
        entry = rng.choice(VALUES)
        holder.insert(0, entry) if isinstance(holder, list) else holder.update(added=entry)
        said = f"{entry!r} added beside {where}"[:100]
    elif kind == "deep":
        holder[key] = "DEEP"
        said = f"{where} = ten thousand levels"
    else:
        holder[key] = [holder[key]] * 20_000
        said = f"{where} twenty thousand times"
    path.write_text(json.dumps(data).replace('"DEEP"', "[" * 10_000 + "]" * 10_000))
    return said


def _place(data: Any, rng: random.Random) -> tuple[Any, Any, str]:
    """A value somewhere in JSON data: what holds it, under which key, and the way to it."""
    holder, where = data, ""
    while True:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        where += f".{key}"
        inside = holder[key]
        if not isinstance(inside, dict | list) or not inside or rng.random() < 0.15:
            return holder, key, where[1:]
        holder = inside


DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
NUMBERS = (float("nan"), float("inf"), -1.0, 0.0, 1e30, 255.0, 0.37)


def _damage_tensor(path: Path, files: list[Path], rng: random.Random) -> str:
    tensors = load_file(path)
    # Small vectors hold what is particular to a quantized folder: most of the names are of packed weights.
    ours = sorted(name for name in tensors if name.startswith("tempoquant."))
    names = ours if rng.random() < 0.7 else sorted(tensors)
    name = rng.choice([name for name in names if tensors[name].numel()])
    tensor, other = tensors[name], rng.choice(sorted(tensors))
    place, number, dtype = rng.randrange(tensor.numel()), rng.choice(NUMBERS), rng.choice(DTYPES)
    changes: dict[str, Callable[[], Any]] = {
        f"{number} at {place}": lambda: tensors.update({name: _with(tensor, place, number)}),
        f"as {dtype}": lambda: tensors.update({name: tensor.to(dtype)}),
        "one value less": lambda: tensors.update({name: tensor.flatten()[:-1].clone()}),
        "one value more": lambda: tensors.update({name: torch.cat([tensor.flatten(), tensor.flatten()[:1]])}),
        "deleted": lambda: tensors.pop(name),
        f"renamed to {name}x": lambda: tensors.update({f"{name}x": tensors.pop(name)}),
        f"swapped with {other}": lambda: tensors.update({name: tensors[other].clone(), other: tensor.clone()}),
        "of no value": lambda: tensors.update({name: tensor.flatten()[:0].clone()}),
        "with another dimension": lambda: tensors.update({name: tensor[None].clone()}),
        "reversed": lambda: tensors.update({name: tensor.flip(0)}),
    }
    what = rng.choices(list(changes), (6, *[1] * (len(changes) - 1)))[0]
    changes[what]()
    save_file(tensors, path, metadata={"format": "pt"})
    return f"{name} {what}"


def _with(tensor: Tensor, place: int, number: float) -> Tensor:
    flat = tensor.clone().flatten()
    # Integers are moved by one.
    flat[place] = number if tensor.is_floating_point() else int(flat[place]) ^ 1
    return flat.view(tensor.shape)
