"""The code blocks of a page of documentation: run as its reader would, and compared.

A `python` block is a program of its own; the `text` block behind it is what it prints.  A `console`
block is a session: commands behind `$ `, each followed by what it prints.  `sh` blocks are not run
here: they install, or take long.  `...` stands for anything, also to the end of a line.
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

from commands import environment
from patience import HANG_SECONDS

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Return the blocks of a page: what they are, and their text."""
    return [(match[1], match[2]) for match in _BLOCK.finditer(page)]


def check_blocks(blocks: list[tuple[str, str]], directory: Path) -> tuple[int, int]:
    """Run all blocks of a page in one directory; return how many programs and sessions it had."""
    programs = sessions = 0
    shell = _shell(directory)
    for number, (kind, text) in enumerate(blocks):
        if kind == "python":
            printed = run([sys.executable, "-c", text], directory)
            if blocks[number + 1 : number + 2] and blocks[number + 1][0] == "text":
                expect_output(printed, blocks[number + 1][1])
            else:
                assert printed == "", "a program's output follows it"
            programs += 1
        elif kind == "console":
            for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, promised = step.split("\n", 1)
                expect_output(run([*shell, command], directory), promised)
            sessions += 1
        else:
            assert kind in ("text", "sh"), f"no test knows what to do with {kind}"
    return programs, sessions


def run(command: list[str], directory: Path) -> str:
    """Run one command as a reader would; return what it printed."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    # Whom a page kills may have been in the middle of an append; the open that cuts it off says so.
    complaints = [line for line in done.stderr.splitlines() if ": cut a torn tail of " not in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
    return done.stdout.replace(str(directory), "/srv")


def expect_output(printed: str, promised: str) -> None:
    """Compare as doctest does: `...` stands for anything, also to the end of a line."""
    is_equal = doctest.OutputChecker().check_output(promised, printed, doctest.ELLIPSIS)
    assert is_equal, f"the page says:\n{promised}\nprinted was:\n{printed}"


def _shell(directory: Path) -> list[str]:
    """Return a shell in which `python` and `pylog` are this interpreter and this checkout."""
    python = shlex.quote(sys.executable)
    functions = f'python() {{ {python} "$@"; }}; pylog() {{ {python} -m pylog "$@"; }}'
    return ["bash", "-c", f'set -o pipefail; {functions}; eval "$1"', "session"]
