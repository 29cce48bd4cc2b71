"""JSON and YAML files, bounded in size, depth and expansion before they are parsed into objects."""

import json
from pathlib import Path
from typing import Any

import yaml

from tempoquant.errors import FormatError, InputError, one_line

LARGEST_JSON = 16 * 2**20
"""Bytes: folders of thousands of layers have configurations of a few megabytes."""
LARGEST_YAML = 128 * 2**10
"""Bytes: what the YAML parser reads in a second or two."""
DEEPEST = 64
"""Mappings and lists within each other."""
MOST_NODES = 100_000
"""Entries of a YAML document, each alias counted with all that it stands for."""
LONGEST_REASON = 200
"""Characters of what an error says: parsers quote the file."""

MALFORMED = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError)
"""What PyYAML raises: its constructors of dates and numbers leave some of it to Python."""


def read_json(path: Path, verdict: str = "cannot be read") -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        verdict: what an error says of the file before it says why.

    Raises:
        FormatError: no regular file, larger than 16 MiB, not UTF-8, not JSON, nested too deeply, or no object.
    """
    try:
        return _mapping(parse_json(_content(path, LARGEST_JSON)), "JSON object")
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} {verdict}: {_one_line(error)}") from None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels within each other") from None
    level = _containers([value])
    for _ in range(DEEPEST):
        if not level:
            return value
        level = [child for entry in level for child in _containers(entry)]
    raise ValueError(f"more than {DEEPEST} levels within each other")


def _containers(entry: dict[str, Any] | list[Any]) -> list[Any]:
    """The mappings and lists that ``entry`` holds itself."""
    return [inner for inner in (entry.values() if isinstance(entry, dict) else entry) if isinstance(inner, dict | list)]


def read_yaml(path: Path, name: str) -> dict[str, Any]:
    """The mapping that a YAML (or JSON) file holds.

    Args:
        name: what errors call the file.

    Raises:
        InputError: no regular file, larger than 128 KiB, not UTF-8, not YAML, nested too deeply, more than 100,000
            entries with aliases counted as what they stand for, or no mapping.
    """
    try:
        return _mapping(parse_yaml(_content(path, LARGEST_YAML)), "mapping")
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read: {_one_line(error)}") from None


def _mapping(value: Any, kind: str) -> dict[str, Any]:
    """``value`` if it is a mapping; ``kind`` is what an error says is missing."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds no {kind}")
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML, nested too deeply, or of too many entries.
    """
    try:
        return _BoundedLoader(text).get_single_data()
    except MALFORMED as error:
        raise ValueError(_one_line(error)) from None


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also counts what aliases stand for: a merge of merges is copied, not shared."""

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0
        self.extents: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node; refuses one that is too deep or too large."""
        is_alias = self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels within each other")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if id(node) not in self.extents:
            if is_alias:
                raise ValueError("an alias stands within what it stands for")
            self.extents[id(node)] = self._extent(node)
        return node

    def _extent(self, node: Any) -> tuple[int, int]:
        """How many nodes ``node`` stands for, itself included, and how many levels."""
        entries = [] if isinstance(node, yaml.ScalarNode) else node.value
        children = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
        sizes, levels = zip(*(self.extents[id(child)] for child in children), strict=True) if children else ((), ())
        size, depth = 1 + sum(sizes), 1 + max(levels, default=0)
        if size > MOST_NODES or depth > DEEPEST:
            raise ValueError(f"more than {MOST_NODES} entries or {DEEPEST} levels, with aliases as what they stand for")
        return size, depth


def regular(path: Path) -> Path:
    """``path``; FormatError unless a regular file lies there: opening a pipe, or a device, may never return."""
    try:
        _check_regular(path)
    except ValueError as error:
        raise FormatError(f"{path} cannot be read: {error}") from None
    return path


def _check_regular(path: Path) -> None:
    if not path.is_file():
        raise ValueError("it is no regular file" if path.exists() else "no such file")


def _content(path: Path, most: int) -> str:
    """The text of a regular file: as many bytes as its size, since files of the kernel that have none never end."""
    _check_regular(path)
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"{size} bytes, where at most {most} are read")
    with path.open("rb") as file:
        return file.read(size).decode()


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text = one_line(error)
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."
