"""`pylog verify` and `dump`: what they print, for people and programs; how commands end."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from commands import ROOT, environment, run
from hypothesis import given
from hypothesis import strategies as st
from patience import HANG_SECONDS

import pylog
from pylog._native import make_batch
from pylog.cli import dump, show, verify
from pylog.cli.main import main
from pylog.cli.program import program
from pylog.storage import layout
from pylog.storage.inspect_file import escaped

LOG_NAME = layout.log_name(0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A closed log with three records of one topic."""
    path = tmp_path / "data"
    with pylog.open(path) as opened:
        topic = opened.create_topic("orders", durability="os", index_interval_bytes=50)
        topic.append(b"one", key=b"k", headers=[("h", b"\x00"), ("n", None)], timestamp=1000)
        topic.append(None, key="\u00e9".encode(), timestamp=2000)
        topic.append(b"\x1b[31mred\\", timestamp=1500)
    return path


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[65] ^= 1
    file.write_bytes(data)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------ verify


def test_verify_of_a_clean_log_exits_0(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(log)]) == 0
    out = capsys.readouterr().out
    assert "orders-0: ok: offsets [0, 3), 3 records in 3 batches" in out
    assert out.endswith("2 partitions, 0 damages, 0 notes\n")


def test_verify_of_damage_exits_1_and_names_it(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(log / "orders-0" / LOG_NAME)
    assert main(["verify", str(log)]) == 1
    out = capsys.readouterr().out
    assert "orders-0: DAMAGED: offsets [0, 3), 2 records" in out
    assert f"  DAMAGE: {log}/orders-0/{LOG_NAME} at 0: crc32c 0x" in out
    assert "offsets 0 to 0 are unreadable" in out


def test_verify_takes_one_partition(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(log / "orders-0")]) == 0
    assert capsys.readouterr().out.endswith("1 partition, 0 damages, 0 notes\n")


def test_verify_json_is_one_document(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(log / "orders-0" / LOG_NAME)
    assert main(["verify", "--json", str(log)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(log) and document["damages"] == 1
    metadata, orders = document["partitions"]
    assert metadata["is_damaged"] is False and metadata["findings"] == []
    assert orders["records"] == 2 and orders["log_end_offset"] == 3
    (finding,) = orders["findings"]
    assert (finding["kind"], finding["position"]) == ("damage", 0)
    assert (finding["first"], finding["end"]) == (0, 1)


def test_verify_works_while_the_log_is_open(log: Path) -> None:
    with pylog.open(log) as opened:
        opened.topic("orders").append(b"more")
        done = run("verify", log)
    assert (done.returncode, done.stderr) == (0, "")
    assert "orders-0: in use, ok: offsets [0, 4), 4 records" in done.stdout


@pytest.mark.parametrize("command", ["verify", "dump"])
def test_what_cannot_be_opened_exits_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path / "missing" / LOG_NAME)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("pylog: ")
    assert main([command, str(tmp_path)]) == 2


# ------------------------------------------------------------------ dump


def test_dump_shows_every_header_field(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "--json", str(log / "orders-0" / LOG_NAME)]) == 0
    batches = json_lines(capsys.readouterr().out)
    assert [batch["kind"] for batch in batches] == ["batch"] * 3
    first = batches[0]
    data = (log / "orders-0" / LOG_NAME).read_bytes()
    assert first.pop("crc") == f"0x{data[17:21].hex()}"
    assert first == {
        "kind": "batch",
        "position": 0,
        "size": 12 + int.from_bytes(data[8:12], "big"),
        "base_offset": 0,
        "last_offset": 0,
        "last_offset_delta": 0,
        "count": 1,
        "leader_epoch": 0,
        "magic": 2,
        "is_crc_valid": True,
        "attributes": 0,
        "compression": "none",
        "timestamp_type": "CreateTime",
        "is_transactional": False,
        "is_control": False,
        "has_delete_horizon": False,
        "base_timestamp": 1000,
        "max_timestamp": 1000,
        "producer_id": -1,
        "producer_epoch": -1,
        "base_sequence": -1,
    }


def test_dump_of_records_escapes_them(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "--json", "--records", str(log / "orders-0" / LOG_NAME)]) == 0
    items = json_lines(capsys.readouterr().out)
    found = [item for item in items if item["kind"] == "record"]
    assert [(item["offset"], item["timestamp"]) for item in found] == [
        (0, 1000),
        (1, 2000),
        (2, 1500),
    ]
    assert [item["key"] for item in found] == ["k", "\u00e9", None]
    assert [item["value"] for item in found] == ["one", None, r"\x1b[31mred" + "\\\\"]
    assert found[0]["headers"] == [["h", r"\x00"], ["n", None]]


