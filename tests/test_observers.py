"""Observers: told of every append and read, when it is done, by the thread that did it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from tail_memory import run_threads, tiny_switch_interval

import pylog
from pylog import AppendEvent, Log, ReadEvent
from pylog._native import encode
from pylog.errors import DurabilityUnknownError, RecordTooLargeError
from pylog.storage.attachment import Attachment


class Notes:
    """What an observer was told."""

    def __init__(self) -> None:
        self.appends: list[AppendEvent] = []
        self.reads: list[ReadEvent] = []

    def open(self, path: Path) -> Log:
        return pylog.open(path, on_append=self.appends.append, on_read=self.reads.append)

    def offsets(self, partition: int = 0) -> list[int]:
        """All offsets that were told, in the order in which they were."""
        return [
            offset
            for event in self.appends
            if event.partition == partition
            for offset in range(event.first_offset, event.first_offset + event.records)
        ]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_an_append_is_told_when_it_is_acknowledged(
    tmp_path: Path, notes: Notes, durability: str
) -> None:
    seen: list[tuple[int, int, int]] = []
    with pylog.open(tmp_path, on_append=lambda event: look(event)) as log:
        partition = log.create_topic("t", durability=durability).partition(0)

        def look(event: AppendEvent) -> None:
            durable = partition.durable_offset if durability == "fsync" else -1
            seen.append((event.first_offset, partition.high_watermark, durable))

        partition.append(b"a")
        partition.append_many([b"b", b"c"])
    ends = (1, 3) if durability == "fsync" else (-1, -1)
    assert seen == [(0, 1, ends[0]), (1, 3, ends[1])]


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_every_way_to_append_is_told(tmp_path: Path, notes: Notes, durability: str) -> None:
    with notes.open(tmp_path) as log:
        topic = log.create_topic("t", 2, durability=durability, segment_bytes=1 << 20)
        keys = [b"%d" % number for number in range(30)]
        topic.append(b"x", partition=0)
        topic.partition(1).append(b"x")
        topic.append_many([b"x"] * 30, keys=keys)
        topic.append_many([bytes(200_000)] * 12, partition=0)
        for compression in ("lz4", "producer"):
            log.alter_topic("t", compression_type=compression)
            topic.append_many([b"x"] * 30, keys=keys)
        data, _ = encode((b"x", b"y"), None, None, 0, 1000)
        topic.partition(0).append_batches(data)
        for is_idempotent in (True, False):
            with log.producer(enable_idempotence=is_idempotent) as producer:
                futures = [producer.send("t", b"x", key=key) for key in keys]
                assert all(future.result() for future in futures)
        metrics = log.metrics()["partitions"]
        for number in range(2):
            end = topic.partition(number).log_end_offset
            assert notes.offsets(number) == list(range(end))
            told = sum(event.size_bytes for event in notes.appends if event.partition == number)
            assert told == metrics[f"t-{number}"]["appended_bytes"]
    assert {event.topic for event in notes.appends} == {"t"}
    assert all(event.seconds >= 0 for event in notes.appends)


def test_an_append_to_many_partitions_is_told_by_its_caller(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def note(event: AppendEvent) -> None:
        told.append((threading.get_ident(), event.partition))

    with pylog.open(tmp_path, on_append=note) as log:
        topic = log.create_topic("t", partitions=20)
        topic.append_many([b"x"] * 500, keys=[b"%d" % number for number in range(500)])
    assert sorted(told) == [(threading.get_ident(), number) for number in range(20)]


def test_what_was_not_appended_is_not_told(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with notes.open(tmp_path) as log:
        partition = log.create_topic("t", max_message_bytes=100).partition(0)
        with pytest.raises(RecordTooLargeError):
            partition.append(bytes(200))
        partition.append(b"x")

        def fail(*_: Any) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(Attachment, "_sync_segments", fail)
        with pytest.raises(DurabilityUnknownError):
            partition.append(b"y")
        assert notes.offsets() == [0]
        assert partition._observer is not None
        assert partition._observer._placed == {}


def test_reads_are_told_with_what_they_brought(tmp_path: Path, notes: Notes) -> None:
    with notes.open(tmp_path) as log:
        topic = log.create_topic("t", durability="os")
        partition = topic.partition(0)
        partition.append_many([b"x"] * 10)
        records = partition.read(4)
        assert len(records) == 6
        assert notes.reads[-1][:5] == ("t", 0, 4, 6, records.nbytes)
        assert len(partition.read(10)) == 0
        assert notes.reads[-1][:5] == ("t", 0, 10, 0, 0)
        notes.reads.clear()
        assert len(list(topic.read())) == 10
        assert sum(event.records for event in notes.reads) == 10


def test_what_an_observer_raises_is_logged_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: object) -> None:
        raise ValueError("from the observer")

    with (
        caplog.at_level(logging.ERROR, "pylog"),
        pylog.open(tmp_path, on_append=fail, on_read=fail) as log,
    ):
        topic = log.create_topic("t", durability="os")
        assert topic.append(b"x").offset == 0
        assert [record.value for record in topic.read()] == [b"x"]
    assert len(caplog.records) >= 2
    assert all("observer of" in record.getMessage() for record in caplog.records)


def test_an_interrupt_in_an_observer_passes(tmp_path: Path) -> None:
    def interrupt(event: object) -> None:
        raise KeyboardInterrupt

    with pylog.open(tmp_path, on_append=interrupt) as log:
        partition = log.create_topic("t", durability="os").partition(0)
        with pytest.raises(KeyboardInterrupt):
            partition.append(b"x")
        assert partition.log_end_offset == 1


def test_an_observer_may_use_the_log(tmp_path: Path) -> None:
    found: list[Any] = []

    def look(event: AppendEvent) -> None:
        if event.topic == "t":
            log.topic("audit").append(repr(event).encode())
            found.append(log.metrics()["partitions"]["t-0"]["log_end_offset"])

    with pylog.open(tmp_path, on_append=look) as log:
        log.create_topic("audit", durability="os")
        log.create_topic("t", durability="os").append(b"x")
        assert len(list(log.read("audit"))) == 1
    assert found == [1]


def test_each_thread_is_told_of_its_own_appends(tmp_path: Path) -> None:
    told: dict[int, list[int]] = {}

    def note(event: AppendEvent) -> None:
        told.setdefault(threading.get_ident(), []).extend(
            range(event.first_offset, event.first_offset + event.records)
        )

    mine: dict[int, list[int]] = {}
    with pylog.open(tmp_path, on_append=note) as log:
        partition = log.create_topic("t", durability="os", segment_bytes=4096).partition(0)

        def work() -> None:
            offsets = mine[threading.get_ident()] = []
            for number in range(100):
                offsets.append(partition.append(b"x").offset)
                if number % 10 == 0:
                    many = partition.append_many([bytes(100)] * 100)  # some chunks
                    offsets.extend(row.offset for row in many)

        with tiny_switch_interval():
            run_threads(work, work, work)
        assert told == mine
        offsets = {offset for each in told.values() for offset in each}
        assert offsets == set(range(partition.log_end_offset))


def test_a_wait_that_spans_records_of_others_tells_of_its_own(tmp_path: Path, notes: Notes) -> None:
    with notes.open(tmp_path) as log:
        observer = log.create_topic("t").partition(0)._observer
    assert observer is not None
    observer.placed(0, 1, 10, 0.0)
    run_threads(lambda: observer.placed(1, 3, 20, 0.0))
    observer.placed(3, 4, 10, 0.0)
    observer.acknowledged(0, 4)
    assert notes.offsets() == [0, 3]
    observer.given_up(0, 4)
    assert list(observer._placed.values()) == [(3, 20, 0.0)]


def test_without_observers_nothing_stands_between_a_caller_and_the_core(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t").partition(0)
        assert partition._observer is None
        assert partition.append.__self__ is partition.appender  # type: ignore[attr-defined]
        assert "_read_below" not in vars(partition)
