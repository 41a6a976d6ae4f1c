"""Many threads on one log: dense offsets, shared syncs, and ends that come in the middle."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_files import CountingFiles
from tail_memory import run_threads, signal_when_asleep, tiny_switch_interval, wait_until

import pylog
from pylog import Log, Partition, _native
from pylog.engine.engine import Engine
from pylog.errors import ClosedError
from pylog.storage import lifecycle
from pylog.storage.files import OsFiles
from pylog.storage.lifecycle import end_cleanly_locked
from pylog.storage.manifest import Manifest

pytestmark = pytest.mark.disk  # syncs take their time there, so that others wait

THREADS = 16


@pytest.fixture(autouse=True)
def _restless() -> Iterator[None]:
    with tiny_switch_interval():
        yield


def partition_of(log: Log, **settings: object) -> Partition:
    return log.create_topic("t", **settings).partition(0)


# ---------------------------------------------------------------- appending together


@pytest.mark.parametrize("durability", ["os", "fsync", "interval"])
def test_threads_append_dense_offsets(log: Log, durability: str) -> None:
    partition = partition_of(log, durability=durability, segment_bytes=20_000)
    each = 60 if durability == "fsync" else 400
    taken: list[list[int]] = [[] for _ in range(THREADS)]

    def append(slot: int) -> None:
        for turn in range(each):
            taken[slot].append(partition.append(b"%d %d" % (slot, turn)).offset)

    run_threads(*(lambda slot=slot: append(slot) for slot in range(THREADS)))

    partition.check()
    assert all(offsets == sorted(offsets) for offsets in taken)
    by_offset = {
        offset: b"%d %d" % (slot, turn)
        for slot, offsets in enumerate(taken)
        for turn, offset in enumerate(offsets)
    }
    stored = {record.offset: record.value for record in partition.records()}
    assert stored == by_offset
    assert sorted(stored) == list(range(THREADS * each))


def test_threads_append_batches_that_stay_whole(log: Log) -> None:
    partition = partition_of(log, durability="os", segment_bytes=300_000)
    sizes = [1, 3, 50, 1_000]  # the last is written by pwrite

    def append(slot: int) -> None:
        for turn in range(40):
            values = [b"%d %d %d" % (slot, turn, n) + bytes(80) for n in range(sizes[slot])]
            offsets = partition.append_many(values).offsets
            assert offsets.tolist() == list(range(offsets[0], offsets[0] + sizes[slot]))

    run_threads(*(lambda slot=slot: append(slot) for slot in range(len(sizes))))

    stored = [record.value for record in partition.records()]
    assert len(stored) == 40 * sum(sizes)
    for slot, size in enumerate(sizes):
        mine = [v for v in stored if v is not None and v.startswith(b"%d " % slot)]
        assert mine == [
            b"%d %d %d" % (slot, turn, n) + bytes(80) for turn in range(40) for n in range(size)
        ]


def test_only_one_of_many_wins_an_expected_offset(log: Log) -> None:
    partition = partition_of(log, durability="os")
    wins = [0] * THREADS

    def compete(slot: int) -> None:
        for _ in range(100):
            expected = partition.log_end_offset
            try:
                assert partition.append(b"%d" % slot, expected_offset=expected).offset == expected
            except pylog.errors.OffsetMismatchError as error:
                assert error.expected == expected < error.actual
            else:
                wins[slot] += 1

    run_threads(*(lambda slot=slot: compete(slot) for slot in range(THREADS)))

    assert sum(wins) == partition.log_end_offset > 0


def test_readers_see_whole_records_in_order_while_others_append(log: Log) -> None:
    partition = partition_of(log, durability="os", segment_bytes=5_000)
    total = 4_000

    def append() -> None:
        for turn in range(total):
            partition.append(b"%d" % turn * 3)

    def follow() -> None:
        for turn, record in enumerate(partition.records(follow=True, max_bytes=700)):
            assert (record.offset, record.value) == (turn, b"%d" % turn * 3)
            if turn == total - 1:
                return

    def jump() -> None:
        offset = 0
        while offset < total - 1:
            end = partition.high_watermark
            offset = max(end - 1, 0)
            for start in {0, end // 3, offset} if end else ():
                assert next(iter(partition.read(start, 1))).offset == start

    run_threads(append, follow, follow, jump, jump)
    partition.check()


# ---------------------------------------------------------------- group commit


def test_threads_that_wait_for_durability_share_syncs(tmp_path: Path) -> None:
    files = CountingFiles(OsFiles())
    with Log(opened(Engine(str(tmp_path), file_system=files))) as log:
        partition = partition_of(log)
        partition.append(b"the files are there")

        def append() -> None:
            offset = partition.append(b"x").offset
            assert partition.durable_offset > offset

        for _ in range(20):
            end = partition.log_end_offset + THREADS
            # The sync of who came first takes until all others have come.
            files.on_sync = lambda end=end: wait_until(lambda: partition.log_end_offset == end)
            files.data_syncs = 0
            run_threads(*[append] * THREADS)
            assert files.data_syncs <= 2
        files.on_sync = lambda: None


def test_an_append_alone_is_one_sync(tmp_path: Path) -> None:
    files = CountingFiles(OsFiles())
    with Log(opened(Engine(str(tmp_path), file_system=files))) as log:
        partition = partition_of(log)
        partition.append(b"the files are there")
        files.data_syncs = 0
        for _ in range(10):
            partition.append(b"x")
        assert files.data_syncs == 10
        partition.append_many([b"x"] * 5_000)
        assert files.data_syncs == 11
        partition.flush()
        assert files.data_syncs == 11


def test_durability_os_syncs_nothing_while_appending(tmp_path: Path) -> None:
    files = CountingFiles(OsFiles())
    with Log(opened(Engine(str(tmp_path), file_system=files))) as log:
        partition = partition_of(log, durability="os")
        partition.append(b"the files are there")
        files.data_syncs = 0
        partition.append_many([b"x"] * 5_000)
        partition.append(b"x")
        assert files.data_syncs == 0
        assert partition.flush() == 5_002
        assert files.data_syncs == 1
        assert partition.durable_offset == 5_002


def opened(engine: Engine) -> Engine:
    engine.open(create=True)
    return engine


# ---------------------------------------------------------------- ends in the middle


@pytest.mark.parametrize("durability", ["os", "fsync", "interval"])
def test_close_while_others_append_and_read(tmp_path: Path, durability: str) -> None:
    log = pylog.open(tmp_path)
    partition = partition_of(log, durability=durability, segment_bytes=50_000)
    taken: list[list[int]] = [[] for _ in range(8)]
    ended = [""] * 11

    def until_closed(slot: int, step: Callable[[], object]) -> None:
        try:
            while True:
                step()
        except ClosedError as error:
            ended[slot] = str(error)

    def read() -> None:
        end = partition.high_watermark
        for record in partition.read(max(end - 10, 0)):
            assert record.offset >= max(end - 10, 0)

    def close() -> None:
        wait_until(lambda: sum(map(len, taken)) > 200)
        log.close()

    appenders = [
        lambda slot=slot: until_closed(
            slot, lambda: taken[slot].append(partition.append(b"%d" % slot).offset)
        )
        for slot in range(8)
    ]
    run_threads(
        *appenders,
        lambda: until_closed(8, read),
        lambda: until_closed(9, lambda: partition.wait(2**62)),
        lambda: until_closed(10, lambda: list(partition.records(follow=True))),
        close,
    )

    assert all(ended)
    acknowledged = [(offset, slot) for slot, offsets in enumerate(taken) for offset in offsets]
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        stored = {record.offset: record.value for record in partition.records()}
    assert sorted(stored) == list(range(len(stored)))
    assert all(stored[offset] == b"%d" % slot for offset, slot in acknowledged)
    assert len(acknowledged) <= len(stored) <= len(acknowledged) + 8


def test_a_closed_log_refuses_everything(tmp_path: Path) -> None:
    log = pylog.open(tmp_path)
    topic = log.create_topic("t")
    partition = topic.partition(0)
    partition.append(b"x")
    log.close()

    calls: list[Callable[[], object]] = [
        lambda: log.topics(),
        lambda: log.topic("t"),
        lambda: log.create_topic("u"),
        lambda: log.delete_topic("t"),
        lambda: list(log.read("t")),
        lambda: topic.append(b"x"),
        lambda: topic.append_many([b"x"]),
        lambda: list(topic.read()),
        lambda: partition.append(b"x"),
        lambda: partition.append_many([b"x"]),
        lambda: partition.read(0),
        lambda: partition.read_columns(0),
        lambda: list(partition.records()),
        lambda: partition.wait(0),
        lambda: partition.flush(),
        lambda: partition.marks(),
        lambda: partition.state,
        lambda: partition.log_end_offset,
        lambda: partition.durable_offset,
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("kind", ["wait", "timeout", "follow", "follow all"])
def test_ctrl_c_ends_a_wait(log: Log, kind: str) -> None:
    topic = log.create_topic("t", partitions=2)
    partition = topic.partition(0)
    partition.append(b"x")
    partition.wait(0)
    waits: dict[str, Callable[[], object]] = {
        "wait": lambda: partition.wait(1),
        "timeout": lambda: partition.wait(1, timeout=3600.0),
        "follow": lambda: list(partition.records(follow=True)),
        "follow all": lambda: list(topic.read(follow=True)),
    }
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = signal_when_asleep()
        with pytest.raises(KeyboardInterrupt):
            waits[kind]()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)

    assert partition.append(b"still works").offset == 1


def test_a_wait_that_times_out_says_no(log: Log) -> None:
    partition = partition_of(log)
    assert partition.wait(0, timeout=0) is False
    assert partition.wait(0, timeout=0.01) is False
    partition.append(b"x")
    assert partition.wait(0, timeout=0) is True
    assert partition.wait(1, timeout=0.01) is False


# ---------------------------------------------------------------- partitions let go of meanwhile


def test_maps_from_before_a_clean_end_take_nothing(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Story: an append that waited for the page lock while another thread suspended the partition
    # would have stored past the end of the file that was cut to its exact size.
    partition = partition_of(log, durability="os")
    partition.append(b"x")
    attachment = partition._attachment
    assert attachment is not None
    answers = []

    def end_cleanly(*args: Any) -> Manifest:
        manifest = end_cleanly_locked(*args)
        data, _ = _native.encode([b"late"], None, None, 1, 1000)
        answers.append(attachment.tail.native.stamp(data))
        return manifest

    monkeypatch.setattr(lifecycle, "end_cleanly_locked", end_cleanly)
    assert partition.suspend()

    assert answers == [_native.NOT_OPEN]
    assert partition.append(b"y").offset == 1


def test_serials_go_on_when_a_page_is_made_anew(log: Log) -> None:
    partition = partition_of(log, durability="os")
    serials = set()
    for _ in range(5):
        partition.append(b"x")
        marks = partition.marks()
        assert marks is not None
        serials.add(marks.segment_serial)
        partition.suspend()
    assert len(serials) == 5


def test_a_partition_is_not_suspended_while_sealed_segments_are_synced(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Story: the background synced through a page that was made anew under its lock, and died.
    partition = partition_of(log, durability="os", segment_bytes=100)
    answers = []
    partition.append(b"x" * 100)
    attachment = partition._attachment
    assert attachment is not None
    sync_segments = attachment._sync_segments

    def sync(*args: Any) -> None:
        monkeypatch.undo()
        run_threads(lambda: answers.append(partition.suspend()))
        sync_segments(*args)

    monkeypatch.setattr(attachment, "_sync_segments", sync)
    log._engine._background.close()  # its own turn must not come between
    partition.append(b"y" * 100)
    partition.flush_sealed()

    assert answers == [False]
    assert partition.durable_offset == 1
    assert partition.suspend()


def test_who_waits_for_a_sync_of_what_was_let_go_is_sent_to_what_came_after(log: Log) -> None:
    # Story: flush waited for ever for the group commit of a partition that had been suspended.
    partition = partition_of(log, durability="os")
    partition.append(b"x")
    old = partition._attachment
    assert old is not None
    assert partition.suspend()
    partition.append(b"y")

    assert not old.commit.wait(2)

    assert partition.flush() == 2
    assert partition.durable_offset == 2