def test_dump_text_is_a_line_a_batch_and_a_record(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", "--records", str(log / "orders-0" / LOG_NAME)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("batch  position: 0 size: ") and "is_crc_valid: yes" in lines[0]
    assert lines[1] == r"  record  offset: 0 timestamp: 1000 key: k value: one headers: " + (
        r"[[h, \x00], [n, null]]"
    )
    assert lines[3] == "  record  offset: 1 timestamp: 2000 key: \u00e9 value: null headers: []"


def test_dump_of_a_damaged_batch_shows_its_header_and_exits_1(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(log / "orders-0" / LOG_NAME)
    assert main(["dump", "--json", str(log / "orders-0" / LOG_NAME)]) == 1
    first, finding, *others = json_lines(capsys.readouterr().out)
    assert (first["kind"], first["base_offset"], first["is_crc_valid"]) == ("batch", 0, False)
    assert (finding["kind"], finding["position"]) == ("damage", 0)
    assert [batch["base_offset"] for batch in others] == [1, 2]


def test_dump_of_indexes_compares_them_with_the_log(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = log / "orders-0" / layout.index_name(0)
    assert main(["dump", "--json", str(index)]) == 0
    entries = json_lines(capsys.readouterr().out)
    assert entries and all(entry["kind"] == "index entry" for entry in entries)
    assert entries[0]["offset"] == 1
    index.write_bytes(b"\0\0\0\1\0\0\0\7" + index.read_bytes()[8:])
    assert main(["dump", str(index)]) == 1
    assert "points at 7, where no batch begins" in capsys.readouterr().out
    timeindex = log / "orders-0" / layout.timeindex_name(0)
    assert main(["dump", "--json", str(timeindex)]) == 0
    entry = json_lines(capsys.readouterr().out)[0]
    assert entry == {"kind": "time entry", "timestamp": 2000, "offset": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders-0/manifest", {"kind": "manifest", "is_clean": True, "durable_offset": 3}),
        ("orders-0/leader-epoch-checkpoint", {"kind": "leader epoch", "start_offset": 0}),
        ("orders-0/partition.metadata", {"kind": "partition"}),
        ("meta.properties", {"kind": "log", "format": 1}),
    ],
)
def test_dump_of_small_files(
    log: Path, name: str, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", "--json", str(log / name)]) == 0
    first = json_lines(capsys.readouterr().out)[0]
    assert first | expected == first
    (log / name).write_bytes(b"nonsense")
    assert main(["dump", "--json", str(log / name)]) == 1
    assert json_lines(capsys.readouterr().out)[0]["kind"] == "damage"


def test_dump_of_the_page_says_when_it_counts(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", str(log / "orders-0" / "state")]) == 0
    assert "count for nothing" in capsys.readouterr().out
    with pylog.open(log) as opened:
        opened.topic("orders").append(b"more")
        assert main(["dump", "--json", str(log / "orders-0" / "state")]) == 0
        (marks,) = json_lines(capsys.readouterr().out)
    assert (marks["kind"], marks["log_end_offset"], marks["state"]) == ("marks", 4, "open")


def test_dump_refuses_files_that_are_not_a_logs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert main(["dump", str(tmp_path / "notes.txt")]) == 2


def test_dump_of_one_log_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / layout.log_name(7)
    file.write_bytes(make_batch([(0, 0, b"k", b"v")], base_offset=7, leader_epoch=2))
    assert main(["dump", "--json", str(file)]) == 0
    (batch,) = json_lines(capsys.readouterr().out)
    assert (batch["base_offset"], batch["leader_epoch"]) == (7, 2)


@given(st.binary(max_size=40))
def test_escaped_text_prints_and_can_be_turned_back(data: bytes) -> None:
    text = escaped(data)
    assert text.isprintable() or not text
    back, position = bytearray(), 0
    while position < len(text):
        if text.startswith("\\\\", position):
            back += b"\\"
            position += 2
        elif text.startswith("\\x", position):
            back.append(int(text[position + 2 : position + 4], 16))
            position += 4
        else:
            back += text[position].encode()
            position += 1
    assert back == data


# ------------------------------------------------------------------ as a program


def test_version_is_told() -> None:
    done = run("--version")
    assert done.returncode == 0 and done.stdout.startswith("pylog ")


def test_wrong_usage_exits_2() -> None:
    assert run().returncode == 2
    assert run("verify").returncode == 2
    assert run("frobnicate").returncode == 2


def test_file_names_cannot_command_the_terminal(log: Path) -> None:
    (log / "\x1b[31mred").write_bytes(b"")
    done = run("verify", log)
    assert "\x1b" not in done.stdout and r"\x1b[31mred" in done.stdout


def test_what_is_wrong_is_said_in_the_words_of_the_shell(
    log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(log / "no")]) == 2
    assert capfd.readouterr().err == f"pylog: {log}/no: No such file or directory\n"
    assert main(["read", "orders", "-d", str(log), "-f", r"\q"]) == 2
    assert capfd.readouterr().err == 'pylog: \\q in "\\q" has no meaning\n'
    assert main(["compact", "orders", "-d", str(log)]) == 2
    assert "topic 'orders' is not compacted" in capfd.readouterr().err
    (log / "orders-0" / "manifest").write_bytes(b"")  # which the library notes and goes on
    assert main(["read", "orders", "-d", str(log)]) == 0
    (noted,) = capfd.readouterr().err.splitlines()
    assert noted.startswith(f"pylog: {log}/orders-0/manifest: ")


def test_a_full_disk_behind_standard_output_exits_1(log: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pylog", "verify", str(log)],
            cwd=ROOT,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=HANG_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"pylog: No space left on device\n")


@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [
        (">&-", ["describe", "orders"], 0),
        ("2>&-", ["read", "nothing"], 2),
        ("<&-", ["produce", "orders"], 2),
        ("<&- >&- 2>&-", ["compact"], 0),
    ],
)
def test_standard_files_may_be_closed(log: Path, closed: str, words: list[str], code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "pylog", *words],
        cwd=ROOT,
        env=environment() | {"PYLOG_DIRECTORY": str(log)},
        capture_output=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == code and b"Traceback" not in done.stderr
    if "2>" in closed:
        assert done.stdout == b""  # what is wrong is no output


def test_help_of_every_command_explains_each_option_and_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name, command in program.commands.items():
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: pylog {name} ") and max(map(len, text.splitlines())) < 80
        # Click's sign for lines that are to stay as they are: shown, it did not do its work.
        assert r"\b" not in text
        assert [
            one.name for one in command.params if isinstance(one, click.Option) and not one.help
        ] == []


def test_interrupt_ends_quietly(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", interrupted)
    assert main(["verify", str(log)]) == 130
    assert capsys.readouterr().err == ""


# Little output fails when it is flushed at the end, much of it on the way.
@pytest.mark.parametrize("count", [3, 5000])
def test_reader_that_goes_away_ends_it_quietly(tmp_path: Path, count: int) -> None:
    file = tmp_path / LOG_NAME
    batches = [make_batch([(0, 0, None, b"v")], base_offset=number) for number in range(count)]
    file.write_bytes(b"".join(batches))
    command = [sys.executable, "-m", "pylog", "dump", str(file)]
    # Unbuffered output would fail at once, and never at the interpreter's last flush.
    without = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command, cwd=ROOT, env=without, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(HANG_SECONDS) == 141
        finally:
            process.kill()


def test_output_that_an_ascii_terminal_cannot_show_does_not_break(log: Path) -> None:
    command = [sys.executable, "-m", "pylog", "dump", "--records", str(log / "orders-0" / LOG_NAME)]
    ascii_only = environment() | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=ascii_only, capture_output=True, timeout=HANG_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"key: \xe9 " in done.stdout


def test_commands_describe_their_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for module, command in ((verify, "verify"), (dump, "dump")):
        assert main([command, "--help"]) == 0
        assert "Exit code: 0 no damage, 1 damage, 2 wrong usage" in capsys.readouterr().out
        assert module.DESCRIPTION.count("--json") == 1


# ------------------------------------------------------------------ without the extra

WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
from pylog.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def run_without(package: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, package, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


def test_without_click_what_is_installed_still_examines(log: Path) -> None:
    done = run_without("click", "verify", log)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("verify", log).stdout
    done = run_without("click", "dump", "--json", log / "orders-0" / LOG_NAME)
    assert done.returncode == 0 and len(json_lines(done.stdout)) == 3


@pytest.mark.parametrize("arguments", [("topics",), (), ("frobnicate",)])
def test_without_click_other_commands_name_the_extra(
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "pip install 'pylog[cli]'" in captured.err


def test_without_rich_a_table_on_a_terminal_names_the_extra(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.delitem(sys.modules, "pylog.cli.terminal", raising=False)
    assert main(["topics", "-d", str(log)]) == 0  # plain text needs no rich
    assert "orders" in capsys.readouterr().out
    monkeypatch.setattr(show, "is_terminal", lambda: True)
    assert main(["topics", "-d", str(log)]) == 2
    assert capsys.readouterr().err == "pylog: needs the package rich: pip install 'pylog[cli]'\n"


def test_importing_pylog_imports_nothing_of_the_command_line() -> None:
    code = "import sys, pylog; print({'click', 'rich', 'argparse'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        timeout=HANG_SECONDS,
        check=True,
    )
    assert done.stdout == b"set()\n"


def test_installed_program_is_this_one() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert settings["project"]["scripts"] == {"pylog": f"{main.__module__}:{main.__name__}"}
