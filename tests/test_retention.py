"""Retention by time and size: what goes, when, by which clock, and who does it."""

from __future__ import annotations

import dataclasses
import errno
import logging
import random
from pathlib import Path
from typing import Any

import pytest
from crash_checks import Process
from crash_model import Disk
from kafka_clients import KafkaPythonBatch
from memory_files import MemoryFiles
from partitions import NOW, bases, logs_in, make_partition
from processes import children
from reference import batches

import pylog
from pylog import Freed, Log, Partition, TopicConfig
from pylog._native import make_batch
from pylog.errors import OffsetOutOfRangeError
from pylog.storage.layout import log_name
from pylog.storage.manifest import Clock, encode_manifest, parse_manifest
from pylog.storage.partition import Chunk
from pylog.storage.policy import MAX_CLOCK_JUMP_MS, rolling_ms
from pylog.topics.verification import verify

HOUR = 3_600_000
DAY = 24 * HOUR
YEAR = 365 * DAY


class Machine:
    """A partition over files in memory, with a clock that a test sets."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("durability", "os")
        settings.setdefault("segment_bytes", 900)
        settings.setdefault("segment_ms", 2**62)
        settings.setdefault("retention_ms", 7 * DAY)
        self.config = TopicConfig(message_timestamp_after_max_ms=2**63 - 1, **settings)
        self.files = MemoryFiles(Disk(), boot=1, is_recording=True)
        self.process = Process(self.files)
        self.partition = self.process.partition(self.config)

    def wait(self, milliseconds: int) -> None:
        self.process.now += milliseconds

    def fill(self, count: int = 10, timestamp: int | None = None) -> None:
        """Append a segment's worth; by default with the clock's time."""
        key = b"k" if "compact" in self.config.cleanup_policy else None
        for _ in range(count):
            self.partition.append(bytes(20), timestamp=timestamp, key=key)

    def retain(self) -> int:
        """Apply retention; return where the log starts then."""
        self.partition.check()
        freed = self.partition.apply_retention()
        self.partition.check()
        assert freed.log_start_offset == self.partition.log_start_offset
        return freed.log_start_offset

    def reopen(self) -> None:
        self.partition.close()
        now = self.process.now
        self.process = Process(self.files)
        self.process.now = now
        self.partition = self.process.partition(self.config)


# ---------------------------------------------------------------- by time


def test_segments_go_when_their_last_record_is_too_old() -> None:
    machine = Machine()
    for _ in range(5):
        machine.fill()
        machine.wait(DAY)
    machine.wait(2 * DAY)  # the first segment is seven days old now, to the millisecond
    assert machine.retain() == 0
    machine.wait(1)
    first = machine.retain()
    assert first > 0
    machine.wait(DAY)
    assert machine.retain() > first
    assert next(machine.partition.records()).offset == machine.retain()


def test_the_active_segment_is_sealed_when_it_is_to_go() -> None:
    machine = Machine()
    machine.fill(25)
    machine.wait(7 * DAY + 1)
    freed = machine.partition.apply_retention()
    assert freed == Freed(25, 3, freed.size)
    assert machine.partition.log_end_offset == 25
    assert list(machine.partition.records()) == []
    # An empty log is left alone, however old.
    machine.wait(YEAR // 24)
    assert machine.partition.apply_retention() == Freed(25)
    assert machine.partition.append(b"next").offset == 25


@pytest.mark.parametrize(
    "settings", [{"retention_ms": -1}, {"cleanup_policy": "compact"}, {"cleanup_policy": ""}]
)
def test_without_a_limit_nothing_is_too_old(settings: dict[str, Any]) -> None:
    machine = Machine(**settings)
    machine.fill(25)
    machine.wait(20 * DAY)
    assert machine.retain() == 0


def test_nothing_goes_that_is_not_visible_yet() -> None:
    machine = Machine(durability="fsync", retention_ms=0, segment_bytes=1 << 20)
    machine.fill()
    machine.wait(1)
    attachment = machine.partition._attached()
    assert attachment is not None
    attachment.tail.native.append(b"unsynced")
    machine.wait(1)
    assert machine.retain() == 0
    machine.partition.flush()
    assert machine.retain() == 11


def test_a_second_try_after_a_commit_that_failed_deletes_no_more_than_was_planned() -> None:
    machine = Machine(retention_bytes=2000)
    machine.fill(100)
    machine.files.fail("directory_sync", code=errno.ENOSPC)
    first = machine.retain()
    machine.files.heal()
    attachment = machine.partition._attached()
    assert attachment is not None
    sizes = [facts.size for facts in attachment.known_segments().manifest.segments[:-1]]
    assert first > 0
    assert sum(sizes) + attachment.page.marks().position >= 2000


# ---------------------------------------------------------------- by the right clock


@pytest.mark.parametrize("timestamp", [0, NOW - 10 * YEAR, NOW + 10 * YEAR])
def test_what_timestamps_say_deletes_nothing_early_and_keeps_nothing_for_ever(
    timestamp: int,
) -> None:
    # KAFKA-14991: a producer's wrong clock.  Kafka would delete at once, or in ten years.
    machine = Machine()
    machine.fill(25, timestamp=timestamp)
    machine.wait(7 * DAY)
    assert machine.retain() == 0
    machine.reopen()
    assert machine.retain() == 0
    machine.wait(1)
    assert machine.retain() == 25


@pytest.mark.parametrize("jump", [MAX_CLOCK_JUMP_MS + HOUR, 10 * YEAR])
def test_a_clock_that_jumped_ahead_deletes_nothing_until_it_is_confirmed(
    jump: int, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    machine.fill(25)
    machine.wait(jump)
    assert machine.retain() == 0
    assert "far ahead" in caplog.text
    machine.wait(HOUR - 1)
    assert machine.retain() == 0
    machine.wait(1)
    assert machine.retain() == 25


def test_a_clock_that_jumped_ahead_and_came_back_has_deleted_nothing() -> None:
    machine = Machine()
    machine.fill(25)
    for _ in range(5):
        machine.wait(10 * YEAR)
        assert machine.retain() == 0
        machine.reopen()
        machine.wait(-10 * YEAR + HOUR)
        assert machine.retain() == 0
    machine.wait(7 * DAY - 5 * HOUR)
    assert machine.retain() == 0
    machine.wait(1)
    assert machine.retain() == 25


def test_records_that_were_appended_in_such_a_time_count_from_its_end() -> None:
    machine = Machine()
    machine.fill(5)
    machine.retain()
    machine.wait(10 * YEAR)
    machine.fill(20)
    assert machine.retain() == 0
    machine.wait(-10 * YEAR + HOUR)
    assert machine.retain() == 0
    machine.wait(7 * DAY)
    assert machine.retain() == 0
    machine.wait(1)
    assert machine.retain() == 25


def test_a_clock_that_was_set_back_deletes_nothing_early_and_later_what_is_due() -> None:
    machine = Machine()
    machine.fill(15)
    machine.wait(-10 * YEAR)
    machine.fill(10)
    machine.reopen()
    assert machine.retain() == 0
    machine.wait(10 * YEAR)  # it is right again
    assert machine.retain() == 0
    machine.wait(7 * DAY)
    assert machine.retain() == 0
    machine.wait(1)
    assert machine.retain() == 25


def test_doubt_of_the_clock_outlives_the_process() -> None:
    machine = Machine()
    machine.fill(25)
    machine.reopen()
    machine.wait(60 * DAY)  # nobody had the log open for two months
    assert machine.retain() == 0
    machine.reopen()
    machine.wait(HOUR)
    assert machine.retain() == 25


def test_after_a_crash_records_count_from_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.fill(5)
    machine.wait(5 * DAY)
    # Killed: what the page knew is gone, and the manifest says nothing of the active segment.
    machine.process = Process(MemoryFiles(machine.files.disk_after(), boot=1))
    machine.process.now = NOW + 5 * DAY
    machine.partition = machine.process.partition(machine.config)
    assert machine.partition.log_end_offset == 5
    machine.wait(7 * DAY)
    assert machine.retain() == 0
    machine.wait(1)
    assert machine.retain() == 5


def test_segments_that_kafka_wrote_count_by_their_timestamps(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", durability="os")
    (tmp_path / "t-0").mkdir()
    now = pylog._native.system_clock()
    for base, timestamp in ((0, now - 8 * DAY), (1, now - 6 * DAY), (2, -1), (3, now)):
        batch = make_batch(
            [(0, 0, None, b"x")], base_offset=base, leader_epoch=0, base_timestamp=timestamp,
            max_timestamp=timestamp,
        )  # fmt: skip
        (tmp_path / "t-0" / log_name(base)).write_bytes(batch)
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert partition.apply_retention().log_start_offset == 1
        manifest = parse_manifest((tmp_path / "t-0" / "manifest").read_bytes(), path="")
        # One without timestamps counts from now on: Kafka takes its file's modification time.
        assert now <= manifest.segments[1].append_time <= pylog._native.system_clock()


def test_random_jumps_of_the_clock_delete_nothing_early_and_in_the_end_everything() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    deleted = 0
    for _ in range(15):
        machine = Machine(retention_ms=rng.choice((HOUR, 7 * DAY)))
        machine.fill(1)
        machine.retain()
        appended_at = [0]  # in true time
        true, skew = 0, 0
        for _ in range(rng.randrange(5, 40)):
            passed = rng.choice((0, 1000, HOUR, DAY))
            back = -10 * YEAR if skew > -20 * YEAR else 0
            jump = rng.choice((0, 0, 0, 0, back, 10 * YEAR, -skew, -skew))
            true, skew = true + passed, skew + jump
            machine.wait(passed + jump)
            if jump > 0:
                # Seen by the check in the background, at the latest within five minutes.
                machine.retain()
            action = rng.choice(("append", "append", "retain", "reopen"))
            if action == "append":
                count = rng.randrange(1, 12)
                machine.fill(count, rng.choice((None, None, 0, NOW, 2**60)))
                appended_at += [true] * count
            elif action == "reopen":
                machine.reopen()
            if action == "retain":
                machine.retain()
            if skew > 0:
                # Such a jump is mended within the hour, or it would be believed.
                machine.wait(-skew)
                skew = 0
                machine.retain()
            start = machine.partition.log_start_offset
            deleted += start
            for offset in range(start):
                assert true - appended_at[offset] > machine.config.retention_ms
        machine.wait(-skew)
        machine.retain()
        for _ in range(8):
            machine.wait(DAY)
            machine.retain()
        machine.wait(1)
        assert machine.retain() == len(appended_at)
    assert deleted > 0


# ---------------------------------------------------------------- rolls, and the manifest


def test_a_jitter_rolls_earlier(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_partition(log, segment_ms=1000, segment_jitter_ms=900)
        limit = rolling_ms(partition.config, "t-0")
        assert limit < 1000
        for timestamp in (NOW, NOW + limit, NOW + limit + 1):
            partition.append(b"x", timestamp=timestamp)
    assert bases(tmp_path) == [0, 2]


def test_a_segment_without_timestamps_is_rolled_by_the_clock(tmp_path: Path) -> None:
    machine = Machine(segment_ms=HOUR, retention_ms=-1)
    machine.fill(1)
    attachment = machine.partition._attached()
    assert attachment is not None
    machine.partition.delete_records(-1)
    machine.wait(HOUR + 1)
    machine.fill(1)  # rolls, by its timestamp
    assert machine.partition.log_end_offset == 2
    data = bytearray(make_batch([(0, 0, None, b"no time")], base_timestamp=-1, max_timestamp=-1))
    machine.wait(HOUR + 1)
    machine.fill(1)
    with attachment.page:
        attachment.roll_locked(attachment.page.marks())
    machine.partition._write(Chunk(data, 1, -1), -1)
    before = attachment.page.marks().base_offset
    machine.wait(HOUR)
    machine.retain()
    assert attachment.page.marks().base_offset == before
    machine.wait(1)
    machine.retain()
    assert attachment.page.marks().base_offset == before + 1


def test_the_manifest_of_before_there_were_clocks_is_read(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = make_partition(log, segment_bytes=300)
        for _ in range(10):
            partition.append(bytes(50))
    path = tmp_path / "t-0" / "manifest"
    manifest = parse_manifest(path.read_bytes(), path="")
    lines = encode_manifest(manifest).decode().split("\n")
    newer = ("clock", "cleaned", "tombstones", "truncated", "high_watermark")
    lines = [line for line in lines if not line.startswith(newer)]
    lines[0] = "pylog-manifest 1"
    place = lines.index(f"segments {len(manifest.segments)}") + 1
    for number in range(place, len(lines) - 2):
        lines[number] = lines[number].rsplit(" ", 2)[0]
    body = "\n".join(lines[:-2]) + "\n"
    path.write_text(body + f"crc32c {pylog._native.crc32c(body.encode()):08x}\n")
    old = parse_manifest(path.read_bytes(), path="")
    assert {one.append_time for one in old.segments} == {-1}
    assert old.clock == Clock()
    stripped = tuple(dataclasses.replace(one, append_time=-1) for one in manifest.segments)
    assert old == dataclasses.replace(manifest, clock=Clock(), high_watermark=0, segments=stripped)
    with pylog.open(tmp_path) as log:
        assert len(list(log.read("t"))) == 10
        log.topic("t").append(b"more")
    assert parse_manifest(path.read_bytes(), path="").segments[-1].append_time > 0


# ---------------------------------------------------------------- by size, through the public face


def damages(path: Path) -> list[str]:
    reports = verify(str(path))
    return [str(one) for report in reports for one in report.findings if one.is_damage]


def fill(log: Log, **settings: Any) -> Partition:
    partition = make_partition(log, segment_bytes=900, **settings)
    for number in range(50):
        partition.append(b"%04d" % number + bytes(16), timestamp=NOW + number)
    return partition


def test_size_keeps_the_newest(log: Log, tmp_path: Path) -> None:
    partition = fill(log, retention_bytes=2000, file_delete_delay_ms=0)
    freed = partition.apply_retention()
    assert freed.log_start_offset == bases(tmp_path)[0] > 0
    assert freed.segments >= 2
    marks = partition.marks()
    assert marks is not None
    sizes = {int(path.stem): path.stat().st_size for path in logs_in(tmp_path)}
    sizes[marks.base_offset] = marks.position  # zeros are written ahead
    assert sum(sizes.values()) >= 2000 > sum(sizes.values()) - sizes[bases(tmp_path)[0]]
    with pytest.raises(OffsetOutOfRangeError):
        partition.read(0)
    for path in logs_in(tmp_path):
        data = path.read_bytes()[: sizes[int(path.stem)]]
        for position, _, _, length in batches(data):
            assert KafkaPythonBatch(data[position : position + length]).validate_crc()
    assert damages(tmp_path) == []


def test_topic_and_log_apply_it_to_all(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, segment_bytes=900, retention_bytes=0)
    log.create_topic("kept", durability="os").append(b"x")
    topic.append_many([bytes(20)] * 30, partition=1)
    assert topic.apply_retention()[1].log_start_offset == 30
    topic.append_many([bytes(20)] * 30, partition=0)
    freed = log.apply_retention()
    assert freed["t"][0].log_start_offset == 30
    assert freed["t"][1] == Freed(30)
    assert freed["kept"] == {0: Freed(0)}


def test_the_background_does_it_and_one_error_keeps_no_other_from_it(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    partition = fill(log, retention_bytes=0)
    other = log.create_topic("u", retention_bytes=0).partition(0)
    other.append(b"x")
    engine = log._engine
    assert engine is not None
    attachment = other._attached()
    assert attachment is not None
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.ERROR):

        def refuse(*_: Any) -> Any:
            raise OSError(5, "input/output error")

        patch.setattr(attachment, "check_writable", refuse)
        engine.apply_retention()
    assert partition.log_start_offset == 50
    assert other.log_start_offset == 0
    assert "nothing was deleted" in caplog.text
    assert "retention" in engine._background._due


def test_the_background_begins_when_a_topic_is_altered_to_delete(log: Log) -> None:
    topic = log.create_topic("t", durability="os", cleanup_policy="")
    topic.append(b"x", key=b"k")
    timetable = log._engine._background._due
    assert "retention" not in timetable
    log.alter_topic("t", cleanup_policy="delete")
    topic.append(b"x", key=b"k")
    assert "retention" in timetable


def test_two_processes_that_do_it_at_once_delete_what_one_would(tmp_path: Path, log: Log) -> None:
    partition = fill(log, retention_bytes=0)

    def retain() -> None:
        with pylog.open(tmp_path) as theirs:
            for _ in range(30):
                theirs.topic("t").append(bytes(20))
                theirs.topic("t").apply_retention()

    with children() as start:
        both = [start(retain), start(retain)]
        for child in both:
            child.join()
    assert partition.apply_retention().log_start_offset == partition.log_end_offset == 110
    partition.check()
    assert damages(tmp_path) == []
