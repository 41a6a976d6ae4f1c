"""A consumer and others: threads, signals, forks; what ends its wait, and who may use it."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consuming import told_when_waiting
from processes import children
from tail_memory import in_thread, run_threads, signal_when_asleep, tiny_switch_interval

import pylog
from pylog import Consumer, Log
from pylog.consumer import consumer as consumer_module
from pylog.errors import ClosedError, ConcurrentUseError, WakeupError


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    # Whoever is not woken sleeps past the end of the test.
    monkeypatch.setattr(consumer_module, "LOOK_AGAIN_SECONDS", 3600.0)
    with pylog.open(tmp_path) as log:
        log.create_topic("t", partitions=2, durability="os")
        yield log


# ---------------------------------------------------------------- who ends a wait


@pytest.mark.parametrize("wait", [Consumer.poll, lambda consumer: next(iter(consumer))])
def test_wakeup_ends_a_wait(log: Log, wait: Callable[[Consumer], object]) -> None:
    consumer = log.consumer("t")
    is_waiting = told_when_waiting(consumer)

    def wake() -> None:
        is_waiting.wait()
        consumer.wakeup()

    thread = in_thread(wake)
    with pytest.raises(WakeupError):
        wait(consumer)
    thread.join()
    log.topic("t").append(b"x", partition=0)
    assert len(consumer.poll(0)) == 1


def test_wakeup_before_a_wait_ends_the_next_one_and_no_other(log: Log) -> None:
    log.topic("t").append(b"x", partition=0)
    consumer = log.consumer("t")
    consumer.wakeup()
    consumer.wakeup()
    with pytest.raises(WakeupError):
        consumer.poll(0)
    assert len(consumer.poll(0)) == 1


def test_a_signal_handler_may_wake_a_consumer(log: Log) -> None:
    consumer = log.consumer("t")
    before = signal.signal(signal.SIGUSR1, lambda *_: consumer.wakeup())
    try:
        thread = signal_when_asleep(signal.SIGUSR1)
        with pytest.raises(WakeupError):
            consumer.poll()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("wait", [Consumer.poll, lambda consumer: next(iter(consumer))])
def test_an_interrupt_ends_a_wait_and_nothing_is_lost(
    log: Log, wait: Callable[[Consumer], object]
) -> None:
    consumer = log.consumer("t")
    thread = signal_when_asleep()
    with pytest.raises(KeyboardInterrupt):
        wait(consumer)
    thread.join()
    log.topic("t").append(b"x", partition=1)
    assert len(consumer.poll(0)) == 1


def test_with_its_log_a_consumer_is_closed_and_its_wait_ends(log: Log) -> None:
    consumer = log.consumer("t")
    is_waiting = told_when_waiting(consumer)

    def close() -> None:
        is_waiting.wait()
        log.close()

    thread = in_thread(close)
    with pytest.raises(ClosedError):
        consumer.poll()
    thread.join()
    consumer.close()


# ---------------------------------------------------------------- who may use it


def test_a_second_thread_gets_a_clear_error_while_the_first_is_at_work(log: Log) -> None:
    consumer = log.consumer("t")
    is_waiting = told_when_waiting(consumer)
    records: list[Any] = []
    thread = in_thread(lambda: records.extend(consumer.poll()))
    is_waiting.wait()
    for use in (
        lambda: consumer.poll(0),
        lambda: next(iter(consumer)),
        lambda: consumer.seek("t", 0, offset=0),
        consumer.lag,
        consumer.close,
    ):
        with pytest.raises(ConcurrentUseError, match="one thread at a time"):
            use()
    log.topic("t").append(b"x", partition=0)
    thread.join()
    assert len(records) == 1
    # The first is back: whoever comes next may use it.
    assert consumer.poll(0) == []
    consumer.close()


def test_threads_that_take_turns_share_a_consumer(log: Log) -> None:
    topic = log.topic("t")
    topic.append_many([b"x"] * 2000, partition=0)
    topic.append_many([b"x"] * 2000, partition=1)
    consumer = log.consumer("t", max_poll_records=10)
    lock = threading.Lock()
    seen: list[tuple[int, int]] = []

    def work() -> None:
        while True:
            with lock:
                records = consumer.poll(0)
            if not records:
                return
            seen.extend((record.partition, record.offset) for record in records)

    with tiny_switch_interval():
        run_threads(work, work, work)
    assert sorted(seen) == list(itertools.product(range(2), range(2000)))


def test_consumers_of_many_threads_each_read_all(log: Log) -> None:
    total, counts = 3000, [0, 0, 0]

    def consume(slot: int) -> None:
        with log.consumer("t") as consumer:
            ends = [0, 0]
            for record in consumer:
                assert record.offset == ends[record.partition]
                ends[record.partition] += 1
                counts[slot] += 1
                if counts[slot] == total:
                    return

    def produce() -> None:
        for turn in range(total):
            log.topic("t").append(b"%d" % turn, partition=turn % 2)

    with tiny_switch_interval():
        run_threads(produce, *(lambda slot=slot: consume(slot) for slot in range(3)))
    assert counts == [total] * 3


def test_others_run_while_a_consumer_waits(log: Log) -> None:
    # With the GIL held by who waits, nobody could append, and this would hang.
    consumer = log.consumer("t")
    is_waiting = told_when_waiting(consumer)
    records: list[Any] = []
    thread = in_thread(lambda: records.extend(consumer.poll()))
    is_waiting.wait()
    log.topic("t").append(b"x", partition=0)
    thread.join()
    assert len(records) == 1


def test_a_consumer_that_nobody_uses_is_forgotten_by_its_log(log: Log) -> None:
    before = list(log._engine.clients)
    consumer = log.consumer("t")
    assert consumer.gate in log._engine.clients
    del consumer
    assert list(log._engine.clients) == before


# ---------------------------------------------------------------- fork


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_goes_on_with_the_consumer_that_it_inherited(log: Log) -> None:
    topic = log.topic("t")
    topic.append_many([b"x"] * 5, partition=0)
    consumer = log.consumer("t")
    assert len(consumer.poll(0, 2)) == 2
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        # As another thread of the parent that is in a call.
        consumer.gate.enter()
        held.set()
        release.wait()
        consumer.gate.leave()

    def work() -> None:
        assert [record.offset for record in consumer.poll(0)] == [2, 3, 4]
        topic.append(b"y", partition=1)
        assert len(consumer.poll(0)) == 1
        log.close()
        with contextlib.suppress(ClosedError):
            consumer.poll(0)
            raise AssertionError

    thread = in_thread(hold)
    held.wait()
    with children() as start:
        start(work).join()
    release.set()
    thread.join()
    assert len(consumer.poll(0)) == 4
