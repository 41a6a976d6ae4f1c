"""`pylog produce` and `pylog read`: what becomes of lines, and what is printed of records."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import environment
from hypothesis import given
from hypothesis import strategies as st
from patience import HANG_SECONDS

import pylog
from pylog.cli import formats, produce, read
from pylog.cli.main import main
from pylog.cli.options import Kind, Place
from pylog.storage import layout

NOON = 1_714_564_800_000  # 2024-05-01 12:00 UTC


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log with a topic of two partitions, made the log of the commands."""
    path = tmp_path / "data"
    with pylog.open(path) as log:
        topic = log.create_topic("users", 2, durability="os", retention_ms=-1)
        for number in range(5):
            topic.append(b"v%d" % number, timestamp=NOON + number * 60_000, partition=0)
        topic.append(b"\xff\x1b[1m", b"k", [("h", None), ("i", b"\xfe")], NOON, partition=1)
        topic.append(None, b"k", timestamp=NOON + 60_000, partition=1)
    monkeypatch.setenv("PYLOG_DIRECTORY", str(path))
    return path


Printed = Callable[..., bytes]


@pytest.fixture
def printed(data: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Printed:
    """Run a command that goes well; return what it printed."""

    def call(*arguments: str) -> bytes:
        assert main(arguments) == 0
        captured = capfdbinary.readouterr()
        assert captured.err == b""
        return captured.out

    return call


# ------------------------------------------------------------------ read


def test_read_prints_values_of_the_partitions_asked_for(printed: Printed) -> None:
    assert printed("read", "users") == b"v0\nv1\nv2\nv3\nv4\n\xff\x1b[1m\n\n"
    assert printed("read", "users", "-p", "1", "-c", "1") == b"\xff\x1b[1m\n"
    assert printed("read", "users", "-c", "0") == b""


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["-o", "beginning"], b"01234"),
        (["-o", "end"], b""),
        (["-o", "3"], b"34"),
        (["-o", "5"], b""),
        (["-o", "-2"], b"34"),
        (["-o", "-99"], b"01234"),
        (["-o", f"s@{NOON + 61_000}"], b"234"),
        (["-o", "s@2024-05-01T12:03:00+00:00"], b"34"),
        (["-o", "s@-1d"], b""),
        (["-o", "1", "-o", f"e@{NOON + 180_000}"], b"12"),
        (["-o", f"e@{NOON}"], b""),
    ],
)
def test_read_begins_and_ends_where_it_is_told(
    printed: Printed, where: list[str], expected: bytes
) -> None:
    out = printed("read", "users", "-p", "0", *where)
    assert out.replace(b"v", b"").replace(b"\n", b"") == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "7", "-p", "0"],
        ["-o", "sometime"],
        ["-o", "s@yesterday"],
        ["-o", "1", "-o", "2"],
        ["-o", "e@5", "--follow"],
        ["-p", "2"],
        ["-f", "%q"],
        ["-f", "%"],
        ["-f", r"\q"],
        ["-c", "-1"],
        ["-K", ":", "-J"],
        ["-f", "%s", "-J"],
    ],
)
def test_read_refuses_what_makes_no_sense(
    data: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", "users", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err and captured.err


def test_format_has_the_tokens_of_kcat(printed: Printed) -> None:
    text = r"%t [%p] at %o, %T: %k=%s %K/%S %h %%\x21\n"
    lines = printed("read", "users", "-p", "1", "-f", text).split(b"\n")
    assert lines[0] == b"users [1] at 0, %d: k=\xff\x1b[1m 1/5 h=NULL,i=\xfe %%!" % NOON
    assert lines[1] == b"users [1] at 1, %d: k= 1/-1  %%!" % (NOON + 60_000)
    out = printed("read", "users", "-f", r"%R%s", "-o", "-1", "-Z")
    assert out == b"\0\0\0\2v4\xff\xff\xff\xffNULL"


def test_what_read_prints_with_keys_produce_takes(
    data: Path, printed: Printed, given_lines: Callable[[bytes], None]
) -> None:
    out = printed("read", "users", "-p", "1", "-o", "1", "-K", r"%\t")
    assert out == b"k%\t\n"
    given_lines(out)
    assert main(["produce", "users", "-p", "1", "-K", r"%\t", "-Z"]) == 0
    assert pairs_of(data)[1:] == [(b"k", None)] * 2


def test_envelope_is_that_of_kcat_and_says_when_it_is_not_text(printed: Printed) -> None:
    first, second = map(json.loads, printed("read", "users", "-p", "1", "-J").splitlines())
    assert first == {
        "topic": "users",
        "partition": 1,
        "offset": 0,
        "tstype": "create",
        "ts": NOON,
        "headers": ["h", None, "i", r"\xfe"],
        "key": "k",
        "payload_base64": base64.b64encode(b"\xff\x1b[1m").decode(),
    }
    assert (second["payload"], "headers" in second) == (None, False)


def test_damaged_records_are_told_of_and_passed_over(
    data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = data / "users-0" / layout.log_name(0)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last batch; the one before ends where it begins
    size = len(content) // 5
    content[size + 65] ^= 1
    file.write_bytes(content)
    assert main(["read", "users", "-p", "0"]) == 1
    captured = capfd.readouterr()
    assert captured.out == "v0\nv2\nv3\n"
    assert captured.err.count("crc32c") == 2


def test_retention_that_is_faster_is_no_error_unless_the_offset_was_asked_for(data: Path) -> None:
    with pylog.open(data) as log:
        topic = log.topic("users")
        spans = read._spans(topic, [0], Place(Kind.BEGINNING), None)
        topic.delete_records({0: 3})
        pieces = list(read._stored(topic, spans, None, []))
        assert [record.value for piece in pieces for record in piece.records] == [b"v3", b"v4"]
        assert sum(piece.offsets for piece in pieces) == 5
        with pytest.raises(pylog.errors.OffsetOutOfRangeError):
            list(read._stored(topic, spans, 0, []))


@given(st.binary())
def test_escapes_give_back_every_delimiter(delimiter: bytes) -> None:
    text = "".join(f"\\x{byte:02x}" for byte in delimiter)
    assert formats.unescaped(text) == delimiter
    assert formats.unescaped(r"\t\n\r\0\\é") == "\t\n\r\0\\é".encode()


# ------------------------------------------------------------------ produce


@pytest.fixture
def given_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[bytes], None]]:
    """Give lines to the next command called here, from a file."""
    with contextlib.ExitStack() as opened:

        def give(content: bytes) -> None:
            (tmp_path / "lines").write_bytes(content)
            stream = opened.enter_context((tmp_path / "lines").open())
            monkeypatch.setattr(sys, "stdin", stream)

        yield give


