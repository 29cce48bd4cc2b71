"""Escaping of plain text in Markdown: names, notes and commands must not be read as Markdown or HTML."""

import re
from urllib.parse import quote

SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>&|~$!#"})
"""Characters that Markdown, or HTML within it, reads as more than themselves anywhere in a line."""


def escaped(text: str) -> str:
    """``text`` on one line, with the special characters of Markdown and HTML escaped."""
    return " ".join(text.split()).translate(SPECIAL)


def code(text: str) -> str:
    """``text`` as a code span on one line."""
    line = " ".join(text.split())
    fence = _fence(line, shortest=1)
    # A space keeps backticks at the ends apart, and is not shown.
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_block(text: str, language: str = "") -> list[str]:
    """The lines of a fenced code block, whose fence is longer than any in ``text``.

    Args:
        text: of the block.
        language: after the opening fence; empty for none.
    """
    fence = _fence(text, shortest=3)
    return [f"{fence}{language}", *text.splitlines(), fence]


def address(*parts: str) -> str:
    """The percent-encoded relative address of a link."""
    return quote("/".join(parts))


def _fence(text: str, shortest: int) -> str:
    """More backticks than stand together in ``text``."""
    return "`" * max(shortest, 1 + max(map(len, re.findall("`+", text)), default=0))
