"""Full disks, real ones: no byte free, no inode free, on tmpfs and on ext4.

An append either returns, and its record is there, or raises, and it is certainly not.  Opening,
reading and closing need no space and lose nothing; what was freed is used without reopening.
"""

from __future__ import annotations

import errno
import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import IS_EXHAUSTIVE
from crash_checks import quiet
from disks import Filler, ext4_disk, memory_disk
from processes import children

import pylog
from pylog import Log, Topic
from pylog.errors import NotAppendedError, PartitionFullError
from pylog.storage import layout
from pylog.storage.manifest import MANIFEST_NAME, parse_manifest
from pylog.topics.verification import verify

pytestmark = [pytest.mark.root, pytest.mark.slow]

SEED = int(os.environ.get("PYLOG_DISK_SEED", "0"))
CYCLES = 3000 if IS_EXHAUSTIVE else 30
DISK_BYTES = 16 << 20
INODES = 256
DURABILITIES = ("fsync", "interval", "os")
# What is freed for one more append: a window of zeros, two indexes and the manifest, generously.
ROOM_BYTES = 1 << 20
ROOM_INODES = 12
MANY = 100_000  # appends, after any number of which the disk is full


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The mount point of an empty disk."""
    with quiet():
        if request.param == "tmpfs":
            with memory_disk(tmp_path / "disk", size=DISK_BYTES, inodes=INODES) as point:
                yield point
        else:
            with ext4_disk(tmp_path, size=DISK_BYTES, inodes=INODES) as ext4:
                yield ext4.point


class Told:
    """What a test was told about its appends to one topic: these records, and no others."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: list[bytes] = []
        self._count = 0

    def value(self, size: int) -> bytes:
        """Return a value that no other append has."""
        self._count += 1
        return b"%s %d " % (self.name.encode(), self._count) + bytes(size)

    def append(self, topic: Topic, size: int) -> None:
        """Append one record; what it raises is certainly not appended."""
        value = self.value(size)
        assert topic.append(value).offset == len(self.kept)
        self.kept.append(value)

    def append_until_full(self, topic: Topic, size: int) -> PartitionFullError:
        for _ in range(MANY):
            try:
                self.append(topic, size)
            except PartitionFullError as error:
                assert topic.partition(0).state == "full"
                return error
        raise AssertionError("the disk never was full")

    def check(self, log: Log) -> None:
        """Assert that the topic holds exactly what was kept, in order."""
        records = list(log.read(self.name))
        assert [record.offset for record in records] == list(range(len(records)))
        assert [record.value for record in records] == self.kept
        log.topic(self.name).partition(0).check()


def leave_nothing(filler: Filler) -> None:
    filler.take_inodes()
    filler.take_bytes()


def give_room(filler: Filler) -> None:
    filler.give_bytes(ROOM_BYTES)
    filler.give_inodes(ROOM_INODES)


def manifest_names(folder: Path) -> set[str]:
    """Return the names of the `.log` files that count."""
    path = folder / MANIFEST_NAME
    manifest = parse_manifest(path.read_bytes(), path=str(path))
    return {layout.log_name(facts.base_offset) for facts in manifest.segments}


def check_verified(path: Path) -> None:
    """Assert that `verify` finds no damage; notes of files left over are none."""
    for report in verify(str(path)):
        assert [finding for finding in report.findings if finding.is_damage] == []


# ---------------------------------------------------------------- append, read, open, close


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("size", [50, 3_000, 100_000])
def test_append_on_a_full_disk_certainly_appends_nothing(
    disk: Path, durability: str, size: int
) -> None:
    filler, told = Filler(disk), Told("t")
    with pylog.open(disk / "log") as log:
        topic = log.create_topic("t", durability=durability, segment_bytes=1 << 20)
        told.append(topic, size)
        leave_nothing(filler)
        error = told.append_until_full(topic, size)
        for _ in range(3):
            with pytest.raises(PartitionFullError):
                told.append(topic, size)
            told.check(log)

        assert isinstance(error, NotAppendedError)
        assert error.errno == errno.ENOSPC
        assert str(disk / "log" / "t-0") in str(error)
        assert error.retriable
        # Space is given, nothing is reopened.
        give_room(filler)
        told.append(topic, size)
        assert topic.partition(0).state == "open"
        told.check(log)
    with pylog.open(disk / "log") as log:
        told.check(log)
    check_verified(disk / "log")


