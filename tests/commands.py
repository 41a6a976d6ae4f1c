"""`pylog` as a user runs it: a process of its own, on pipes or on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from patience import HANG_SECONDS

ROOT = Path(__file__).resolve().parent.parent
ROWS, COLUMNS = 50, 120


def environment() -> dict[str, str]:
    """Return what commands find: this checkout, and no wishes about colours or directories."""
    unwanted = {"PYLOG_DIRECTORY", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}


def run(
    *arguments: str | Path, where: Path = ROOT, given: bytes | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in the directory `where`, with `given` on its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "pylog", *map(str, arguments)],
        cwd=where,
        env=environment(),
        input=given or b"",
        capture_output=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def run_on_terminal(
    *arguments: str | Path, where: Path, typed: bytes = b"", columns: int = COLUMNS
) -> tuple[int, str]:
    """Run a command whose three standard files are a terminal; return exit code and output.

    typed: what is typed at once; end it with the end-of-file character if the command reads.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", ROWS, columns, 0, 0))
    command = [sys.executable, "-m", "pylog", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=where, env=environment(), stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        try:
            os.write(master, typed)
            output = _read_all(master)
            return process.wait(HANG_SECONDS), output.replace("\r\n", "\n")
        finally:
            process.kill()
            os.close(master)


def _read_all(master: int) -> str:
    """Return what is written on a terminal until nobody has it open any more."""
    pieces = []
    while True:
        try:
            piece = os.read(master, 1 << 16)
        except OSError:
            # What Linux says when the last one has closed it.
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()
