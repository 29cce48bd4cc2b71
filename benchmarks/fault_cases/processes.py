"""Running a case in a forked process: nothing is imported again, and it may die in any way."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tempoquant.errors import TempoquantError

REFUSED, DISK, INTERRUPTED, CRASHED = 2, 3, 4, 5
"""Exit codes: one line for the user, an OSError that names a path, an interrupt, anything else."""


def fork(run: Callable[[], None], log: Path | None = None) -> int:
    """Start ``run`` in a process of its own and give its number.

    Args:
        log: file for the error it ended with, if any.
    """
    child = os.fork()
    if child:
        return child
    # Whatever happens, the child must not return into the caller's code.
    code = CRASHED
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Jobs in the background of a shell ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
        code = 0
    except TempoquantError as error:
        code = REFUSED if "\n" not in str(error) else CRASHED
        _note(log, str(error))
    except OSError as error:
        code = DISK if error.filename else CRASHED
        _note(log, f"{error.strerror}: {error.filename}")
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        _note(log, traceback.format_exc())
    finally:
        os._exit(code)
    return 0


def ended(child: int, timeout: float = 120) -> int:
    """The exit code of a forked process; negative for a signal. One that hangs is killed, and counts as SIGALRM."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


def killing_at(number: int, folder: Path) -> Callable[[], int]:
    """Let this process die at its ``number``-th file operation below ``folder``; 0: never.

    Returns:
        What gives the count of such operations so far.
    """
    count = 0
    changing = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "open")

    def hook(event: str, args: tuple) -> None:
        nonlocal count
        if event not in changing or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        if os.fsdecode(args[0]).startswith(str(folder)):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: count


def _note(log: Path | None, text: str) -> None:
    if log is not None:
        log.write_text(text)
