"""Where `pylog` begins: its exit codes, and how it ends when it is told to.

0    done; nothing wrong was found
1    damage was found, or what was asked for could not be done
2    wrong usage, or what was named is not there or cannot be opened
130  interrupted by Ctrl-C;  141  nobody reads the output any more, as of `... | head`
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from pylog import errors
from pylog.cli import show

_FAILED: Final = 1
_UNUSABLE: Final = 2
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count
_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# These say what became of the records; all others, that something else should have been asked.
_FAILURES: Final = (
    errors.CorruptionError,
    errors.NotAppendedError,
    errors.DurabilityUnknownError,
    errors.CommitFailedError,
    errors.LockTimeoutError,
    errors.MirrorError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    arguments: without the program's name; by default those of this process.
    Raises SystemExit for `--help`, `--version` and wrong usage where the extra `cli` is missing.
    """
    _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character gets its number, not a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings = _Warnings(logging.WARNING)
    logging.getLogger("pylog").addHandler(warnings)
    try:
        code = _program()(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _FAILURES as error:
        show.complain(str(error))
        return _FAILED
    except (errors.PylogError, OSError, ValueError) as error:
        show.complain(_words_of(error))
        return _FAILED if getattr(error, "errno", None) in _NO_SPACE else _UNUSABLE
    finally:
        logging.getLogger("pylog").removeHandler(warnings)


class _Warnings(logging.Handler):
    """Says what the library notes meanwhile as all else that goes wrong is said."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning on one line."""
        error = record.exc_info[1] if record.exc_info else None
        show.complain(f"{record.getMessage()}: {error}" if error else record.getMessage())


def _words_of(error: Exception) -> str:
    """Return what is said of an error; one of the operating system as other programs say it."""
    if not isinstance(error, OSError) or isinstance(error, errors.PylogError):
        return str(error)
    words = error.strerror or str(error)
    return words if error.filename is None else f"{os.fsdecode(error.filename)}: {words}"


def _open_what_is_closed() -> None:
    """Let a standard file that is closed be one that nobody reads.

    Else a file of the log would get its number, and what a library writes to standard error.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # The lowest number that is free, and so that of the file.
            nowhere = os.open(os.devnull, os.O_RDWR)
            if name != "stdin":  # there is no input, and `produce` says so
                setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))


def _program() -> Callable[[list[str]], int]:
    """Return all commands, or without click those that need nothing."""
    try:
        import click  # noqa: F401
    except ImportError:
        from pylog.cli import plain

        return plain.run
    from pylog.cli import program

    return program.run


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing a second time."""
    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)