def pairs_of(path: Path) -> list[tuple[bytes | None, bytes | None]]:
    with pylog.open(path) as log:
        return [(record.key, record.value) for record in log.read("users", partition=1)]


@pytest.mark.parametrize(
    ("arguments", "lines", "expected"),
    [
        ([], b"a\nb", [(None, b"a"), (None, b"b")]),
        (["-K", r"\t"], b"k\tv\tw\nv\n", [(b"k", b"v\tw"), (None, b"v")]),
        (["-K", "::", "-D", ";"], b"k::v;l::w;", [(b"k", b"v"), (b"l", b"w")]),
        (["-K", ":", "-Z"], b"k:\nl:w\n", [(b"k", None), (b"l", b"w")]),
        (["-k", "all"], b"a\n\n", [(b"all", b"a"), (b"all", b"")]),
        (["-D", r"\0"], b"a\nb\0\xff", [(None, b"a\nb"), (None, b"\xff")]),
    ],
)
def test_lines_become_records(
    data: Path,
    given_lines: Callable[[bytes], None],
    arguments: list[str],
    lines: bytes,
    expected: list[tuple[bytes | None, bytes | None]],
) -> None:
    given_lines(lines)
    assert main(["produce", "users", "-p", "1", *arguments]) == 0
    assert pairs_of(data)[2:] == expected


@pytest.mark.parametrize(
    "arguments",
    [["-k", "a", "-K", "b"], ["-D", ""], ["-K", ""], ["-K", r"\q"], ["-H", "name"], ["-p", "7"]],
)
def test_produce_refuses_what_makes_no_sense(
    data: Path, arguments: list[str], given_lines: Callable[[bytes], None]
) -> None:
    before = pairs_of(data)
    given_lines(b"line\n")
    assert main(["produce", "users", *arguments]) == 2
    assert pairs_of(data) == before


