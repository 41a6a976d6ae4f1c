"""What a log does by itself: many partitions with few files, and work in the background."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counting_files import CountingFiles
from tail_memory import NewThreads, in_thread, run_threads, tiny_switch_interval, wait_until

import pylog
from pylog import Log
from pylog.engine.background import Background
from pylog.engine.engine import Engine
from pylog.engine.log_files import LOCK_NAME
from pylog.errors import ClosedError
from pylog.storage.files import OsFiles


def log_on(path: Path, **how: Any) -> Log:
    engine = Engine(str(path), **how)
    engine.open(create=True)
    return Log(engine)


# ---------------------------------------------------------------- many partitions, few files


def test_a_topic_of_100_000_partitions_makes_directories_when_they_are_used(
    tmp_path: Path,
) -> None:
    files = CountingFiles(OsFiles())
    with log_on(tmp_path, file_system=files) as log:
        log.create_topic("big", partitions=100_000)
        files.made.clear()
        assert log.topic("big").append(b"x", partition=77_777).partition == 77_777
        log.topic("big").append(b"y", key=b"k")
        assert len(files.made) == 2
    assert len(list(tmp_path.glob("big-*"))) == 2
    with pylog.open(tmp_path) as log:
        assert log.topic("big").partition(77_777).log_end_offset == 1
        assert log.topic("big").partition(99_999).log_end_offset == 0
    assert len(list(tmp_path.glob("big-*"))) == 2


def test_partitions_open_lazily(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", partitions=50)
        for number in range(50):
            topic.append(b"x", partition=number)
    with pylog.open(tmp_path) as log:
        topic = log.topic("t")
        assert not any(partition.is_attached for partition in topic.partitions)
        topic.append(b"y", partition=3)
        assert [p.number for p in topic.partitions if p.is_attached] == [3]


@pytest.mark.parametrize("durability", ["os", "fsync", "interval"])
def test_few_open_partitions_serve_many_from_several_threads(
    tmp_path: Path, durability: str
) -> None:
    partitions, each, threads = 20, 3, 4
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    with log_on(tmp_path, max_open_partitions=4) as log:
        topic = log.create_topic(
            "t", partitions=partitions, durability=durability, segment_bytes=400, flush_ms=5
        )
        taken: list[dict[tuple[int, int], bytes]] = [{} for _ in range(threads)]

        def work(slot: int) -> None:
            order = random.Random(seed + slot)
            for turn in range(each * partitions):
                number = turn % partitions if slot else order.randrange(partitions)
                partition = topic.partition(number)
                value = b"%d %d" % (slot, turn)
                offset = topic.append(value, partition=number).offset
                assert (number, offset) not in taken[slot]
                taken[slot][number, offset] = value
                if durability == "fsync":
                    assert partition.high_watermark > offset
                assert next(iter(partition.read(offset))).value == value
                partition.flush()
                assert partition.durable_offset > offset
                assert partition.wait(offset)

        with tiny_switch_interval():
            run_threads(*(lambda slot=slot: work(slot) for slot in range(threads)))
        wait_until(lambda: sum(p.is_attached for p in topic.partitions) <= 4)

        expected = {place: value for mine in taken for place, value in mine.items()}
        assert len(expected) == threads * each * partitions
        stored = {(r.partition, r.offset): r.value for r in topic.read()}
        assert stored == expected
        for partition in topic.partitions:
            partition.check()
    with pylog.open(tmp_path) as log:
        stored = {(r.partition, r.offset): r.value for r in log.topic("t").read()}
    assert stored == expected


def test_a_sleeping_reader_wakes_after_its_partition_was_suspended(tmp_path: Path) -> None:
    with log_on(tmp_path, max_open_partitions=2) as log:
        topic = log.create_topic("t", partitions=12)
        topic.append(b"0", partition=0)
        seen: list[bytes | None] = []
        thread = in_thread(
            lambda: seen.extend(
                record.value for record in itertools.islice(topic.read(0, follow=True), 2)
            )
        )
        wait_until(lambda: seen == [b"0"])
        for _ in range(3):
            for number in range(1, 12):
                topic.append(b"x", partition=number)
        wait_until(lambda: not topic.partition(0)._attachment or topic.partition(0).suspend())
        topic.append(b"1", partition=0)
        thread.join()
        assert seen == [b"0", b"1"]


def test_suspended_partitions_are_ended_cleanly(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="os").partition(0)
        partition.append(b"x")
        assert partition.suspend()
        assert not partition.is_attached
        assert "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()
        assert partition.append(b"y").offset == 1
        assert partition.is_attached


# ---------------------------------------------------------------- interval


def test_interval_syncs_in_the_background(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="interval", flush_ms=1).partition(0)
        for turn in range(5):
            partition.append(b"x")
            assert partition.high_watermark == turn + 1
            wait_until(lambda turn=turn: partition.durable_offset == turn + 1)


def test_interval_does_not_sync_before_its_time(tmp_path: Path) -> None:
    files = CountingFiles(OsFiles())
    with log_on(tmp_path, file_system=files) as log:
        partition = log.create_topic("t", durability="interval", flush_ms=3_600_000).partition(0)
        partition.append(b"x")
        files.data_syncs = 0
        for _ in range(100):
            partition.append(b"x")
        assert files.data_syncs == 0
        assert partition.durable_offset == 0
        assert partition.flush() == 101
        assert partition.durable_offset == 101


def test_rolled_segments_of_durability_os_are_synced_soon(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", durability="os", segment_bytes=200).partition(0)
        for _ in range(10):
            partition.append(bytes(50))
        marks = partition.marks()
        assert marks is not None and marks.base_offset > 0
        wait_until(lambda: partition.durable_offset >= marks.base_offset)


def test_no_thread_runs_before_there_is_work_for_it(tmp_path: Path) -> None:
    new_threads = NewThreads()
    with pylog.open(tmp_path) as log:
        log.create_topic("t", cleanup_policy="").append(b"x")
        assert new_threads() == []
        log.create_topic("u", durability="interval").append(b"x")
        assert len(new_threads()) == 1
    assert new_threads() == []


def test_the_lock_file_is_a_page_and_private(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "d"):
        pass
    assert (tmp_path / "d" / LOCK_NAME).stat().st_size == 4096
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "d" / LOCK_NAME).stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- ends


def test_a_partition_made_while_the_log_closes_is_refused(tmp_path: Path) -> None:
    # Story: it stayed open and took records without its place among the processes, which the
    # closed lock file had held.
    log = pylog.open(tmp_path)
    topic = log.create_topic("t", partitions=2, durability="os")
    topic.append(b"x", partition=0)
    first = topic.partition(0)
    refused = []

    def close(close: Callable[[], None] = first.close) -> None:
        close()
        with pytest.raises(ClosedError):
            topic.append(b"late", partition=1)
        refused.append(1)

    first.close = close  # type: ignore[method-assign]
    log.close()

    assert refused == [1]
    with pytest.raises(ClosedError):
        topic.append(b"later", partition=1)


def test_background_work_goes_on_after_a_bug_in_one_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Story: the thread died, and what "interval" had promised was not synced any more.
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    background = Background(lambda: 0.0)
    done = threading.Event()

    background.schedule("bug", 0.0, lambda: [][0])
    background.schedule("work", 0.0, done.set)

    done.wait()
    background.close()
    assert len(reported) == 1


def test_a_log_that_is_let_go_after_background_work_is_collected(tmp_path: Path) -> None:
    # Story: the waiting thread held on to the task that it had done last.
    log = pylog.open(tmp_path)
    partition = log.create_topic("t", durability="os", segment_bytes=200).partition(0)
    for _ in range(5):
        partition.append(bytes(150))
    wait_until(lambda partition=partition: partition.durable_offset == 4)
    gone = weakref.ref(log)
    del log, partition

    def is_gone() -> bool:
        gc.collect()
        return "is_clean 1" in (tmp_path / "t-0" / "manifest").read_text()

    wait_until(is_gone)
    assert gone() is None
