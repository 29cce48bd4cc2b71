"""Prompts from a file."""

import csv
import io
from pathlib import Path

from tempoquant.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, or of a table's column ``prompt`` or ``Prompt``; empty ones are left out.

    Raises:
        InputError: no such file, not a text, no such column, or no prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _column(path, text) if path.suffix.lower() in DELIMITERS else text.splitlines()
    except FileNotFoundError:
        raise InputError(f"prompts {path}: no such file") from None
    except (UnicodeDecodeError, IsADirectoryError, csv.Error) as error:
        raise InputError(f"prompts {path} cannot be read as text: {error}") from None
    prompts = [line.strip() for line in found if line.strip()]
    if not prompts:
        raise InputError(f"prompts {path} holds no prompt")
    return prompts


def _column(path: Path, text: str) -> list[str]:
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=DELIMITERS[path.suffix.lower()])
    names = table.fieldnames or []
    name = next((n for n in names if n.strip() in ("prompt", "Prompt")), None)
    if name is None:
        raise InputError(f"prompts {path} has no column 'prompt'; its columns are: {', '.join(names)}")
    return [row[name] or "" for row in table]
