"""Runs a command; a user's mistake becomes one line on standard error and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NoReturn

from jsonargparse import ArgumentError

from diffguard.errors import USER_ERROR, UserError
from diffguard.printing import accept_all_text, say
from diffguard_cli.interrupts import INTERRUPTED, MESSAGE, is_first_process, is_reporting
from diffguard_cli.parser import plain_line
from lightning_modules.quiet import quiet_libraries

SKIPPED_FILES = 3
TIME_IS_UP = 4
# A name in a file may be longer than a screen.
_LONGEST_LINE = 2_000
_OUT_OF_MEMORY = (
    "out of memory: use a smaller --data.train_batch_size (training) or --data.batch_size "
    "(calibration and scoring), and start again; finished work is kept"
)
_DISK_FULL = (
    f"{os.strerror(errno.ENOSPC)}: free some space and start again (training with --resume); "
    "finished work is kept"
)


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; a user's mistake gives one line and code 2.

    Args:
        main: The command; it takes its arguments and returns the exit code.
        argv: The command line, without the name of the program; defaults to `sys.argv`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    threading.excepthook, sys.excepthook = _thread_failed, _print_traceback
    accept_all_text()
    quiet_libraries()
    try:
        code = main(argv)
    except _mistakes() as error:
        if "--debug" in argv:
            raise
        if is_reporting():
            say(f"error: {_shortened(plain_line(error))}", file=sys.stderr)
        code = USER_ERROR
    except Exception as error:
        shortage = _shortage(error) or _refusal(error)
        if "--debug" in argv or shortage is None:
            raise
        say(f"error: {_shortened(shortage)}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt:
        say(MESSAGE, file=sys.stderr)
        code = INTERRUPTED
    sys.stdout.flush()
    if not is_first_process() and code:
        # Lightning's launcher waits for rank 0, and another rank would hang in a barrier.
        os._exit(code)
    sys.exit(code)


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def _shortage(error: Exception) -> str | None:
    """The message if the memory or a disk is full; None for other errors."""
    from diffguard.failures import is_out_of_memory

    if is_out_of_memory(error):
        return _OUT_OF_MEMORY
    cause: BaseException | None = error
    while cause is not None:
        # Libraries in other languages raise their own exceptions for a full disk.
        if os.strerror(errno.ENOSPC) in str(cause):
            return _DISK_FULL
        cause = cause.__cause__ or cause.__context__
    return None


def _refusal(error: Exception) -> str | None:
    """The message if the system refuses a file, as on a damaged disk; None for other errors."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return None


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback as Python does, but escape control characters in the message."""
    text = "".join(traceback.format_exception(kind, error, trace))
    say(*text.splitlines(), file=sys.stderr)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Ignore a full disk in the thread of a library, because the main thread reports it."""
    if not isinstance(failure.exc_value, Exception) or _shortage(failure.exc_value) is None:
        threading.__excepthook__(failure)


def _mistakes() -> tuple[type[Exception], ...]:
    """Exceptions of a user's mistake; Lightning's are included once Lightning is imported."""
    mistakes = (UserError, ArgumentError, NotADirectoryError, FileExistsError, PermissionError)
    if "lightning" not in sys.modules:
        return mistakes
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    return *mistakes, MisconfigurationException
