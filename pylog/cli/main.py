"""The arguments of `python -m pylog`, its exit codes, and how it ends when it is told to.

0    nothing wrong was found
1    damage was found
2    wrong usage, or what was named cannot be opened
130  interrupted by Ctrl-C;  141  nobody reads the output any more, as of `... | head`
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from pylog._native import CRC_BACKEND
from pylog.cli import dump, verify

_UNUSABLE: Final = 2
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count
_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    arguments: without the program's name; by default those of this process.
    Raises SystemExit for wrong usage, `--help` and `--version`, as argparse does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character gets its number, not a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (OSError, ValueError) as error:
        print(f"pylog: {error}", file=sys.stderr)
        return _UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pylog",
        description="Look into logs.  Reads only; works while the log is being written.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    verify.add_command(commands)
    dump.add_command(commands)
    return parser


def _version() -> str:
    try:
        number = version("pylog")
    except PackageNotFoundError:
        number = "(not installed)"
    return f"pylog {number}, Python {platform.python_version()}, crc32c by {CRC_BACKEND}"


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing a second time."""
    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)