def test_records_fill_the_disk_themselves(disk: Path) -> None:
    # No filler: growth, rolls and indexes meet the end of the space wherever it happens to be.
    told = Told("t")
    with pylog.open(disk / "log") as log:
        topic = log.create_topic("t", durability="os", segment_bytes=300_000)
        told.append_until_full(topic, 10_000)
        # What does not fit may be followed by what does.
        told.append_until_full(topic, 10)
        told.check(log)
        used = sum(map(len, told.kept)) / (DISK_BYTES - 4 * ROOM_BYTES)
        assert used > 0.6, "most of the disk holds records"
    with pylog.open(disk / "log") as log:
        told.check(log)
    check_verified(disk / "log")


@pytest.mark.parametrize("durability", DURABILITIES)
def test_opening_reading_and_closing_need_no_space(disk: Path, durability: str) -> None:
    filler, told, idle = Filler(disk), Told("t"), Told("idle")
    log = pylog.open(disk / "log")
    topic = log.create_topic("t", durability=durability, segment_bytes=200_000)
    idle.append(log.create_topic("idle"), 10)
    log.create_topic("empty")
    for _ in range(300):
        told.append(topic, 1000)
    leave_nothing(filler)
    told.append_until_full(topic, 1000)

    def read_in_another_process() -> None:
        with pylog.open(disk / "log") as other:
            told.check(other)
            idle.check(other)
            with pytest.raises(PartitionFullError):
                other.topic("t").append(bytes(1000))

    with children() as start:
        start(read_in_another_process).join()
    told.check(log)
    log.close()
    # Whatever closing gave back is taken, too; twice, since the first open may give back more.
    for _ in range(2):
        leave_nothing(filler)
        with pylog.open(disk / "log") as log:
            assert log.topics() == ["empty", "idle", "t"]
            told.check(log)
            idle.check(log)
            assert list(log.read("empty")) == []
            for name in log.topics():
                with pytest.raises(OSError) as caught:
                    log.topic(name).append(bytes(1000))
                assert caught.value.errno == errno.ENOSPC
            told.check(log)
    check_verified(disk / "log")

    give_room(filler)
    with pylog.open(disk / "log") as log:
        told.append(log.topic("t"), 1000)
        idle.append(log.topic("idle"), 1000)
        log.topic("empty").append(b"first")
        told.check(log)
        idle.check(log)
    check_verified(disk / "log")


def test_append_many_that_fits_in_part_says_what_is_there(disk: Path) -> None:
    filler, told = Filler(disk), Told("t")
    with pylog.open(disk / "log") as log:
        topic = log.create_topic("t", segment_bytes=100_000)
        told.append(topic, 10)
        leave_nothing(filler)
        filler.give_bytes(2 * ROOM_BYTES)
        filler.give_inodes(100)
        values = [told.value(5_000) for _ in range(1000)]
        with pytest.raises(PartitionFullError) as caught:
            topic.partition(0).append_many(values)
        appended = caught.value.appended

        assert 0 < len(appended) < len(values)
        assert [one.offset for one in appended] == list(range(1, 1 + len(appended)))
        told.kept += values[: len(appended)]
        told.check(log)
        filler.give_all()
        rest = topic.partition(0).append_many(values[len(appended) :])
        assert rest[0].offset == len(told.kept)
        told.kept += values[len(appended) :]
        told.check(log)
    with pylog.open(disk / "log") as log:
        told.check(log)
    check_verified(disk / "log")


def test_append_many_of_one_chunk_is_there_whole_or_not_at_all(disk: Path) -> None:
    filler, told = Filler(disk), Told("t")
    with pylog.open(disk / "log") as log:
        topic = log.create_topic("t")
        told.append(topic, 10)
        leave_nothing(filler)
        filler.give_bytes(200_000)
        values = [told.value(5_000) for _ in range(100)]
        for _ in range(3):
            with pytest.raises(PartitionFullError) as caught:
                topic.partition(0).append_many(values)
            assert len(caught.value.appended) == 0
            told.check(log)
        told.append(topic, 5_000)
        filler.give_all()
        topic.partition(0).append_many(values)
        told.kept += values
        told.check(log)
    with pylog.open(disk / "log") as log:
        told.check(log)


