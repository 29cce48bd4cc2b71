"""Errors a user can act on: each message is one line that names the value and what would be valid."""

import difflib
from collections.abc import Iterable


class TempoquantError(Exception):
    """Base of all errors that this package raises on purpose; the command line prints its message alone."""


class InputError(TempoquantError, ValueError):
    """A value given by the user is not valid."""


class FormatError(TempoquantError):
    """A folder or file is not what it should be: foreign, truncated, tampered with or too new."""


class NumericsError(TempoquantError):
    """A computation produced NaN or infinity; the message says where."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, of 300 characters at most, or its type's name."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 300 else f"{line[:297]}..."


def one_line(error: BaseException) -> str:
    """An error's message on one line, or its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def unknown(what: str, value: str, valid: Iterable[str]) -> InputError:
    """The error for a name outside a closed set, nearest valid names first.

    >>> str(unknown("method", "tfmq", ["rtn", "tfmq-dm"]))
    "unknown method 'tfmq': did you mean tfmq-dm? Valid: rtn, tfmq-dm"
    """
    names = sorted(valid)
    near = difflib.get_close_matches(value, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return InputError(f"unknown {what} {value!r}: {hint}Valid: {', '.join(names)}")
