"""Compaction by the log: in the background, for all topics, and what its metrics say of it."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import random
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tail_memory import NewThreads, in_thread, wait_until

import pylog
from pylog import CleanerConfig, CompactionReport, Log, Topic, TopicConfig
from pylog.engine.background import Background
from pylog.engine.cleaner import Cleaner
from pylog.engine.engine import Engine
from pylog.errors import (
    ClosedError,
    CorruptRangeError,
    InvalidConfigurationError,
    PartitionFullError,
    PylogError,
    UnknownTopicOrPartitionError,
)
from pylog.storage.policy import DirtyRange

SMALL: dict[str, Any] = {"cleanup_policy": "compact", "durability": "os", "segment_bytes": 2000}
EAGER = CleanerConfig(cleaner_backoff_ms=1)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path, cleaner=CleanerConfig(cleaner_enable=False)) as log:
        yield log


def fill(topic: Topic, *, keys: int = 5, updates: int = 40) -> dict[bytes, bytes]:
    """Append updates, so many of each key; return what counts in the end."""
    latest = {}
    for update, key in itertools.product(range(updates), range(keys)):
        latest[b"key-%d" % key] = b"value %d" % update
        topic.append(b"value %d" % update, key=b"key-%d" % key)
    return latest


def fold(topic: Topic) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in topic.read()}


def count(topic: Topic) -> int:
    return sum(1 for _ in topic.read())


class FakePartition:
    """Says what it is told to, and notes when it was compacted."""

    def __init__(self, name: str, ratio: float, calls: list[str], policy: str = "compact") -> None:
        self.name = name
        self.calls = calls
        self.config = TopicConfig(cleanup_policy=policy)
        self.error: BaseException | None = None
        self._ratio: DirtyRange | None = DirtyRange(
            start=0, end=1, clean_bytes=1000 - int(1000 * ratio), dirty_bytes=int(1000 * ratio)
        )

    def dirty_range(self) -> DirtyRange | None:
        if self.name == "closed":
            raise ClosedError(self.name)
        return None if self.name == "not open" else self._ratio

    def compact_if_due(self) -> CompactionReport | None:
        self.calls.append(self.name)
        if self.error is not None:
            raise self.error
        return None


class FakeTime:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---------------------------------------------------------------- what is next, and when


def test_the_dirtiest_is_compacted_first_and_others_not_at_all() -> None:
    calls: list[str] = []
    partitions = [
        FakePartition("some", 0.4, calls),
        FakePartition("closed", 0.9, calls),
        FakePartition("most", 0.8, calls, "compact,delete"),
        FakePartition("kept", 0.9, calls, "delete"),
        FakePartition("all kept", 0.9, calls, ""),
        FakePartition("not open", 0.9, calls),
        FakePartition("little", 0.1, calls),
    ]
    Cleaner(EAGER, FakeTime()).sweep(partitions)
    assert calls == ["most", "some", "little", "closed", "not open"]


def test_after_errors_a_partition_is_tried_again_later_and_later_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []
    bad, good = FakePartition("bad", 0.9, calls), FakePartition("good", 0.5, calls)
    bad.error = CorruptRangeError(5, 7)
    time = FakeTime()
    cleaner = Cleaner(CleanerConfig(), time)
    tried_at = []
    start = time.now
    for _ in range(4 * 3600):
        calls.clear()
        cleaner.sweep([bad, good])
        assert calls[-1] == "good"
        tried_at += [time.now - start] * ("bad" in calls)
        time.now += 1
    waits = [later - sooner for sooner, later in itertools.pairwise(tried_at)]
    assert waits == [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert "offsets 5 to 7 are unreadable" in caplog.text
    # A success forgets it all.
    time.now += 3600
    bad.error = None
    cleaner.sweep([bad])
    bad.error = OSError(errno.EIO, "no")
    calls.clear()
    for _ in range(16):
        cleaner.sweep([bad])
        time.now += 1
    assert calls == ["bad", "bad"]


@pytest.mark.parametrize("error", [ClosedError("closed"), UnknownTopicOrPartitionError("t", 0)])
def test_partition_that_is_gone_is_no_error(
    error: PylogError, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    gone = FakePartition("gone", 0.9, calls)
    gone.error = error
    cleaner = Cleaner(CleanerConfig(), FakeTime())
    cleaner.sweep([gone])
    cleaner.sweep([gone])
    assert calls == ["gone", "gone"]
    assert caplog.text == ""


def test_bug_is_reported_and_does_not_keep_others_from_being_compacted() -> None:
    calls: list[str] = []
    bad, good = FakePartition("bad", 0.9, calls), FakePartition("good", 0.5, calls)
    bad.error = IndexError()
    cleaner = Cleaner(CleanerConfig(), FakeTime())
    with pytest.raises(IndexError):
        cleaner.sweep([bad, good])
    cleaner.sweep([bad, good])
    assert calls == ["bad", "good"]


# ---------------------------------------------------------------- how fast


def test_bytes_wait_until_those_before_them_are_paid_for() -> None:
    time = FakeTime()
    cleaner = Cleaner(CleanerConfig(cleaner_io_max_bytes_per_second=1000), time)
    assert cleaner.delay_of(500) == 0
    assert cleaner.delay_of(2000) == 0.5
    assert cleaner.delay_of(1) == 2.5
    time.now += 1.5
    assert cleaner.delay_of(0) == pytest.approx(1.001)
    # What was not used is not saved up.
    time.now += 100
    assert cleaner.delay_of(1000) == 0
    assert cleaner.delay_of(1) == 1


def test_without_a_limit_nothing_waits() -> None:
    cleaner = Cleaner(CleanerConfig(), FakeTime())
    assert sum(cleaner.delay_of(1 << 30) for _ in range(1000)) < 1e-3


def test_who_waits_for_its_turn_is_let_go_at_the_end() -> None:
    cleaner = Cleaner(CleanerConfig(cleaner_io_max_bytes_per_second=1), FakeTime())
    cleaner.pace(1 << 40)
    begun, refused = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        with pytest.raises(ClosedError, match="while it was compacted"):
            cleaner.pace(1)
        refused.set()

    in_thread(wait)
    begun.wait()
    cleaner.end()
    assert refused.wait()


def test_time_that_is_never_reached_can_be_waited_for() -> None:
    background = Background(lambda: 0.0)
    background.schedule("never", 2.0**63, lambda: None)
    done = threading.Event()
    background.schedule("now", 0.0, done.set)
    assert done.wait()
    background.close()


# ---------------------------------------------------------------- in the background


def test_dirty_topic_is_compacted_in_the_background(tmp_path: Path) -> None:
    with pylog.open(tmp_path, cleaner=EAGER) as log:
        topic = log.create_topic("t", **SMALL)
        latest = fill(topic)
        wait_until(lambda: count(topic) < 60)
        assert fold(topic) == latest
        numbers = log.metrics()["partitions"]["t-0"]
        assert numbers["compaction_error"] is None


def test_topic_that_another_process_filled_is_compacted_too(tmp_path: Path) -> None:
    with pylog.open(tmp_path, cleaner=CleanerConfig(cleaner_enable=False)) as log:
        latest = fill(log.create_topic("t", **SMALL))
    with pylog.open(tmp_path, cleaner=EAGER) as log:
        topic = log.topic("t")
        assert topic.partition(0).log_end_offset == 200
        wait_until(lambda: count(topic) < 60)
        assert fold(topic) == latest


def test_several_logs_compact_one_topic_while_both_append(tmp_path: Path) -> None:
    rng = random.Random(3)
    latest: dict[bytes | None, bytes | None] = {}
    with pylog.open(tmp_path, cleaner=EAGER) as log, pylog.open(tmp_path, cleaner=EAGER) as other:
        topics = [log.create_topic("t", **SMALL), other.topic("t")]
        for number in range(1500):
            key, value = b"key-%d" % rng.randrange(20), b"%d" % number
            rng.choice(topics).append(value, key=key)
            latest[key] = value
            if number % 100 == 0:
                assert fold(rng.choice(topics)) == latest
        wait_until(lambda: count(topics[0]) < 200)
        assert [fold(topic) for topic in topics] == [latest, latest]
        for one in (log, other):
            numbers = one.metrics()["partitions"]["t-0"]
            assert numbers["compaction_error"] is None and numbers["compacted_at"] is not None


def test_background_that_is_switched_off_does_nothing(tmp_path: Path) -> None:
    new_threads = NewThreads()
    with pylog.open(tmp_path, cleaner=CleanerConfig(cleaner_enable=False)) as log:
        topic = log.create_topic("t", **SMALL)
        fill(topic)
        assert "pylog-cleaner" not in new_threads()
        assert count(topic) == 200


def test_topic_becomes_compacted_while_it_is_open(tmp_path: Path) -> None:
    with pylog.open(tmp_path, cleaner=EAGER) as log:
        topic = log.create_topic("t", **SMALL | {"cleanup_policy": "delete"})
        latest = fill(topic)
        log.alter_topic("t", cleanup_policy="compact")
        topic.append(b"v", key=b"k")
        wait_until(lambda: count(topic) < 60)
        assert fold(topic) == latest | {b"k": b"v"}


def test_log_is_closed_while_a_compaction_waits_for_its_turn(tmp_path: Path) -> None:
    slow = CleanerConfig(cleaner_backoff_ms=1, cleaner_io_max_bytes_per_second=1)
    log = pylog.open(tmp_path, cleaner=slow)
    topic = log.create_topic("t", **SMALL)
    fill(topic)
    wait_until(lambda: log._engine._cleaner._paid_at > 0)
    closing = in_thread(log.close)
    closing.join()
    with pylog.open(tmp_path, cleaner=CleanerConfig(cleaner_enable=False)) as log:
        assert count(log.topic("t")) == 200
        assert not list((tmp_path / "t-0").glob("*.cleaned"))


def test_log_that_is_let_go_while_it_is_looked_after_is_collected(tmp_path: Path) -> None:
    log = pylog.open(tmp_path, cleaner=EAGER)
    topic = log.create_topic("t", **SMALL)
    fill(topic)
    wait_until(lambda topic=topic: count(topic) < 60)
    gone = weakref.ref(log._engine)
    del log, topic

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    wait_until(is_gone)
    assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()


def test_damage_is_shown_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pylog.open(tmp_path, cleaner=CleanerConfig(cleaner_enable=False)) as log:
        fill(log.create_topic("t", **SMALL))
    first = tmp_path / "t-0" / f"{0:020}.log"
    data = bytearray(first.read_bytes())
    data[70] ^= 1
    first.write_bytes(data)

    with pylog.open(tmp_path, cleaner=EAGER) as log:
        assert log.topic("t").partition(0).log_end_offset == 200
        wait_until(lambda: log.metrics()["partitions"]["t-0"]["compaction_error"] is not None)
        numbers = log.metrics()["partitions"]["t-0"]
        assert numbers["compaction_error"].startswith("CorruptRangeError: ")
        assert numbers["compacted_at"] is None and numbers["dirty_ratio"] == 1.0
        assert json.loads(json.dumps(numbers)) == numbers
    assert first.read_bytes() == data
    assert "was not compacted" in caplog.text


def test_internal_topics_of_one_segment_need_no_thread(tmp_path: Path) -> None:
    new_threads = NewThreads()
    with pylog.open(tmp_path, cleaner=EAGER) as log:
        log.create_topic("t", cleanup_policy="")
        assert log.topics() == ["t"]
        assert new_threads() == []


def test_metadata_is_compacted_and_tells_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(7)
    with pylog.open(tmp_path, cleaner=EAGER) as log, pylog.open(tmp_path, cleaner=EAGER) as other:
        expected = {}
        for number in range(30):
            name = f"topic-{rng.randrange(6)}"
            if name in expected and rng.random() < 0.4:
                log.delete_topic(name)
                del expected[name]
            else:
                log.create_topic(name, if_exists="ok")
                log.alter_topic(name, retention_ms=1000 + number)
                expected[name] = 1000 + number
            if number == 15:
                other.topics()
        metadata = log._registry.metadata
        before = sum(1 for _ in metadata.records())
        report = metadata.compact()
        assert report.records_kept < before
        for one in (log, other):
            assert one.topics() == sorted(expected)
        # What it goes on with, and what a newcomer replays.
        log.create_topic("last", retention_ms=5)
        with pylog.open(tmp_path) as third:
            for one in (other, third):
                assert one.topics() == sorted([*expected, "last"])
                assert {name: one.topic(name).config.retention_ms for name in expected} == expected


# ---------------------------------------------------------------- now


def test_topic_is_compacted_partition_by_partition(log: Log) -> None:
    topic = log.create_topic("t", partitions=3, **SMALL)
    latest = fill(topic, keys=20)
    seen = []
    reports = topic.compact(progress=seen.append)
    assert sorted(reports) == [0, 1, 2]
    assert sum(report.records_kept for report in reports.values()) == 20
    assert sum(report.records_read for report in reports.values()) == 800
    assert {progress.partition for progress in seen} == {0, 1, 2}
    assert fold(topic) == latest and count(topic) == 20
    assert all(
        log.metrics()["partitions"][f"t-{number}"]["dirty_ratio"] == 0 for number in range(3)
    )


def test_log_compacts_the_topics_that_say_so(log: Log) -> None:
    fill(log.create_topic("a", **SMALL))
    fill(log.create_topic("b", **SMALL | {"cleanup_policy": "compact,delete"}))
    fill(log.create_topic("c", **SMALL | {"cleanup_policy": "delete"}))
    log.create_topic("d", **SMALL)
    reports = log.compact()
    assert sorted(reports) == ["a", "b", "d"]
    assert [reports[name][0].records_kept for name in ("a", "b", "d")] == [5, 5, 0]
    assert count(log.topic("c")) == 200


def test_metrics_tell_of_compaction(log: Log) -> None:
    topic = log.create_topic("t", **SMALL)
    fill(topic)
    numbers = log.metrics()["partitions"]["t-0"]
    assert numbers["dirty_ratio"] == 1.0 and numbers["compacted_at"] is None
    topic.compact()
    fill(topic, updates=20)
    numbers = log.metrics()["partitions"]["t-0"]
    assert 0 < numbers["dirty_ratio"] <= 1
    assert numbers["compacted_at"] > 1_600_000_000_000


def test_error_of_a_full_disk_is_shown_until_it_went_well(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t", **SMALL)
    fill(topic)
    partition = topic.partition(0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("pylog.storage.files.OsFile.pwrite", full)
        with pytest.raises(PartitionFullError):
            partition.compact(include_active=False)
    error = log.metrics()["partitions"]["t-0"]["compaction_error"]
    assert error.endswith("no space")
    partition.compact()
    assert log.metrics()["partitions"]["t-0"]["compaction_error"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dedupe_buffer_bytes", 1023),
        ("dedupe_buffer_bytes", 1.5),
        ("cleaner_io_buffer_bytes", 4095),
        ("cleaner_io_max_bytes_per_second", 0),
        ("cleaner_backoff_ms", 0),
        ("cleaner_backoff_ms", True),
        ("cleaner_enable", 1),
    ],
)
def test_settings_of_the_cleaner_are_checked(name: str, value: object) -> None:
    with pytest.raises(InvalidConfigurationError, match=name):
        CleanerConfig(**{name: value})  # type: ignore[arg-type]


def test_settings_reach_the_partitions(tmp_path: Path) -> None:
    config = CleanerConfig(dedupe_buffer_bytes=1 << 10, cleaner_enable=False)
    with pylog.open(tmp_path, cleaner=config) as log:
        topic = log.create_topic("t", **SMALL)
        latest = fill(topic, keys=200, updates=3)
        report = topic.compact()[0]
        assert report.rounds > 3
        assert fold(topic) == latest
    engine = Engine(str(tmp_path))
    assert engine.cleaner_backoff_seconds == 15