# ---------------------------------------------------------------- roll, recovery, topics


@pytest.mark.parametrize("what", ["bytes", "inodes"])
@pytest.mark.parametrize("durability", DURABILITIES)
def test_roll_that_finds_no_space_leaves_the_segments_as_they_were(
    disk: Path, what: str, durability: str
) -> None:
    filler, told = Filler(disk), Told("t")
    folder = disk / "log" / "t-0"
    with pylog.open(disk / "log") as log:
        topic = log.create_topic("t", durability=durability, segment_bytes=20_000)
        told.append(topic, 12_000)
        segments = manifest_names(folder)
        if what == "bytes":
            filler.take_bytes()
        else:
            filler.take_inodes()
        for _ in range(3):
            told.append_until_full(topic, 12_000)
            told.check(log)
        # ext4 finds freed blocks late: a roll, or a roll and a record, may have found them.
        rolled = manifest_names(folder) - segments
        assert not rolled or what == "bytes"
        assert segments <= manifest_names(folder)

        if not rolled:
            told.append(topic, 10)  # the old segment still takes what fits
        filler.give_all()
        told.append(topic, 12_000)
        assert len(manifest_names(folder)) == 2 or rolled
        told.check(log)
    with pylog.open(disk / "log") as log:
        told.check(log)
    check_verified(disk / "log")


def torn_log(disk: Path, told: Told, garbage: bytes, *, durability: str) -> Path:
    """Let a process append and be killed, and tear its log's end; return the torn file."""
    values = [told.value(500) + b"." for _ in range(50)]

    def append_and_die() -> None:
        log = pylog.open(disk / "log")
        topic = log.create_topic("t", durability=durability)
        for value in values:
            topic.append(value)
        os._exit(0)

    with children() as start:
        start(append_and_die).join()
    told.kept += values
    path = disk / "log" / "t-0" / layout.log_name(0)
    # A batch without headers ends in one zero byte: their count.
    end = len(path.read_bytes().rstrip(b"\0")) + 1
    with open(path, "r+b") as file:
        file.seek(end)
        file.write(garbage)
    return path


@pytest.mark.parametrize("durability", DURABILITIES)
def test_torn_tail_is_read_past_with_no_space_and_cut_when_there_is_some(
    disk: Path, durability: str
) -> None:
    filler, told, garbage = Filler(disk), Told("t"), b"torn" * 1000
    path = torn_log(disk, told, garbage, durability=durability)
    torn = path.read_bytes()
    leave_nothing(filler)
    for _ in range(2):
        with pylog.open(disk / "log") as log:
            told.check(log)
            with pytest.raises(PartitionFullError):
                told.append(log.topic("t"), 10)
            assert log.topic("t").partition(0).state == "full"
            told.check(log)
        assert path.read_bytes() == torn

    with pylog.open(disk / "log") as log:
        told.check(log)
        give_room(filler)
        told.append(log.topic("t"), 10)
        told.check(log)
    cuts = list(path.parent.glob("*.cut"))
    assert [cut.read_bytes() for cut in cuts] == [garbage]
    with pylog.open(disk / "log") as log:
        told.check(log)
    check_verified(disk / "log")


def test_topics_are_created_or_refused_whole(disk: Path) -> None:
    filler, told = Filler(disk), Told("t")
    with pylog.open(disk / "log") as log:
        told.append(log.create_topic("t"), 10)
        leave_nothing(filler)
        names = ["t"]
        with pytest.raises(PartitionFullError):
            while len(names) < MANY:
                names.append(log.create_topic(f"t{len(names)}").name)
        assert log.topics() == sorted(names)
        with pytest.raises(PartitionFullError):
            log.create_topic("refused")
        told.append(log.topic("t"), 10)
        told.check(log)
        with pytest.raises(OSError) as caught:
            log.topic(names[1]).append(b"has no files yet")
        assert caught.value.errno == errno.ENOSPC

        give_room(filler)
        filler.give_inodes(ROOM_INODES)
        log.create_topic("fits").append(b"value")
        log.topic(names[1]).append(b"has files now")
        names.append("fits")
        assert log.topics() == sorted(names)
        told.check(log)
    with pylog.open(disk / "log") as log:
        assert log.topics() == sorted(names)
        assert [record.value for record in log.read(names[1])] == [b"has files now"]
    check_verified(disk / "log")


