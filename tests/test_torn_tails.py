"""What recovery cuts off is saved, whole, and never written over."""

from __future__ import annotations

import pytest
from crash_checks import Process, read_all
from memory_files import MemoryFiles

from pylog.config import TopicConfig
from pylog.errors import PartitionFullError
from pylog.storage import layout

CONFIG = TopicConfig(segment_bytes=1 << 20)


def killed_with_a_torn_tail(files: MemoryFiles, tail: bytes) -> tuple[MemoryFiles, int]:
    """Append a record, put `tail` after it, and kill the process; returns the files and where."""
    partition = Process(files).partition(CONFIG)
    partition.append(b"whole")
    marks = partition.marks()
    assert marks is not None
    killed = MemoryFiles(files.disk_after(), boot=2, is_recording=True)
    file = killed.root().directory("topic-0").open(layout.log_name(0), writable=True)
    file.pwrite(tail, marks.position)
    file.close()
    return killed, marks.position


def bytes_of(files: MemoryFiles, name: str) -> bytes:
    return files.contents()[f"topic-0/{name}"]


def test_bytes_cut_at_the_same_place_before_are_kept() -> None:
    files, end = killed_with_a_torn_tail(MemoryFiles(is_recording=True), b"second")
    name = layout.cut_name(0, end)
    directory = files.root().directory("topic-0")
    older = directory.open(name, writable=True, create=True)
    older.pwrite(b"first", 0)
    older.close()

    assert read_all(Process(files).partition(CONFIG)) == [b"whole"]

    assert bytes_of(files, name) == b"second"
    assert bytes_of(files, f"{name}.damaged-1") == b"first"


def test_a_recovery_that_is_repeated_saves_once() -> None:
    files, end = killed_with_a_torn_tail(MemoryFiles(is_recording=True), b"torn")
    name = layout.cut_name(0, end)
    saved = files.root().directory("topic-0").open(name, writable=True, create=True)
    saved.pwrite(b"torn", 0)
    saved.close()

    assert read_all(Process(files).partition(CONFIG)) == [b"whole"]

    assert [path for path in files.contents() if ".cut" in path] == [f"topic-0/{name}"]


def test_a_tail_that_finds_no_space_leaves_no_half_of_it_behind() -> None:
    files, _ = killed_with_a_torn_tail(MemoryFiles(is_recording=True), b"x" * (3 << 20))
    before = files.contents()
    files.free_bytes = 2 << 20
    process = Process(files)
    partition = process.partition(CONFIG)

    assert read_all(partition) == [b"whole"]
    with pytest.raises(PartitionFullError):
        partition.append(b"refused")

    log = f"topic-0/{layout.log_name(0)}"
    assert files.contents()[log] == before[log]
    assert [path for path in files.contents() if ".cut" in path] == []
