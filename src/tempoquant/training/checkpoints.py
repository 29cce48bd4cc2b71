"""The folder of a training run: its checkpoint and its log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from tempoquant.documents import parse_json, read_json
from tempoquant.errors import FormatError, InputError
from tempoquant.files import save_tensors, write_whole
from tempoquant.training.trainer import Trainer

STATE = "state.json"
LOG = "log.jsonl"


def save_checkpoint(trainer: Trainer, folder: Path, identity: Mapping[str, Any]) -> None:
    """Write tensors under a new name, then the JSON that names them: a crash between leaves the former checkpoint.

    Args:
        trainer: whose state it is.
        folder: of the run.
        identity: what a run that continues this one must have too, as plain JSON data.
    """
    file = f"state-{trainer.step}.safetensors"
    save_tensors(trainer.state(), folder / file)
    write_whole(folder / STATE, json.dumps({"step": trainer.step, "tensors": file, "run": identity}, indent=1) + "\n")
    for old in folder.glob("state-*.safetensors*"):
        if old.name != file:
            old.unlink()


def load_checkpoint(trainer: Trainer, folder: Path, identity: Mapping[str, Any]) -> bool:
    """Continue the run in ``folder``; False if it has no checkpoint yet.

    Raises:
        InputError: the run was begun with something else. FormatError: the checkpoint cannot be read.
    """
    if not (folder / STATE).is_file():
        return False
    found = read_json(folder / STATE, "is damaged, begin again with --overwrite")
    try:
        run, step, file = dict(found["run"]), int(found["step"]), str(found["tensors"])
    except (ValueError, KeyError, TypeError):
        raise FormatError(f"{folder / STATE} is damaged: begin again with --overwrite") from None
    for name, value in identity.items():
        if run.get(name) != value:
            raise InputError(f"{folder} was begun with {name} = {run.get(name)!r}, not {value!r}: resume with the same")
    try:
        trainer.restore(load_file(folder / Path(file).name), step)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise FormatError(f"{folder / file} holds no state of this run: {first}") from None
    forget_after(folder / LOG, step)
    return True


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a JSON-lines file."""
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def forget_after(path: Path, step: int) -> None:
    """Drop log entries of steps that will be done again, and a line that a killed process left unfinished."""
    if path.exists():
        try:
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and parse_json(line)["step"] <= step]
        except (ValueError, LookupError, TypeError):
            raise FormatError(f"{path} has a line that is no entry of a training's log: delete the line") from None
        write_whole(path, "".join(kept))