def test_a_topic_is_deleted_although_not_even_a_record_fits(disk: Path) -> None:
    filler, told, other = Filler(disk), Told("t"), Told("other")
    with pylog.open(disk / "log") as log:
        for one in (told, other):
            one.append(log.create_topic(one.name, segment_bytes=1 << 20), 100_000)
        leave_nothing(filler)
        told.append_until_full(log.topic("t"), 100_000)
    leave_nothing(filler)
    with pylog.open(disk / "log") as log:
        log.delete_topic("t")
        assert log.topics() == ["other"]
        told.kept.clear()
        # A new topic needs one file more than the old one gave back: the manifest's temporary one.
        filler.give_inodes(4)
        told.append(log.create_topic("t"), 1_000)
        told.check(log)
        other.check(log)
    check_verified(disk / "log")


def test_new_log_on_a_full_disk_is_refused_and_opens_later(disk: Path) -> None:
    filler = Filler(disk)
    leave_nothing(filler)
    with pytest.raises(OSError) as caught:
        pylog.open(disk / "log")
    assert caught.value.errno == errno.ENOSPC
    # An inode or two at a time: every file of a log is the one that is missing once.
    opened = False
    for _ in range(40):
        try:
            with pylog.open(disk / "log") as log:
                log.create_topic("t", if_exists="ok").append(b"value")
                opened = True
                break
        except OSError as error:
            assert error.errno == errno.ENOSPC
        filler.give_inodes(1)
        filler.give_bytes(8 << 10)

    assert opened
    with pylog.open(disk / "log") as log:
        assert [record.value for record in log.read("t")] == [b"value"]
    check_verified(disk / "log")


# ---------------------------------------------------------------- again and again


def create_topics(log: Log, tolds: dict[str, Told]) -> None:
    for durability, told in tolds.items():
        topic = log.create_topic(told.name, durability=durability, segment_bytes=40_000)
        told.append(topic, 100)


@pytest.mark.timeout(3600 if IS_EXHAUSTIVE else 600)
def test_disk_that_fills_and_empties_again_and_again_loses_nothing(disk: Path) -> None:
    rng = random.Random(SEED)
    filler = Filler(disk)
    tolds = {durability: Told(f"t-{durability}") for durability in DURABILITIES}
    log = pylog.open(disk / "log")
    create_topics(log, tolds)
    refused = reopened = 0
    for cycle in range(CYCLES):
        # A record larger than what is left over in any window ends in "full".
        leave_nothing(filler)
        for told in tolds.values():
            told.append_until_full(log.topic(told.name), rng.choice([100, 4_000, 30_000]))
            refused += 1
        if rng.random() < 0.5:
            log.close()
            leave_nothing(filler)
            log = pylog.open(disk / "log")
            reopened += 1
        for told in tolds.values():
            told.check(log)
        for told in tolds.values():
            # To each its own: ten cycles of this still leave the filler something to give.
            filler.give_bytes(256 << 10)
            filler.give_inodes(6)
            told.append(log.topic(told.name), rng.choice([10, 1_000, 70_000]))
        if cycle % 10 == 9:
            give_room(filler)
            for told in tolds.values():
                log.delete_topic(told.name)
                told.kept.clear()
            # The maps of deleted indexes hold their inodes until the partition is collected.
            gc.collect()
            create_topics(log, tolds)
    for told in tolds.values():
        told.check(log)
    log.close()
    print(f"seed {SEED}: {CYCLES} cycles, {refused} refusals, opened again {reopened} times")
    check_verified(disk / "log")
    assert refused == len(tolds) * CYCLES
    assert reopened > CYCLES // 5
