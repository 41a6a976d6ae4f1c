"""Make docs/session.svg: a session of `pylog` on a terminal, as the program itself draws it.

    python docs/session.py

Runs the commands on a pseudo-terminal in an empty directory; rich makes a picture of what came.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "session.svg"
COLUMNS = 94
COMMANDS = (
    "pylog create clicks -p 3 -c retention.ms=86400000",
    "zcat events.gz | pylog produce clicks -K '\\t'",
    "pylog read clicks -o -1 -f '%t-%p@%o %k: %s\\n'",
    "pylog seek billing clicks -o 400 --yes",
    "pylog lag",
    "pylog describe clicks",
    "pylog verify",
)
EVENTS = "".join(f"user-{number % 40}\tpage {number}\n" for number in range(3000))
SHELL = f'pylog() {{ "{sys.executable}" -m pylog "$@"; }}; eval "$1"'


def run(command: str, directory: str) -> str:
    """Return what a command draws on a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, COLUMNS, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    with subprocess.Popen(
        ["bash", "-c", SHELL, "session", command],
        cwd=directory,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    ):
        os.close(slave)
        pieces = []
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError:
                break  # nobody has it open any more
            if not piece:
                break
            pieces.append(piece)
    os.close(master)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def visible(drawn: str) -> str:
    """Return what stays on the screen: a progress bar takes itself away at its end."""
    return drawn.rsplit("\x1b[2K", 1)[-1].replace("\x1b[?25h", "")


def main() -> int:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as directory:
        events = Path(directory) / "events"
        events.write_text(EVENTS)
        subprocess.run(["gzip", str(events)], check=True)
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            drawn = visible(run(command, directory)).replace(os.path.realpath(directory), "/srv")
            console.print(Text.from_ansi(drawn.rstrip()))
            console.print()
    picture = console.export_svg(title="pylog", unique_id="session")
    PICTURE.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
