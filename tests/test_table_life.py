"""How tables follow their topics: threads, processes, errors, and topics that lost records."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import children
from tables import FOLLOW, fold
from tail_memory import in_thread, run_threads, tiny_switch_interval, wait_until

import pylog
from pylog import Log, TableChange, Topic, errors
from pylog.storage import policy


@pytest.fixture
def topic(log: Log) -> Topic:
    return log.create_topic("profiles", durability="os", cleanup_policy="compact")


# ------------------------------------------------------------------ how it follows


def test_reading_sees_every_record_that_was_acknowledged_before(log: Log) -> None:
    topic = log.create_topic("t", partitions=3, durability="os")
    table = log.table("t")
    for turn in range(200):
        topic.append(b"%d" % turn, key=b"%d" % (turn % 17))
        assert table[b"%d" % (turn % 17)] == b"%d" % turn


def test_a_record_whose_writer_told_nobody_is_seen_when_it_is_time_to_look_again(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = log.table("profiles")
    assert len(table) == 0
    now = 1000.0
    monkeypatch.setattr("pylog.table.replay.time.monotonic", lambda: now)
    table.refresh()
    topic.append(b"1", key=b"a")
    # As if the writer had been killed before it could count what it appended.
    table._replay._seen = topic.events.value
    assert b"a" not in table
    now += policy.LOOK_AGAIN_SECONDS
    assert table[b"a"] == b"1"


def test_without_following_only_refresh_takes_in_what_is_new(log: Log, topic: Topic) -> None:
    topic.append(b"1", key=b"a")
    table = log.table("profiles", follow="never")
    assert table[b"a"] == b"1"
    topic.append(b"2", key=b"a")
    assert table[b"a"] == b"1"
    assert table.refresh() == {0: 2}
    assert table[b"a"] == b"2"


def test_the_background_takes_in_what_is_new_without_being_asked(log: Log, topic: Topic) -> None:
    table = log.table("profiles", follow="background")
    assert len(table) == 0
    topic.append(b"1", key=b"a")
    wait_until(lambda: table.offsets == {0: 1})
    assert table._replay.state.value(b"a") == b"1"


def test_a_thread_starts_with_the_first_use_and_ends_with_the_table(log: Log, topic: Topic) -> None:
    others = set(threading.enumerate())  # of tables that tests before this one left behind

    def followers() -> list[threading.Thread]:
        return [one for one in set(threading.enumerate()) - others if one.name == "pylog-table"]

    table = log.table("profiles", follow="background")
    other = log.table("profiles", follow="background")
    assert followers() == []
    assert len(table) == len(other) == 0
    assert len(followers()) == 2
    table.close()
    table.close()
    assert len(followers()) == 1
    log.close()
    assert followers() == []


def test_a_table_that_nobody_uses_does_not_keep_its_log_open(tmp_path: Path) -> None:
    log = pylog.open(tmp_path)
    topic = log.create_topic("t", durability="os")
    table = log.table("t", follow="background")
    topic.append(b"1", key=b"a")
    assert table[b"a"] == b"1"
    engine = weakref.ref(log._engine)
    follower = table._replay._follower
    assert follower is not None
    del log, topic, table
    # Its thread holds on to it while it looks, and not while it waits.
    wait_until(lambda: gc.collect() >= 0 and engine() is None)
    wait_until(lambda: not follower.is_alive)


@pytest.mark.parametrize("follow", FOLLOW)
def test_a_closed_table_cannot_be_looked_at(log: Log, topic: Topic, follow: Any) -> None:
    topic.append(b"1", key=b"a")
    closed, of_closed_log = (log.table("profiles", follow=follow) for _ in range(2))
    assert closed[b"a"] == of_closed_log[b"a"]
    closed.close()
    log.close()
    for table in (closed, of_closed_log):
        for look in (lambda t=table: t[b"a"], lambda t=table: len(t), table.refresh):
            with pytest.raises(errors.ClosedError):
                look()


@pytest.mark.parametrize("follow", FOLLOW)
@pytest.mark.parametrize("what", ["table", "log"])
@pytest.mark.parametrize("who", ["caller", "background"])
def test_who_is_told_of_a_change_may_close_the_table_and_the_log(
    log: Log, topic: Topic, follow: Any, what: str, who: str
) -> None:
    told: list[int] = []

    def on_change(change: TableChange) -> None:
        told.append(change.offset)
        if change.offset == 1:
            (table if what == "table" else log).close()

    table = log.table("profiles", follow=follow, on_change=on_change)
    topic.append(b"1", key=b"a")
    assert len(table) == 1
    with contextlib.ExitStack() as stack:
        if who == "caller":
            # Whoever follows has to wait until this thread has told.
            stack.enter_context(table._replay.lock)
        topic.append(b"2", key=b"a")
        if who == "caller":
            suppressed(table.refresh)
        elif follow != "background":
            in_thread(lambda: suppressed(table.refresh)).join()
    wait_until(lambda: told == [0, 1])
    wait_until(lambda: table._replay.is_closed)
    with pytest.raises(errors.ClosedError):
        table[b"a"]


def suppressed(refresh: Callable[[], object]) -> None:
    with contextlib.suppress(errors.ClosedError):
        refresh()


@pytest.mark.parametrize("follow", FOLLOW)
def test_a_deleted_topic_is_noticed(log: Log, topic: Topic, follow: Any) -> None:
    topic.append(b"1", key=b"a")
    table = log.table("profiles", follow=follow)
    assert table[b"a"] == b"1"
    log.delete_topic("profiles")
    log.create_topic("profiles", durability="os").append(b"2", key=b"a")
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        table.refresh()
    if follow == "background":
        wait_until(lambda: not table._replay._follower.is_alive)  # type: ignore[union-attr]
    if follow != "never":
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            table[b"a"]


def test_added_partitions_are_read_too(log: Log, topic: Topic) -> None:
    table = log.table("profiles")
    topic.append(b"1", key=b"a")
    assert len(table) == 1
    topic.add_partitions(4)
    for number in range(4):
        topic.append(b"2", key=b"k%d" % number, partition=number)
    assert len(table) == 5
    assert table.offsets == {0: 2, 1: 1, 2: 1, 3: 1}


def test_of_a_key_in_several_partitions_the_record_that_was_read_last_counts(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, durability="os")
    table = log.table("t")
    topic.append(b"1", key=b"a", partition=1)
    assert table[b"a"] == b"1"
    topic.append(b"0", key=b"a", partition=0)
    assert table[b"a"] == b"0"
    # Built at once, partition by partition.
    assert log.table("t")[b"a"] == b"1"


# ------------------------------------------------------------------ errors in the background


def test_a_follower_that_fails_goes_on_when_the_cause_is_gone(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = log.table("profiles", follow="background")
    assert len(table) == 0
    fails = True
    read = pylog.Partition.read

    def failing(*arguments: Any) -> Any:
        if fails:
            raise OSError(5, "no luck")
        return read(*arguments)

    monkeypatch.setattr(pylog.Partition, "read", failing)
    monkeypatch.setattr("pylog.table.follower.LOOK_AGAIN_SECONDS", 0.001)
    topic.append(b"1", key=b"a")
    follower = table._replay._follower
    assert follower is not None
    wait_until(lambda: not follower.is_current)
    with pytest.raises(OSError, match="no luck"):
        table[b"a"]
    fails = False
    assert table[b"a"] == b"1"
    wait_until(lambda: follower.is_current)
    topic.append(b"2", key=b"a")
    assert table.wait_for(1)
    assert table[b"a"] == b"2"
    assert any("to be tried again" in record.message for record in caplog.records)


def test_damage_is_raised_by_who_looks_and_what_was_taken_in_before_stays(
    log: Log, topic: Topic
) -> None:
    topic.append(b"good value", key=b"a")
    table = log.table("profiles")
    assert len(table) == 1
    topic.append(b"bad value", key=b"b")
    path = Path(log.path) / "profiles-0" / "00000000000000000000.log"
    data = bytearray(path.read_bytes())
    data[data.index(b"bad value")] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    for _ in range(2):
        with pytest.raises(errors.CorruptRangeError) as caught:
            table[b"a"]
        assert (caught.value.first, caught.value.last) == (1, 1)
    assert table.offsets == {0: 1}
    data[data.index(bytes([b"b"[0] ^ 1]) + b"ad value")] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    assert dict(table) == {b"a": b"good value", b"b": b"bad value"}


# ------------------------------------------------------------------ not what it was


def grown(log: Log) -> Topic:
    topic = log.create_topic(
        "t", durability="os", cleanup_policy="compact,delete", segment_bytes=4096
    )
    for turn in range(100):
        topic.append(b"%0100d" % turn, key=b"%d" % turn)
    return topic


def test_records_that_were_deleted_unread_are_noticed(log: Log) -> None:
    topic = grown(log)
    table = log.table("t", follow="never")
    assert table.refresh() == {0: 100}
    topic.append_many([b"new"] * 50, keys=[b"%d" % n for n in range(50)])
    topic.delete_records({0: 120})
    with pytest.raises(errors.RecordsMissedError) as caught:
        table.refresh()
    error = caught.value
    assert (error.partition, error.position, error.log_start_offset) == (0, 100, 120)
    assert table.offsets == {0: 100}
    assert table[b"0"] == b"%0100d" % 0


def test_records_that_were_deleted_after_they_were_read_are_no_loss(log: Log) -> None:
    topic = grown(log)
    table = log.table("t")
    assert len(table) == 100
    topic.delete_records({0: 60})
    topic.append(b"new", key=b"0")
    assert (len(table), table[b"0"]) == (100, b"new")
    # A table that is built now knows less: deleting takes away records, not keys.
    assert len(log.table("t")) == 41


def test_records_that_were_deleted_before_anything_was_read_are_no_loss(log: Log) -> None:
    topic = log.create_topic("t", durability="os", cleanup_policy="compact,delete")
    table = log.table("t")
    assert len(table) == 0
    topic.append_many([b"1", b"2", b"3"], keys=[b"a", b"b", b"c"])
    topic.delete_records({0: 2})
    assert dict(table) == {b"c": b"3"}
    assert table.offsets == {0: 3}


def test_a_table_that_missed_records_is_built_anew_if_that_is_wanted(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    topic = grown(log)
    table = log.table("t", follow="never", if_stale="rebuild")
    assert len(table) == 100
    before = table.snapshot()
    topic.append_many([b"new"] * 50, keys=[b"%d" % n for n in range(50)])
    topic.delete_records({0: 120})
    with caplog.at_level(logging.WARNING, "pylog"):
        assert table.refresh() == {0: 150}
    assert dict(table) == {b"%d" % n: b"new" for n in range(20, 50)} == fold(topic)
    assert any("is built anew" in record.message for record in caplog.records)
    assert len(before) == 100
    table.check()


def test_retention_that_is_faster_than_a_read_is_noticed_in_the_middle(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(log)
    table = log.table("t")
    monkeypatch.setattr("pylog.table.state.MemoryState.read_bytes", 1000)
    read = pylog.Partition.read

    def reading(partition: pylog.Partition, offset: int, *arguments: Any) -> Any:
        if 0 < offset < 50:
            partition.delete_records(50)
        return read(partition, offset, *arguments)

    monkeypatch.setattr(pylog.Partition, "read", reading)
    with pytest.raises(errors.RecordsMissedError):
        table.refresh()


# ------------------------------------------------------------------ threads and processes


@pytest.mark.parametrize("follow", FOLLOW)
def test_threads_read_while_others_append(log: Log, follow: Any) -> None:
    topic = log.create_topic("t", partitions=2, durability="os")
    table = log.table("t", follow=follow)
    turns, keys = 300, 20
    is_done = threading.Event()
    seen = turn = 0

    def append() -> None:
        nonlocal turn
        try:
            while not is_done.is_set() and (turn < turns or seen <= keys):
                turn += 1
                topic.append(b"%d" % turn if turn % 5 else None, key=b"%d" % (turn % keys))
        finally:
            is_done.set()

    def read() -> None:
        nonlocal seen
        latest: dict[bytes, int] = {}
        try:
            while not is_done.is_set():
                if follow == "never":
                    table.refresh()
                for key, value in table.items():
                    assert int(value) >= latest.get(key, 0)
                    latest[key] = int(value)
                    seen += 1
        finally:
            is_done.set()

    with tiny_switch_interval():
        run_threads(append, read, read)
    table.refresh()
    assert dict(table) == fold(topic)
    table.check()


@pytest.mark.parametrize("follow", FOLLOW)
def test_a_table_sees_what_another_process_appends(tmp_path: Path, follow: Any) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", durability="os")

    def work() -> None:
        with pylog.open(tmp_path) as log:
            for turn in range(100):
                log.topic("t").append(b"%d" % turn, key=b"%d" % (turn % 7))

    with children() as start:
        child = start(work)
        with pylog.open(tmp_path) as log:
            table = log.table("t", follow=follow)
            assert table.wait_for(99, timeout=30)
            assert dict(table) == {b"%d" % (n % 7): b"%d" % n for n in range(93, 100)}
        child.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("follow", FOLLOW)
def test_parent_and_child_go_on_with_what_was_in_the_table(tmp_path: Path, follow: Any) -> None:
    with pylog.open(tmp_path) as log:
        topic = log.create_topic("t", durability="os")
        topic.append(b"before", key=b"a")
        table = log.table("t", follow=follow)
        assert table[b"a"] == b"before"

        def work() -> None:
            assert table._replay.state.value(b"a") == b"before"
            metadata = topic.append(b"child", key=b"b")
            assert table.wait_for(metadata)
            assert table[b"b"] == b"child"
            table.check()
            log.close()

        # The lock is held by a thread that the child does not have.
        with table._replay.lock, children() as start:
            start(work).join()
        assert table.wait_for(1)
        assert dict(table) == {b"a": b"before", b"b": b"child"}
