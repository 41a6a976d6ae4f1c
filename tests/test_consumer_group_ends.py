"""Members that leave, are dropped, killed, forked and interrupted; and all of it at once."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consuming import Told, append, make, member, numbers, places, told_when_waiting
from processes import Numbers, children
from tail_memory import (
    in_thread,
    run_threads,
    signal_when_asleep,
    tiny_switch_interval,
    wait_until,
)

import pylog
from pylog import Consumer, Log, TopicPartition
from pylog.consumer import consumer as consumer_module
from pylog.errors import ClosedError, FencedInstanceIdError, UnknownMemberIdError


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    # Whoever is not woken sleeps past the end of the test.
    monkeypatch.setattr(consumer_module, "LOOK_AGAIN_SECONDS", 3600.0)
    with pylog.open(tmp_path) as log:
        yield log


# ---------------------------------------------------------------- ends


def test_with_its_log_a_member_leaves_and_commits(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        make(log, "t", records=10)
        consumer = member(log)
        for record in consumer:
            if record.offset == 4:
                break
    with pylog.open(tmp_path) as log, member(log) as consumer:
        assert next(iter(consumer)).offset == 4
        assert consumer._part is not None
    with pytest.raises(ClosedError):
        consumer.commit()


def noting(calls: list[Any], consumer: list[Consumer]) -> Any:
    """Return a listener that commits, and writes down in which thread."""

    def on_revoked(partitions: set[TopicPartition]) -> None:
        consumer[0].commit()
        calls.append((threading.current_thread(), sorted(number for _, number in partitions)))

    return on_revoked


def test_a_member_that_waits_ends_in_its_own_thread_when_its_log_is_closed(
    log: Log, tmp_path: Path
) -> None:
    make(log, "t", 2, records=10)
    calls: list[Any] = []
    own: list[Consumer] = []

    def work() -> None:
        own.append(log.consumer("t", group="g", on_revoked=noting(calls, own)))
        is_waiting.append(told_when_waiting(own[0]))
        with pytest.raises(ClosedError):
            for _ in own[0]:
                pass

    is_waiting: list[threading.Event] = []
    thread = in_thread(work)
    wait_until(lambda: bool(is_waiting))
    is_waiting[0].wait()
    log.close()
    thread.join()
    assert calls == [(thread, [0, 1])]
    with pylog.open(tmp_path) as again:
        committed = again._coordinator.committed("g", [TopicPartition("t", n) for n in (0, 1)])
        assert {one.offset for one in committed.values() if one} == {10}
        assert again.groups.describe("g").members == ()


@pytest.mark.parametrize("has_listener", [True, False])
def test_a_loop_at_work_whose_log_another_thread_closes_is_told_that_it_is_closed(
    log: Log, tmp_path: Path, has_listener: bool
) -> None:
    make(log, "t", records=1000)
    calls: list[Any] = []
    own: list[Consumer] = []
    is_at_work, goes_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def work() -> None:
        listener = noting(calls, own) if has_listener else None
        own.append(log.consumer("t", group="g", on_revoked=listener))
        with pytest.raises(ClosedError):
            for record in own[0]:
                seen.append(record.offset)
                if record.offset == 700:
                    is_at_work.set()
                    goes_on.wait()

    thread = in_thread(work)
    is_at_work.wait()
    log.close()
    goes_on.set()
    thread.join()
    assert seen[-1] == 700
    # A listener may have to do something first: without it nothing counts as done.
    assert calls == []
    with pylog.open(tmp_path) as again, member(again) as consumer:
        assert next(iter(consumer)).offset == (0 if has_listener else 700)


def test_who_comes_while_another_thread_closes_the_log_is_told_that_it_is_closed(log: Log) -> None:
    make(log, "t", records=10)
    consumer = member(log)
    is_ending, goes_on = threading.Event(), threading.Event()

    def end(_: object) -> None:
        is_ending.set()
        goes_on.wait()

    consumer.gate._end = end
    thread = in_thread(consumer.gate.close)
    is_ending.wait()
    for use in (lambda: consumer.poll(0), consumer.assignment, lambda: next(iter(consumer))):
        with pytest.raises(ClosedError):
            use()
    goes_on.set()
    thread.join()


def test_a_member_whose_thread_has_ended_is_ended_by_who_closes_the_log(log: Log) -> None:
    make(log, "t", records=10)
    calls: list[Any] = []
    own: list[Consumer] = []

    def work() -> None:
        own.append(log.consumer("t", group="g", on_revoked=noting(calls, own)))
        own[0].poll(0)

    in_thread(work).join()
    log.close()
    assert calls == [(threading.current_thread(), [0])]


def test_a_member_that_is_dropped_is_noticed_as_one_that_died(log: Log) -> None:
    make(log, "t", 2, records=10)
    first, second = member(log), member(log)
    for _ in range(3):
        first.poll(0)
        second.poll(0)
    assert len(numbers(first)) == 1
    del second
    wait_until(lambda: first.poll(0) is not None and numbers(first) == [0, 1])


def test_a_member_that_is_killed_is_noticed_and_others_go_on_where_it_committed(
    tmp_path: Path,
) -> None:
    with pylog.open(tmp_path) as log:
        make(log, "t", 2, records=10)

    def work() -> None:
        with pylog.open(tmp_path) as log:
            consumer = member(log)
            while True:
                consumer.poll(0.01)

    with children() as start:
        child = start(work)
        with pylog.open(tmp_path) as log, member(log) as consumer:
            seen: list[Any] = []

            def has(count: int) -> bool:
                seen.extend(consumer.poll(0.01))
                return len(numbers(consumer)) == count

            wait_until(lambda: has(1))
            child.kill()
            wait_until(lambda: has(2))
            append(log.topic("t"), 0, 1)
            append(log.topic("t"), 1, 1)
            seen.extend(consumer.poll(0))
            assert {(0, 10), (1, 10)} <= set(places(seen))
            assert set(consumer.lag().values()) == {0}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_is_not_the_member_that_its_parent_is(log: Log) -> None:
    make(log, "t", 2, records=10)
    told = Told()
    consumer = member(log, told)
    consumer.poll(0, 4)
    told.take()

    def work() -> None:
        with pytest.raises(ClosedError):
            consumer.poll(0)
        consumer.close()
        assert told.take() == []
        own = member(log)
        own.poll(0)
        log.close()

    with children() as start:
        start(work).join()
    consumer.poll(0)
    assert numbers(consumer) == [0, 1]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_is_made_in_a_loop_gets_none_of_the_records_that_are_left(log: Log) -> None:
    make(log, "t", records=5000)
    consumer = member(log)
    records = iter(consumer)
    # A piece of the loop has many records by now.
    before = list(itertools.islice(records, 600))

    def work() -> None:
        with pytest.raises(ClosedError):
            next(records)
        log.close()

    with children() as start:
        start(work).join()
    assert places([*before, *itertools.islice(records, 4400)]) == [(0, n) for n in range(5000)]


# ---------------------------------------------------------------- sleeps


@pytest.mark.parametrize("is_static", [True, False])
def test_who_slept_through_the_loss_of_its_partitions_commits_nothing_and_begins_anew(
    tmp_path: Path, is_static: bool
) -> None:
    state = Numbers(1)
    settings: dict[str, Any] = {"max_poll_interval_ms": 200}
    if is_static:
        settings = {"instance_id": "w1"}
    with pylog.open(tmp_path) as log:
        make(log, "t", records=10)

    def sleep() -> None:
        told = Told()
        with pylog.open(tmp_path) as log, member(log, told, **settings) as consumer:
            records = consumer.poll(0, 5)
            consumer.commit(records[0])
            told.take()
            state[0] = 1
            os.kill(os.getpid(), signal.SIGSTOP)
            for what in (records[-1], None, {("t", 0): 4}):
                with pytest.raises(FencedInstanceIdError if is_static else UnknownMemberIdError):
                    consumer.commit(what)
            if is_static:
                with pytest.raises(FencedInstanceIdError):
                    consumer.poll(0)
            else:
                consumer.poll(0)
            assert told.take()[0] == ("lost", [0])

    with children() as start:
        child = start(sleep)
        wait_until(lambda: state[0] == 1 and child.is_stopped())
        with pylog.open(tmp_path) as log, member(log, **settings) as consumer:
            records: list[Any] = []
            wait_until(lambda: bool(records.extend(consumer.poll(0)) or records))
            assert places(records) == [(0, offset) for offset in range(1, 10)]
            consumer.commit()
            os.kill(child.pid, signal.SIGCONT)
            child.join()
            assert consumer.committed()["t", 0].offset == 10


# ---------------------------------------------------------------- all together


def test_members_come_and_go_and_every_record_is_read_and_no_partition_has_two_owners(
    tmp_path: Path,
) -> None:
    partitions, total = 6, 3000
    logs = [pylog.open(tmp_path) for _ in range(3)]
    topic = make(logs[0], "t", partitions)
    logs[0].consumer("t", group="g").close()
    logs[0].alter_topic("__consumer_offsets", durability="os")
    seen: Counter[tuple[int, int]] = Counter()
    owners: dict[int, int] = {}
    joined = Counter[str]()

    def work(slot: int) -> None:
        def take(names: set[TopicPartition]) -> None:
            for _, number in names:
                assert owners.setdefault(number, slot) == slot
            joined["assigned"] += 1

        def give(names: set[TopicPartition]) -> None:
            for _, number in names:
                assert owners.pop(number) == slot
            joined["revoked"] += 1

        while len(seen) < total or joined["assigned"] < 30:
            with logs[slot].consumer("t", group="g", on_assigned=take, on_revoked=give) as consumer:
                for batch in consumer.batches(50, timeout=0.02):
                    for record in batch:
                        assert owners[record.partition] == slot
                        seen[record.partition, record.offset] += 1
                    consumer.commit(batch[-1])
                    if joined["assigned"] % 5 == slot:
                        break

    def produce() -> None:
        for turn in range(total):
            topic.append(b"%d" % turn, partition=turn % partitions)

    with tiny_switch_interval():
        run_threads(produce, *(lambda slot=slot: work(slot) for slot in range(3)))
    assert sorted(seen) == [(n, offset) for n in range(partitions) for offset in range(500)]
    assert joined["assigned"] >= 30
    for one in logs:
        one.close()


def test_an_interrupt_while_a_member_waits_leaves_it_in_its_group(log: Log) -> None:
    make(log, "t", 2)
    consumer = member(log)
    thread = signal_when_asleep()
    with pytest.raises(KeyboardInterrupt):
        consumer.poll()
    thread.join()
    append(log.topic("t"), 1, 1)
    assert len(consumer.poll(0)) == 1
