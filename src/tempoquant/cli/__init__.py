"""The command line: one file a command, each thin."""

import errno
import importlib
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any, NoReturn

import typer

from tempoquant import __version__
from tempoquant.errors import TempoquantError
from tempoquant.quiet import quiet_libraries

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Quantize diffusion models with the time step in mind, and prove the result.",
)


WRONG_PATHS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG}
"""What the system says of a path that was wrong from the start."""


LONGEST = 80
"""Characters of a value that a line repeats."""


class Terminated(BaseException):
    """The process was asked to end, by SIGTERM: what is open closes as it does for Ctrl-C."""


def main() -> None:
    """Run the command line.

    The exit code is 0 on success, 2 with one line on bad input, 1 on a failed run, 130 and 143 where it was interrupted
    or terminated.
    """
    quiet_libraries()
    warnings.showwarning = _one_line
    importlib.import_module("tempoquant.cli.commands")

    arguments = sys.argv[1:] or ["--help"]
    try:
        with _sigterm_raises():
            code = app(arguments, standalone_mode=False)
    except TempoquantError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", 2 if error.errno in WRONG_PATHS else 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Terminated:
        _fail("terminated", 143)
    except Exception as error:
        # Wrong options; by what it can do, because typer has its exceptions from click or from a copy of it.
        if not hasattr(error, "format_message"):
            raise
        _fail(_with_value(error.format_message(), getattr(error, "param", None), arguments), 2)
    if code == 130:
        _fail("interrupted", 130)
    raise SystemExit(code or 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tempoquant {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version and exit")
    ] = False,
) -> None: ...


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(*_: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _with_value(message: str, parameter: Any, arguments: list[str]) -> str:
    """The message about an option's value, which says what would be valid, with the value."""
    values = [value for flag, value in pairwise(arguments) if flag in getattr(parameter, "opts", ())]
    return f"{message}, not {values[-1][:LONGEST]!r}" if values and repr(values[-1]) not in message else message


def _fail(message: str, code: int) -> NoReturn:
    print(f"tempoquant: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _one_line(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"tempoquant: warning: {' '.join(str(message).split())}", file=sys.stderr)
