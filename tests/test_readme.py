"""README is true: its blocks run and print what it says, and each promise of it has a test.

The promises that hold under every crash and every schedule are tested by the crash, process and
fault tests; here each one is shown once, in the words of README.
"""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import blocks_of, check_blocks
from commands import ROOT
from crash_model import lose_all
from memory_files import MemoryFiles

import pylog
from pylog import errors
from pylog.engine.engine import Engine
from pylog.log import Log
from pylog.storage import layout

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = blocks_of(README)
DURABILITIES = ("fsync", "interval", "os")


# ------------------------------------------------------------------ what stands there


def test_every_block_runs_and_prints_what_readme_says(tmp_path: Path) -> None:
    programs, sessions = check_blocks(BLOCKS, tmp_path)
    assert programs >= 1 and sessions >= 1


def test_first_screen_shows_the_example() -> None:
    first_screen = README.splitlines()[:40]
    assert "```python" in first_screen and "```text" in first_screen
    start = first_screen.index("```python")
    assert first_screen.index("```", start) - start <= 14


def test_the_two_commands_are_those_that_are_run_on_every_change() -> None:
    install = "python -m venv .venv && .venv/bin/pip install"
    commands = [text for kind, text in BLOCKS if kind == "sh"]
    assert commands == [
        f"{install} . && .venv/bin/python examples/git_history.py\n",
        f"{install} -e '.[test]' && .venv/bin/python -m pytest -n auto\n",
    ]


def test_every_path_that_readme_names_exists() -> None:
    paths = re.findall(r"`((?:pylog|tests|examples|bench)/[\w/.]+)`", README)
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_and_picture_that_readme_shows_exists() -> None:
    links = re.findall(r"\]\(([\w/.-]+)\)", README)
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_error_that_readme_names_exists() -> None:
    names = set(re.findall(r"\b(\w+Error)\b", README))
    assert names and names <= set(errors.__all__)


def test_speeds_are_those_of_the_report() -> None:
    row = re.compile(
        r"^\| ([^|]+ vs\. [^|]+?) *\| ([^|]+?) *\| ([^|]+?) *\| ([^|]+?) *\|", re.MULTILINE
    )
    shown = {found[0]: found[1:] for found in row.findall(README)}
    report = (ROOT / "docs" / "benchmarks" / "report.md").read_text("utf-8")
    measured = {found[0]: found[1:] for found in row.findall(report)}
    assert len(shown) >= 15
    assert {name: measured.get(name) for name in shown} == shown


def test_every_setting_that_readme_names_exists() -> None:
    fields = set(pylog.TopicConfig.__slots__)
    assert {"flush_ms", "segment_bytes", "max_message_bytes", "index_interval_bytes"} <= fields
    config = pylog.TopicConfig.from_kafka({"segment.bytes": "1048576"})
    assert config.segment_bytes == 1 << 20
    assert pylog.TopicConfig().durability == "fsync"
    assert pylog.TopicConfig().flush_ms == 1000
    assert pylog.TopicConfig().max_message_bytes == (1 << 20) + 12


def test_directory_looks_as_drawn(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "data") as log:
        log.create_topic("orders", partitions=3).append(b"12 EUR", key=b"customer-7")
        log.consumer("orders", group="billing").close()
    page = (ROOT / "docs" / "format.md").read_text("utf-8")
    drawing = next(text for _, text in blocks_of(page) if "meta.properties" in text)
    drawn = set(re.findall(r"^ +([\w.-]+)/? {2,}", drawing, re.MULTILINE))
    assert drawn == {path.name for path in (tmp_path / "data").rglob("*")}


# ------------------------------------------------------------------ what survives what

