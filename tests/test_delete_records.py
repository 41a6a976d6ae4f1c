"""Deleting records from the front: where the log starts then, for whom, and what goes with them."""

from __future__ import annotations

import errno
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from crash_checks import Process, read_all, start_of
from crash_model import Disk, lose_all
from memory_files import MemoryFiles
from partitions import NOW, bases, logs_in, make_partition, values
from processes import children

import pylog
from pylog import Log, Partition, TopicConfig
from pylog.errors import (
    InvalidConfigurationError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from pylog.storage import lifecycle, retention
from pylog.storage.attachment import Attachment
from pylog.storage.layout import parse_leader_epochs
from pylog.topics.verification import verify


def fill(log: Log, count: int = 50, **settings: Any) -> Partition:
    """Return a partition of a few segments, ten records each."""
    partition = make_partition(log, segment_bytes=900, **settings)
    for number in range(count):
        partition.append(b"%04d" % number + bytes(16), timestamp=NOW + number)
    return partition


def check_is_gone(partition: Partition, start: int) -> None:
    with pytest.raises(OffsetOutOfRangeError) as caught:
        partition.read(start - 1)
    assert (caught.value.start, caught.value.end) == (start, partition.log_end_offset)
    assert partition.log_start_offset == start
    partition.check()


def damages(path: Path) -> list[str]:
    reports = verify(str(path))
    return [str(one) for report in reports for one in report.findings if one.is_damage]


def test_records_below_an_offset_are_gone_and_all_others_stay(log: Log, tmp_path: Path) -> None:
    partition = fill(log)
    assert partition.delete_records(25) == 25
    check_is_gone(partition, 25)
    assert [record.offset for record in partition.records()] == list(range(25, 50))
    assert bases(tmp_path)[0] <= 25 < bases(tmp_path)[1]
    assert damages(tmp_path) == []


def test_minus_one_means_the_high_watermark(log: Log) -> None:
    partition = fill(log)
    assert partition.delete_records(-1) == 50
    assert values(partition) == []
    assert list(partition.read(50)) == []
    assert partition.append(b"next").offset == 50
    assert values(partition) == [b"next"]


def test_below_the_log_start_nothing_changes(log: Log, tmp_path: Path) -> None:
    partition = fill(log)
    partition.delete_records(25)
    manifest = (tmp_path / "t-0" / "manifest").read_bytes()
    assert partition.delete_records(25) == partition.delete_records(0) == 25
    assert (tmp_path / "t-0" / "manifest").read_bytes() == manifest


@pytest.mark.parametrize("before", [51, -2, 2**40])
def test_beyond_the_high_watermark_is_refused(log: Log, before: int) -> None:
    partition = fill(log)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        partition.delete_records(before)
    assert (caught.value.offset, caught.value.start, caught.value.end) == (before, 0, 50)
    assert partition.log_start_offset == 0


def test_what_is_not_visible_yet_cannot_be_deleted(log: Log) -> None:
    partition = fill(log, durability="fsync")
    attachment = partition._attached()
    assert attachment is not None
    attachment.tail.native.append(b"unsynced", timestamp=NOW)
    with pytest.raises(OffsetOutOfRangeError):
        partition.delete_records(51)
    assert partition.delete_records(-1) == 50


def test_an_offset_of_numpys_will_do(log: Log) -> None:
    partition = fill(log)
    assert partition.delete_records(partition.read_columns(25).offsets[0]) == 25


@pytest.mark.parametrize("before", [None, "3", 3.0, True])
def test_what_is_no_offset_is_refused(log: Log, before: Any) -> None:
    with pytest.raises(TypeError, match="before must be an int"):
        make_partition(log).delete_records(before)


def test_a_partition_without_records_has_nothing_to_delete(log: Log, tmp_path: Path) -> None:
    partition = make_partition(log)
    assert partition.delete_records(-1) == partition.delete_records(0) == 0
    with pytest.raises(OffsetOutOfRangeError):
        partition.delete_records(1)
    assert not (tmp_path / "t-0").exists()


def test_a_topic_that_is_only_compacted_keeps_its_records(log: Log) -> None:
    partition = make_partition(log, cleanup_policy="compact")
    for number in range(20):
        partition.append(b"%d" % number, key=b"%d" % number)
    with pytest.raises(InvalidConfigurationError, match="cleanup_policy"):
        partition.delete_records(10)
    assert partition.log_start_offset == 0


def test_a_topic_deletes_from_each_of_its_partitions(log: Log) -> None:
    topic = log.create_topic("t", partitions=3, durability="os")
    for number in range(30):
        topic.append(b"x", partition=number % 3)
    assert topic.delete_records({0: 4, 2: -1}) == {0: 4, 2: 10}
    assert [one.log_start_offset for one in topic.partitions] == [4, 0, 10]
    with pytest.raises(UnknownTopicOrPartitionError):
        topic.delete_records({0: 6, 3: 1})
    assert topic.partition(0).log_start_offset == 4


# ---------------------------------------------------------------- who sees it


def test_other_handles_and_processes_see_it_at_once(tmp_path: Path, log: Log) -> None:
    partition = fill(log)
    with pylog.open(tmp_path) as other:
        theirs = other.topic("t").partition(0)
        assert len(theirs.read(0)) > 0
        partition.delete_records(31)
        check_is_gone(theirs, 31)
        assert next(theirs.records()).offset == 31
    with children() as start:
        start(lambda: delete_as_told(tmp_path, 41)).join()
    check_is_gone(partition, 41)


def delete_as_told(path: Path, before: int) -> None:
    with pylog.open(path) as log:
        assert log.topic("t").partition(0).delete_records(before) == before


@pytest.mark.parametrize("knows_segments", [True, False])
def test_a_reader_that_was_overtaken_is_told_so(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, knows_segments: bool
) -> None:
    """Between its look at the marks and at the segments, or at the files, these may go."""
    partition = fill(log, file_delete_delay_ms=0)
    original = Attachment.segments
    with pylog.open(tmp_path) as other:
        theirs = other.topic("t").partition(0)
        if knows_segments:
            assert theirs.read(45)  # but it has not opened the first one
        assert theirs.log_start_offset == 0
        attachment = theirs._attached()

        def overtaken(self: Attachment, marks: Any) -> Any:
            found = original(self, marks) if knows_segments else None
            if self is attachment:
                partition.delete_records(25)
            return found or original(self, marks)

        monkeypatch.setattr(Attachment, "segments", overtaken)
        with pytest.raises(OffsetOutOfRangeError) as caught:
            theirs.read(0)
        assert (caught.value.offset, caught.value.start) == (0, 25)


def test_a_search_by_time_that_was_overtaken_begins_anew(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = fill(log, file_delete_delay_ms=0)
    original = Partition._visible_spans
    with pylog.open(tmp_path) as other:
        theirs = other.topic("t").partition(0)

        def overtaken(self: Partition) -> Any:
            spans = original(self)
            if self is theirs:
                partition.delete_records(25)
            return spans

        monkeypatch.setattr(Partition, "_visible_spans", overtaken)
        found = theirs.offset_for_time(NOW + 3)
        assert found is not None
        assert found.offset == 25


def test_reading_all_begins_where_the_log_does_then(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = fill(log)
    original = Partition._read_below

    def overtaken(self: Partition, *args: Any) -> Any:
        if self.log_start_offset == 0:
            partition.delete_records(20)
        return original(self, *args)

    monkeypatch.setattr(Partition, "_read_below", overtaken)
    assert next(partition.records()).offset == 20
    with pytest.raises(OffsetOutOfRangeError):
        next(partition.records(3))


def test_who_had_read_all_reads_on_when_all_that_is_gone(log: Log) -> None:
    partition = make_partition(log, file_delete_delay_ms=0, retention_bytes=0)
    partition.append_many([b"a", b"b"])
    assert partition.read(0).next_offset == 2
    partition.apply_retention()  # seals the segment whose end was reached, and drops it
    partition.append(b"c")
    assert [record.value for record in partition.read(2)] == [b"c"]


def test_who_reads_a_segment_reads_on_when_it_goes(tmp_path: Path, log: Log) -> None:
    partition = fill(log, file_delete_delay_ms=0)
    records = partition.read(0)
    partition.delete_records(-1)
    assert len(logs_in(tmp_path)) == 1
    assert [record.offset for record in records] == list(range(len(records)))


# ---------------------------------------------------------------- files


def deleted_in(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "t-0").glob("*.deleted"))


def test_files_wait_before_they_are_removed(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = fill(log, file_delete_delay_ms=5_000)
    now = [100.0]
    environment = partition._environment
    object.__setattr__(environment, "monotonic", lambda: now[0])
    partition.delete_records(25)
    waiting = deleted_in(tmp_path)
    assert len(waiting) == 6
    assert waiting[0] == "00000000000000000000.index.deleted"
    now[0] += 4.9
    partition.remove_deleted()
    assert deleted_in(tmp_path) == waiting
    now[0] += 0.2
    partition.remove_deleted()
    assert deleted_in(tmp_path) == []


def test_without_a_delay_they_go_at_once(tmp_path: Path, log: Log) -> None:
    fill(log, file_delete_delay_ms=0).delete_records(-1)
    assert len(logs_in(tmp_path)) == 1
    assert deleted_in(tmp_path) == []


def test_whoever_notices_removes_what_another_process_left(tmp_path: Path, log: Log) -> None:
    partition = fill(log, file_delete_delay_ms=1)
    environment = partition._environment
    object.__setattr__(environment, "monotonic", itertools.count().__next__)
    with children() as start:
        start(lambda: delete_and_die(tmp_path)).join()
    assert len(deleted_in(tmp_path)) == 6
    partition.remove_deleted()
    partition.remove_deleted()
    assert deleted_in(tmp_path) == []


def delete_and_die(path: Path) -> None:
    log = pylog.open(path)
    partition = log.topic("t").partition(0)
    object.__setattr__(partition._environment, "monotonic", lambda: 0.0)
    partition.delete_records(25)


def test_the_next_open_removes_what_was_left(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        fill(log).delete_records(25)
    directory = tmp_path / "t-0"
    # What a process that died before it renamed the files would leave, and somebody else's.
    (directory / "00000000000000000003.log").write_bytes(b"older")
    (directory / "notes.deleted").write_text("mine")
    with pylog.open(tmp_path) as log:
        assert log.topic("t").partition(0).log_start_offset == 25
        assert deleted_in(tmp_path) == ["00000000000000000003.log.deleted", "notes.deleted"]
    with pylog.open(tmp_path) as log:
        assert log.topic("t").partition(0).log_start_offset == 25
    assert deleted_in(tmp_path) == ["notes.deleted"]


def test_leader_epochs_begin_with_the_log(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = fill(log)
        partition.delete_records(25)
        data = (tmp_path / "t-0" / "leader-epoch-checkpoint").read_bytes()
        assert parse_leader_epochs(data, path="") == ((0, 25),)
    assert damages(tmp_path) == []


# ---------------------------------------------------------------- crashes


def memory_partition(files: MemoryFiles, **settings: Any) -> Partition:
    return Process(files).partition(TopicConfig(segment_bytes=900, **settings))


@pytest.mark.parametrize("durability", ["os", "interval", "fsync"])
def test_after_a_power_cut_the_log_does_not_end_below_its_start(durability: str) -> None:
    disk = Disk()
    files = MemoryFiles(disk, boot=1, is_recording=True)
    partition = memory_partition(files, durability=durability)
    for number in range(5):
        partition.append(b"%d" % number)
    assert partition.delete_records(3) == 3
    after = MemoryFiles(files.disk_after().crash(lose_all, random.Random(0)), boot=2)
    again = memory_partition(after, durability=durability)
    assert (again.log_start_offset, values(again)) == (3, [b"3", b"4"])


class DeadError(Exception):
    """The process is no more."""


@pytest.mark.parametrize(
    ("dies_in", "start"), [("_publish_change_locked", 25), ("write_manifest", 0)]
)
def test_a_process_that_dies_before_it_tells_is_finished_or_forgotten(
    monkeypatch: pytest.MonkeyPatch, dies_in: str, start: int
) -> None:
    """The manifest is replaced and the marks are not: nobody may go on from the old one."""
    files = MemoryFiles(Disk(), boot=1, is_recording=True)
    one, other = (memory_partition(files, durability="os") for _ in range(2))
    for number in range(50):
        one.append(b"%04d" % number + bytes(16), timestamp=NOW)
    assert len(read_all(other)) == 50

    def die(*_: Any) -> None:
        raise DeadError

    monkeypatch.setattr(lifecycle, dies_in, die)
    with pytest.raises(DeadError):
        one.delete_records(25)
    monkeypatch.undo()
    for _ in range(20):
        other.append(b"more" + bytes(16), timestamp=NOW)
    assert start_of(read_all(other)) == start
    other.check()
    again = memory_partition(MemoryFiles(files.disk_after(), boot=1), durability="os")
    assert (again.log_start_offset, again.log_end_offset) == (start, 70)


def test_the_start_of_a_process_that_died_is_not_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = MemoryFiles(Disk(), boot=1, is_recording=True)
    one, other = (memory_partition(files, durability="os") for _ in range(2))
    for number in range(50):
        one.append(b"%04d" % number + bytes(16), timestamp=NOW)

    def die(*_: Any) -> None:
        raise DeadError

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "_publish_change_locked", die)
        with pytest.raises(DeadError):
            one.delete_records(40)
    # The marks say 0 still, so this is no news to it.
    assert other.delete_records(20) == 40
    assert start_of(read_all(other)) == 40
    again = memory_partition(MemoryFiles(files.disk_after(), boot=1), durability="os")
    assert again.log_start_offset == 40


def test_files_that_a_dead_process_did_not_rename_go_with_the_next_look(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = fill(log, file_delete_delay_ms=0)

    def die(*_: Any) -> None:
        raise DeadError

    with monkeypatch.context() as patch:
        patch.setattr(retention, "mark_deleted", die)
        with pytest.raises(DeadError):
            partition.delete_records(25)
    assert bases(tmp_path)[0] == 0
    partition.apply_retention()
    assert bases(tmp_path)[0] > 0
    assert values(partition)[0] == b"0025" + bytes(16)
    partition.check()


def test_files_of_a_topic_that_was_made_anew_meanwhile_stay(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log)
    original = Partition._remove_later

    def remade_first(self: Partition, *args: Any) -> None:
        log.delete_topic("t")
        make_partition(log).append(b"new")
        original(self, *args)

    with pylog.open(tmp_path) as other:
        theirs = other.topic("t").partition(0)
        monkeypatch.setattr(Partition, "_remove_later", remade_first)
        assert theirs.delete_records(25) == 25
    with pylog.open(tmp_path) as other:
        assert values(other.topic("t").partition(0)) == [b"new"]


def test_an_error_leaves_the_old_start_or_the_new_one(log: Log, tmp_path: Path) -> None:
    partition = fill(log)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: Any) -> None:
            raise OSError(errno.EIO, "input/output error", str(tmp_path))

        patch.setattr(lifecycle, "write_manifest", refuse)
        with pytest.raises(OSError, match="input/output"):
            partition.delete_records(25)
    assert partition.log_start_offset == 0
    assert partition.append(b"x").offset == 50
    assert partition.delete_records(25) == 25
