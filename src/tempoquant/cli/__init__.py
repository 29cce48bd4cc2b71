"""The command line: one file a command, each thin."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

import tempoquant
from tempoquant.cli.noise import quiet_libraries
from tempoquant.errors import TempoquantError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Quantize diffusion models with the time step in mind, and prove the result.",
)


class Terminated(BaseException):
    """The process was asked to end, by SIGTERM: what is open closes as it does for Ctrl-C."""


def main() -> None:
    """Run the command line.

    The exit code is 0 on success, 2 with one line on bad input, 1 on a failed run, 130 and 143 where it was interrupted
    or terminated.
    """
    quiet_libraries()
    import tempoquant.cli.commands  # noqa: F401

    try:
        with _sigterm_raises():
            code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except TempoquantError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Terminated:
        _fail("terminated", 143)
    except Exception as error:
        # Wrong options; by what it can do, because typer has its exceptions from click or from a copy of it.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)
    if code == 130:
        _fail("interrupted", 130)
    raise SystemExit(code or 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tempoquant {tempoquant.__version__}")
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


def _fail(message: str, code: int) -> NoReturn:
    print(f"tempoquant: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