def test_what_was_appended_before_a_failure_is_told(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    given_lines: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(topic: pylog.Topic, values: list[bytes], *rest: object, **named: object) -> None:
        error = pylog.errors.PartitionFullError("users", 0, "no space")
        error.appended = range(3)  # type: ignore[assignment]
        raise error

    monkeypatch.setattr(pylog.Topic, "append_many", full)
    given_lines(b"1\n2\n3\n4\n")
    assert main(["produce", "users", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"topic": "users", "records": 3}
    assert captured.err.startswith("pylog: 3 records appended before this:\npylog: ")


def is_new(record: pylog.Record) -> bool:
    return record.key is not None and record.key != b"k"


def test_many_lines_are_appended_at_once_and_all_of_them(
    data: Path, given_lines: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(produce, "_BLOCK_BYTES", 1000)
    given_lines(b"".join(b"k%d\t%d\n" % (number, number) for number in range(10_000)))
    assert main(["produce", "users", "-K", r"\t"]) == 0
    with pylog.open(data) as log:
        found = sorted(int(record.value or b"") for record in log.read("users") if is_new(record))
    assert found == list(range(10_000))


def test_a_line_longer_than_any_record_is_refused(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    given_lines: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(produce, "_LONGEST_LINE", 1000)
    monkeypatch.setattr(produce, "_BLOCK_BYTES", 1000)
    given_lines(b"short\n" + b"x" * 5000)
    assert main(["produce", "users", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["records"] == 1
    told, refused = captured.err.splitlines()
    assert told == "pylog: 1 record appended before this:"
    assert refused == "pylog: a line is longer than 1,000 bytes"


def test_a_partition_that_is_not_there_is_told_before_any_input_is_read(
    data: Path, given_lines: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    given_lines(b"")
    assert main(["produce", "users", "-p", "7"]) == 2
    assert capsys.readouterr().err == "pylog: unknown topic 'users', partition 7\n"


# ------------------------------------------------------------------ while others write


def start(*arguments: str, directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pylog", "-d", str(directory), *arguments],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_follower_prints_what_others_produce_and_ends_quietly_on_interrupt(data: Path) -> None:
    with (
        start("read", "users", "--follow", "-o", "end", "-f", r"%k %s\n", directory=data) as reader,
        start("produce", "users", "-K", ":", directory=data) as writer,
    ):
        try:
            assert reader.stdout is not None and reader.stderr is not None
            assert writer.stdin is not None
            with pylog.open(data) as log:
                # Until the reader is there, what it is to see cannot be appended.
                line = b""
                while not line:
                    log.topic("users").append(b"hello", b"k")
                    line = read_line_soon(reader)
            for number in range(3):
                # Interactive use: each line is there before the next one is typed.
                writer.stdin.write(b"user:%d\n" % number)
                writer.stdin.flush()
                while (line := reader.stdout.readline()) == b"k hello\n":
                    pass
                assert line == b"user %d\n" % number
            writer.stdin.close()
            assert writer.wait(HANG_SECONDS) == 0
            reader.send_signal(signal.SIGINT)
            assert reader.wait(HANG_SECONDS) == 130
            assert (reader.stdout.read(), reader.stderr.read()) == (b"", b"")
        finally:
            reader.kill()
            writer.kill()


def read_line_soon(reader: subprocess.Popen[bytes]) -> bytes:
    """Return a line, or nothing if there is none yet."""
    assert reader.stdout is not None
    ready = select.select([reader.stdout], [], [], 0.05)[0]
    return reader.stdout.readline() if ready else b""


def test_producer_that_is_interrupted_keeps_what_it_said(data: Path) -> None:
    with start("produce", "users", "-p", "0", directory=data) as writer:
        try:
            assert writer.stdin is not None and writer.stderr is not None
            writer.stdin.write(b"before\n")
            writer.stdin.flush()
            with pylog.open(data) as log:
                assert log.topic("users").partition(0).wait(5)
            writer.send_signal(signal.SIGINT)
            assert writer.wait(HANG_SECONDS) == 130
            assert writer.stderr.read() == b""
        finally:
            writer.kill()
    with pylog.open(data) as log:
        assert [record.value for record in log.read("users", partition=0, start=5)] == [b"before"]


WRITER = """
import sys, pylog
with pylog.open(sys.argv[1]) as log, log.consumer("users", group="reader") as consumer:
    while True:
        log.topic("users").append_many([b"more"] * 100, partition=0)
        consumer.poll(0)
        consumer.commit()
"""


def test_commands_look_while_another_process_writes(data: Path, printed: Printed) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(data)], env=environment()) as writer:
        try:
            with pylog.open(data) as log:
                assert log.topic("users").partition(0).wait(1000)
            assert printed("topics", "--json").count(b"users") == 1
            partitions = json.loads(printed("describe", "users", "--json"))["partitions"]
            assert partitions[0]["log_end_offset"] > 1000
            seen = printed("read", "users", "-p", "0").count(b"\n")
            assert seen >= partitions[0]["high_watermark"]
            assert json.loads(printed("groups", "--json"))[0]["members"] == 1
            assert json.loads(printed("describe-group", "reader", "--json"))["members"]
            assert len(json.loads(printed("lag", "--json"))) == 2
            assert "users-0" in json.loads(printed("metrics", "--json"))["partitions"]
            assert json.loads(printed("verify", "--json"))["damages"] == 0
            assert writer.poll() is None
        finally:
            writer.kill()


def test_metrics_tell_the_role_of_a_replica(data: Path, printed: Printed) -> None:
    with pylog.open(data) as log:
        log.promote(7)
        assert b"replication: leader of epoch 7, in sync: " in printed("metrics")
    assert json.loads(printed("metrics", "--json"))["replication"]["epoch"] == 7


def test_describe_tells_every_setting(data: Path, printed: Printed) -> None:
    document = json.loads(printed("describe", "users", "--json"))
    with pylog.open(data) as log:
        assert document["settings"] == dataclasses.asdict(log.topic("users").config)


def test_directory_is_taken_from_where_it_is_said_nearest(
    data: Path, printed: Printed, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    assert printed("create", "here", "-d", other) == b"here: 1 partition\n"
    assert b"users" in printed("topics")
    assert b"here" in printed("-d", other, "topics")
    assert b"here" in printed("-d", os.devnull, "topics", "-d", other)
