"""The command line: one file a command, each thin."""

import os
import sys
import warnings

import typer

from tempoquant.errors import TempoquantError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Quantize diffusion models with the time step in mind, and prove the result.",
)


def main() -> None:
    """Run the command line: exit code 0 on success, 2 with one line on bad input, 1 on a failed run."""
    warnings.showwarning = _one_line
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import tempoquant.cli.commands  # noqa: F401

    try:
        app()
    except TempoquantError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    print(f"tempoquant: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _one_line(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"tempoquant: warning: {message}", file=sys.stderr)
