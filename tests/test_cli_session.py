"""Every command of `pylog`, run as a user runs it: what it prints for programs, and on a terminal.

The golden file holds a session, commands with what they print; what differs from run to run (times,
ids, directories) or from version to version (the list of settings) is blanked.
PYLOG_GOLDEN=write writes it anew: read the difference.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from commands import COLUMNS, run, run_on_terminal

from pylog.cli.main import main
from pylog.cli.program import program

GOLDEN = Path(__file__).resolve().parent / "golden" / "commands.txt"
EVENTS = b"ada\tParis\nbob\tRome\nada\tOslo\nkeyless\nbob\t\n"
BLANKS = (
    (re.compile(r'("(?:ts|compacted_at)": )\d+'), r"\g<1>0"),
    (re.compile(r'("replica_id": )"[0-9a-f]{32}"'), r'\g<1>"ID"'),
    (re.compile(r'("settings": )\{[^}]*\}'), r"\g<1>{}"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "ID"),
)
# On a terminal: colours, cursor movements, and the title of nothing.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def steps() -> list[tuple[str, str]]:
    """Return the commands of the golden session, each with what it prints."""
    text = GOLDEN.read_text("utf-8")
    found = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(found[::2], found[1::2], strict=True))


def blanked(text: str, directory: Path) -> str:
    for pattern, blank in BLANKS:
        text = pattern.sub(blank, text)
    return text.replace(str(directory), "/srv")


@pytest.fixture
def entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the session takes place, also for what is called here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYLOG_DIRECTORY", raising=False)
    return tmp_path


def test_commands_print_what_they_always_did(
    entered: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = []
    is_written = os.environ.get("PYLOG_GOLDEN") == "write"
    for command, _ in steps():
        words = shlex.split(command)
        assert words.pop(0) == "pylog"
        if "--json" in words:
            # Each command once as a process of its own; a process costs as much as all the rest.
            given = EVENTS if words[0] == "produce" else None
            done = run(*words, where=entered, given=given)
            code, printed = done.returncode, done.stdout + done.stderr
        else:
            code = main(words)
            printed = "".join(capfd.readouterr())
        ending = f"[exit code {code}]\n" if code else ""
        session.append((command, blanked(printed, entered) + ending))
    if is_written:
        GOLDEN.write_text("".join(f"$ {step}\n{text}" for step, text in session), "utf-8")
    assert session == steps()


def test_golden_session_runs_every_command_for_programs() -> None:
    used = set()
    for command, printed in steps():
        words = shlex.split(command)
        if "--json" in words:
            used.add(words[1])
            lines = [line for line in printed.splitlines() if not line.startswith("[exit code")]
            assert [json.loads(line) for line in lines if not line.startswith("pylog: ")]
    # What two of them say is different each time; they have tests of their own.
    assert used | {"bench", "mirror"} == set(program.commands)


def test_bench_measures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run("bench", "--seconds", "0.01", "--json", where=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert {row["durability"] for row in rows} == {"none", "os", "fsync"}
    assert all(row["records_per_second"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ on a terminal


@pytest.fixture
def data(tmp_path: Path) -> Path:
    assert run("create", "users", "-p", "2", "-c", "cleanup_policy=compact", where=tmp_path)
    return tmp_path


def test_a_person_gets_tables_bars_and_no_control_characters_of_records(data: Path) -> None:
    typed = b"ada\t\x1b[31mred [bold]\nbob\tRome\nada\tOslo\n"
    # The escape character as a line would be an order to the terminal, so it comes by a pipe.
    assert run("produce", "users", "-K", r"\t", where=data, given=typed).returncode == 0
    code, screen = run_on_terminal(
        "produce", "users", "-K", ":", where=data, typed=b"cy:Bonn\n\x04"
    )
    assert code == 0 and "users: 1 record appended" in CONTROL.sub("", screen)
    code, screen = run_on_terminal("read", "users", "-f", r"%k=%s\n", where=data)
    assert code == 0 and "\x1b" not in screen
    assert r"ada=\x1b[31mred [bold]" in screen and "cy=Bonn" in screen
    code, screen = run_on_terminal("compact", where=data)
    plain = CONTROL.sub("", screen)
    assert code == 0 and "compacting" in plain and plain.count("users") == 2
    code, screen = run_on_terminal("seek", "[red]group", "users", "-o", "end", "--yes", where=data)
    assert code == 0 and "BEFORE" in screen
    code, screen = run_on_terminal("lag", where=data)
    plain = CONTROL.sub("", screen)
    assert code == 0 and "\x1b[1" in screen and "[red]group" in plain and "───" in plain
    assert max(map(len, plain.splitlines())) <= COLUMNS


def test_on_a_narrow_terminal_a_row_is_a_list_and_no_number_is_broken(data: Path) -> None:
    rows = b"".join(b"key %d\tvalue\n" % number for number in range(12_345))
    assert run("produce", "users", "-p", "1", "-K", r"\t", where=data, given=rows).returncode == 0
    code, wide = run_on_terminal("describe", "users", where=data, columns=85)
    assert code == 0 and " 12,345 " in wide and "───" in wide
    code, narrow = run_on_terminal("describe", "users", where=data, columns=40)
    lines = [line.rstrip() for line in CONTROL.sub("", narrow).splitlines()]
    assert code == 0 and "HIGH-WATERMARK  12,345" in lines and "───" not in narrow
    assert lines.count("STATE           open") == 1 and lines.count("") == 2
