"""Where `pylog` begins: its exit codes, and how it ends when it is told to.

0    done; nothing wrong was found
1    damage was found, or what was asked for could not be done
2    wrong usage, or what was named is not there or cannot be opened
130  interrupted by Ctrl-C;  141  nobody reads the output any more, as of `... | head`
"""

from __future__ import annotations

import io
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character gets its number, not a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
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
        show.complain(str(error))
        return _UNUSABLE


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