APPENDER = """
import sys, pylog
log = pylog.open(sys.argv[1])
topic = log.create_topic("orders", durability=sys.argv[2], flush_ms=3_600_000)
for number in range(1000):
    print(topic.append(b"value %d" % number).offset, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("durability", DURABILITIES)
def test_what_was_acknowledged_survives_kill(tmp_path: Path, durability: str) -> None:
    command = [sys.executable, "-c", APPENDER, str(tmp_path), durability]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as appender:
        try:
            assert appender.stdout is not None
            acknowledged = [int(appender.stdout.readline()) for _ in range(100)]
        finally:
            appender.kill()
    with pylog.open(tmp_path) as log:
        records = list(log.read("orders"))
    assert len(records) >= len(acknowledged) == 100
    for offset, record in enumerate(records):
        assert (record.offset, record.value) == (offset, b"value %d" % offset)


def open_memory(files: MemoryFiles) -> Log:
    engine = Engine("/memory", file_system=files)
    engine.open(create=True)
    return Log(engine)


def after_power_cut(files: MemoryFiles) -> MemoryFiles:
    """Return the file system after the next boot, without anything that was not synced."""
    return MemoryFiles(files.disk_after().crash(lose_all, random.Random(1)), boot=2)


def values_in(log: Log) -> list[bytes | None]:
    return [record.value for record in log.read("orders")]


@pytest.mark.parametrize("durability", DURABILITIES)
def test_what_was_synced_survives_power_loss(durability: str) -> None:
    files = MemoryFiles(is_recording=True)
    log = open_memory(files)
    topic = log.create_topic("orders", durability=durability, flush_ms=3_600_000)
    topic.append(b"first")
    topic.partition(0).flush()
    topic.append(b"second")
    later = after_power_cut(files)
    log.close()
    with open_memory(later) as again:
        kept = [b"first", b"second"] if durability == "fsync" else [b"first"]
        assert values_in(again) == kept


def test_torn_tail_is_cut_and_saved() -> None:
    files = MemoryFiles(is_recording=True)
    log = open_memory(files)
    log.create_topic("orders").append(b"whole")
    killed = MemoryFiles(files.disk_after(), boot=2)
    log.close()
    directory = killed.root().directory("orders-0")
    file = directory.open(layout.log_name(0), writable=True)
    end = 12 + int.from_bytes(file.pread(12, 0)[8:], "big")
    file.pwrite(b"torn", end)
    file.close()
    with open_memory(killed) as again:
        assert values_in(again) == [b"whole"]
    saved = directory.open(layout.cut_name(0, end))
    assert saved.pread(100, 0) == b"torn"


def test_corruption_raises_and_everything_else_stays_readable(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        for number in range(3):
            log.create_topic("orders", if_exists="ok").append(b"value %d" % number)
    file = tmp_path / "orders-0" / layout.log_name(0)
    data = bytearray(file.read_bytes())
    second = 12 + int.from_bytes(data[8:12], "big")
    data[second + 65] ^= 1
    file.write_bytes(data)
    with pylog.open(tmp_path) as log:
        partition = log.topic("orders").partition(0)
        assert [record.value for record in partition.read(0)] == [b"value 0"]
        with pytest.raises(errors.CorruptRangeError) as error_info:
            partition.read(1)
        assert (error_info.value.first, error_info.value.last) == (1, 1)
        found = partition.read(error_info.value.last + 1)
        assert [record.value for record in found] == [b"value 2"]
    assert file.read_bytes() == data


def test_input_error_fails_the_open_and_changes_no_byte() -> None:
    files = MemoryFiles(is_recording=True)
    log = open_memory(files)
    log.create_topic("orders").append(b"value")
    killed = MemoryFiles(files.disk_after(), boot=2)
    log.close()
    with open_memory(killed) as again:
        topic = again.topic("orders")
        before = {name: data for name, data in killed.contents().items() if "orders-0" in name}
        killed.fail("pread", is_lasting=True)
        with pytest.raises(OSError) as error_info:
            topic.partition(0).read(0)
        assert error_info.value.errno == errno.EIO
        after = {name: data for name, data in killed.contents().items() if "orders-0" in name}
        assert after == before
        killed.heal()
        assert values_in(again) == [b"value"]


# ------------------------------------------------------------------ what an append raises


def test_append_without_space_was_not_done_and_works_once_there_is_some() -> None:
    files = MemoryFiles()
    with open_memory(files) as log:
        partition = log.create_topic("orders").partition(0)
        partition.append(b"first")
        files.free_bytes = 0
        with pytest.raises(errors.PartitionFullError) as error_info:
            partition.append(bytes(500_000))
        assert error_info.value.errno == errno.ENOSPC and error_info.value.retriable
        assert (partition.state, partition.log_end_offset) == ("full", 1)
        files.free_bytes = None
        assert partition.append(bytes(500_000)).offset == 1
        assert partition.state == "open"


def test_failed_sync_leaves_doubt_and_a_partition_that_only_reads() -> None:
    files = MemoryFiles(is_recording=True)
    log = open_memory(files)
    partition = log.create_topic("orders").partition(0)
    partition.append(b"first")
    files.fail("sync_data")
    with pytest.raises(errors.DurabilityUnknownError):
        partition.append(b"in doubt")
    files.heal()
    assert partition.state == "failed"
    with pytest.raises(errors.PartitionFailedError):
        partition.append(b"refused")
    assert [record.value for record in partition.read(0)] == [b"first"]
    log.close()
    with open_memory(files) as again:  # the next open recovers
        assert values_in(again)[0] == b"first"
        assert again.topic("orders").append(b"after").offset >= 1


def test_append_that_is_wrong_was_not_done(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("orders", max_message_bytes=1000).partition(0)
        with pytest.raises(errors.RecordTooLargeError):
            partition.append(bytes(1000))
        with pytest.raises(errors.InvalidRecordError):
            partition.append(b"value", timestamp=-5)
        with pytest.raises(TypeError):
            partition.append("text")  # type: ignore[arg-type]
        with pytest.raises(errors.OffsetMismatchError):
            partition.append(b"value", expected_offset=7)
        assert partition.log_end_offset == 0
        assert partition.append(b"value", expected_offset=0).offset == 0


# ------------------------------------------------------------------ who may open it

FOLLOWER = """
import sys, pylog
with pylog.open(sys.argv[1]) as log:
    for record in log.read("orders", follow=True):
        print(record.offset, flush=True)
        log.topic("answers").append(record.value)
"""


def test_processes_share_a_log_and_wake_each_other(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        orders = log.create_topic("orders", durability="os")
        answers = log.create_topic("answers", durability="os").partition(0)
        command = [sys.executable, "-c", FOLLOWER, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as follower:
            try:
                for number in range(20):
                    orders.append(b"%d" % number)
                    assert answers.wait(number)
            finally:
                follower.kill()
        assert [record.value for record in answers.read(0)] == [b"%d" % n for n in range(20)]


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFiles, "file_system_type", lambda self, path: "nfs4")
    with pytest.raises(errors.NetworkFileSystemError):
        open_memory(MemoryFiles())


def test_child_of_a_fork_may_use_the_log_it_inherited(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("orders", durability="os")
        topic.append(b"parent")
        child = os.fork()
        if child == 0:
            try:
                os._exit(topic.append(b"child").offset)
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert [record.value for record in topic.read()] == [b"parent", b"child"]
