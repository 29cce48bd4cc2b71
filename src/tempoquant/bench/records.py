"""Results on disk: JSON lines, one record a run, appended as runs finish; a killed process loses at most the last."""

import json
import os
from pathlib import Path
from typing import Any

from tempoquant.documents import parse_json
from tempoquant.errors import FormatError, InputError

RESULTS = "results.jsonl"

Record = dict[str, Any]


class Records:
    """The records of a JSON lines file, opened to append more.

    A last line without its end was being written when the process died: it is cut off.

    Args:
        path: made if there is none.

    Raises:
        FormatError: an earlier line is no record.
    """

    def __init__(self, path: Path):
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.records = [_record(path, i, line) for i, line in enumerate(whole.splitlines(), 1)]
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))

    @property
    def by_id(self) -> dict[str, Record]:
        """Records by the identity of their run; of equal ones the last."""
        return {record["id"]: record for record in self.records}

    def append(self, record: Record) -> None:
        """Put a record on disk before returning."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)


def is_records(path: Path) -> bool:
    """Whether a file holds records, or nothing: somebody else's file of that name is never cut or appended to."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline()
    try:
        if first.endswith(b"\n"):
            _record(path, 1, first)
    except FormatError:
        return False
    # The very first record, torn by a kill.
    return first.endswith(b"\n") or not first or first.startswith(b'{"id": "')


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        record = parse_json(line)
        record["id"]
    except (ValueError, KeyError, TypeError):
        raise FormatError(
            f"{path}: line {number} is no record of a run: delete it, and the run is done again"
        ) from None
    return record


def check_bench_folder(out: Path) -> None:
    """Raise InputError unless ``out`` is new, empty, or an earlier bench's."""
    if out.exists() and not (out.is_dir() and (is_records(out / RESULTS) or not any(out.iterdir()))):
        raise InputError(f"{out} exists and is no bench's folder: choose another")
