"""The command line: one file a command, each thin."""

import sys
import warnings
from typing import NoReturn

import diffusers
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
    diffusers.utils.logging.set_verbosity_error()
    import tempoquant.cli.commands  # noqa: F401

    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except TempoquantError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        # Wrong options; by what it can do, because typer has its exceptions from click or from a copy of it.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)
    if code == 130:
        _fail("interrupted", 130)
    raise SystemExit(code or 0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"tempoquant: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _one_line(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"tempoquant: warning: {message}", file=sys.stderr)
