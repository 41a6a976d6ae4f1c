"""What a producer does with its batches: when they go, what becomes of them, in which order."""

from __future__ import annotations

import concurrent.futures
import errno
import functools
import itertools
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from producers import NOW, Bench, StubPartition
from tail_memory import in_thread, wait_until

from pylog import RecordMetadata, SendFuture
from pylog._native import batch_size
from pylog.errors import (
    BufferExhaustedError,
    ClosedError,
    DeliveryTimeoutError,
    DurabilityUnknownError,
    PartitionFailedError,
    PartitionFullError,
    RecordTooLargeError,
)
from pylog.producer import accumulator
from pylog.producer.accumulator import Given


def full() -> PartitionFullError:
    return PartitionFullError("no space")


# ---------------------------------------------------------------- when a batch goes


def test_batch_waits_for_its_linger_and_no_longer() -> None:
    bench, partition = Bench(linger_ms=5), StubPartition()
    future = bench.put(partition)
    bench.now += 0.0049
    assert bench.run() == 0
    bench.now += 0.0002
    assert bench.run() == 1
    assert future.result() == RecordMetadata("t", 0, 0, NOW)


def test_full_batch_goes_at_once_and_the_next_one_lingers() -> None:
    bench, partition = Bench(linger_ms=1000, batch_size=200), StubPartition()
    futures = [bench.put(partition, b"x" * 50) for _ in range(3)]
    assert bench.run() == 1
    assert [future.done() for future in futures] == [True, True, False]
    assert len(partition.batches[0]) <= 200


def test_record_larger_than_a_batch_makes_one_of_its_own() -> None:
    bench, partition = Bench(linger_ms=0, batch_size=200), StubPartition()
    futures = [bench.put(partition, value) for value in (b"a", b"x" * 1000, b"b")]
    bench.run()
    assert [header["count"] for header in partition.headers()] == [1, 1, 1]
    assert [future.result().offset for future in futures] == [0, 1, 2]


def test_record_larger_than_its_topic_allows_is_refused_at_once() -> None:
    bench, partition = Bench(), StubPartition(max_message_bytes=200)
    with pytest.raises(RecordTooLargeError) as caught:
        bench.put(partition, b"x" * 200)
    assert caught.value.size > caught.value.limit == 200
    bench.accumulator.flush_begin()
    assert bench.run() == 0


def test_batch_is_never_larger_than_its_topic_allows() -> None:
    bench, partition = Bench(linger_ms=0), StubPartition(max_message_bytes=200)
    for _ in range(10):
        bench.put(partition, b"x" * 50)
    bench.run()
    assert len(partition.batches) > 1
    assert all(len(batch) <= 200 for batch in partition.batches)


def test_flush_sends_what_lingers() -> None:
    bench, partition = Bench(linger_ms=100_000), StubPartition()
    future = bench.put(partition)
    assert bench.run() == 0
    bench.accumulator.flush_begin()
    assert bench.run() == 1
    assert future.done()


def test_all_that_is_due_in_a_partition_shares_one_sync() -> None:
    bench = Bench(linger_ms=0, batch_size=100)
    partitions = [StubPartition(number=number) for number in range(3)]
    futures = [bench.put(partition, b"x" * 20) for _ in range(10) for partition in partitions]
    bench.run()
    assert all(future.done() for future in futures)
    for partition in partitions:
        assert len(partition.batches) > 1
        assert partition.syncs == [(0, 10)]


# ---------------------------------------------------------------- acknowledgement


@pytest.mark.parametrize("acks", [1, "all"])
def test_future_is_done_after_the_sync(acks: Any) -> None:
    bench, partition = Bench(linger_ms=0, acks=acks), StubPartition()
    future = bench.put(partition)
    seen: list[bool] = []
    partition.on_sync = lambda: seen.append(future.done())
    bench.run()
    assert seen == [False]
    assert future.result().offset == 0


def test_without_acks_the_offset_is_known_before_the_sync() -> None:
    bench, partition = Bench(linger_ms=0, acks=0), StubPartition()
    future = bench.put(partition)
    seen: list[int] = []
    partition.on_sync = lambda: seen.append(future.result(0).offset)
    partition.sync_answers = [DurabilityUnknownError("io", errno.EIO)]
    bench.run()
    assert seen == [0]
    assert future.exception() is None


def test_failed_sync_leaves_the_durability_of_all_it_was_for_unknown() -> None:
    bench, partition = Bench(linger_ms=0, batch_size=100), StubPartition()
    error = DurabilityUnknownError("io", errno.EIO, 0, 6)
    partition.sync_answers = [error]
    futures = [bench.put(partition, b"x" * 20) for _ in range(6)]
    bench.run()
    assert [future.exception() for future in futures] == [error] * 6


def test_error_that_no_retry_mends_fails_at_once() -> None:
    bench, partition = Bench(linger_ms=0), StubPartition()
    partition.answers = [PartitionFailedError("failed"), None]
    failed = bench.put(partition)
    bench.run()
    with pytest.raises(PartitionFailedError):
        failed.result()
    later = bench.put(partition)
    bench.run()
    assert later.result().offset == 0


def test_one_partition_that_fails_does_not_hold_up_another() -> None:
    bench, bad, good = Bench(linger_ms=0), StubPartition(), StubPartition(number=1)
    bad.answers = [PartitionFailedError("failed")]
    futures = [bench.put(bad), bench.put(good)]
    bench.run()
    assert isinstance(futures[0].exception(), PartitionFailedError)
    assert futures[1].result().partition == 1


# ---------------------------------------------------------------- retries


def test_full_partition_is_tried_again_after_a_pause() -> None:
    bench, partition = Bench(linger_ms=0, retry_backoff_ms=100), StubPartition()
    partition.answers = [full(), full()]
    future = bench.put(partition)
    assert bench.run() == 1
    assert bench.run() == 0
    for _ in range(2):
        bench.now += 0.1
        assert bench.run() == 1
    assert future.result().offset == 0


def test_what_comes_meanwhile_waits_behind_what_is_tried_again() -> None:
    bench, partition = Bench(linger_ms=0), StubPartition()
    partition.answers = [full()]
    first = bench.put(partition, b"first")
    bench.run()
    second = bench.put(partition, b"second")
    assert bench.run() == 0
    bench.now += 1
    assert bench.run() == 2
    assert (first.result().offset, second.result().offset) == (0, 1)


def test_delivery_times_out_with_its_cause() -> None:
    bench, partition = Bench(linger_ms=0, delivery_timeout_ms=950), StubPartition()
    partition.answers = [full() for _ in range(100)]
    future = bench.put(partition)
    rounds = 0
    while not future.done():
        bench.now += 0.1
        bench.run()
        rounds += 1
        assert rounds < 20
    with pytest.raises(DeliveryTimeoutError) as caught:
        future.result()
    assert rounds == 10
    assert isinstance(caught.value.__cause__, PartitionFullError)
    assert partition.batches == []


def test_batch_whose_time_is_over_before_its_first_try_is_not_sent() -> None:
    bench, partition = Bench(linger_ms=0, delivery_timeout_ms=1000), StubPartition()
    future = bench.put(partition)
    bench.now += 1.5
    bench.run()
    assert isinstance(future.exception(), DeliveryTimeoutError)
    assert partition.batches == []


def test_order_and_outcome_hold_over_random_answers() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    bench = Bench(linger_ms=5, batch_size=150, delivery_timeout_ms=2000)
    partitions = [StubPartition(number=number) for number in range(3)]
    sent: list[list[tuple[int, SendFuture]]] = [[] for _ in partitions]
    for turn in range(2000):
        number = chance.randrange(3)
        partition = partitions[number]
        if chance.random() < 0.2:
            partition.answers.append(chance.choice([full(), full(), PartitionFailedError("x")]))
        sent[number].append((turn, bench.put(partition, b"%06d" % turn)))
        if chance.random() < 0.3:
            bench.now += chance.random() * 0.2
            bench.run()
    for partition in partitions:
        partition.answers.clear()
    bench.accumulator.flush_begin()
    bench.now += 0.2
    bench.run()
    delivered = 0
    for number, partition in enumerate(partitions):
        assert all(future.done() for _, future in sent[number])
        good = [(turn, f.result().offset) for turn, f in sent[number] if f.exception() is None]
        # Without losses among what was acknowledged, in order, and nothing else was appended.
        assert [offset for _, offset in good] == list(range(partition.end))
        stored = b"".join(partition.batches)
        assert [turn for turn, _ in good] == sorted(turn for turn, _ in good)
        places = [stored.index(b"%06d" % turn) for turn, _ in good]
        assert places == sorted(places)
        delivered += len(good)
    assert 500 < delivered < 2000
    assert bench.accumulator.used == 0


# ---------------------------------------------------------------- memory


def test_send_that_finds_no_memory_fails_after_max_block_ms() -> None:
    bench = Bench(linger_ms=1000, batch_size=100, buffer_memory=250, max_block_ms=0)
    partitions = [StubPartition(number=number) for number in range(3)]
    bench.put(partitions[0])
    bench.put(partitions[1])
    with pytest.raises(BufferExhaustedError) as caught:
        bench.put(partitions[2])
    assert (caught.value.used, caught.value.max_block_ms) == (200, 0)
    bench.accumulator.flush_begin()
    assert bench.run() == 2
    bench.put(partitions[2])


def test_blocked_send_goes_on_when_memory_is_given_back() -> None:
    bench = Bench(linger_ms=100_000, batch_size=100, buffer_memory=100)
    first, second = StubPartition(), StubPartition(number=1)
    bench.put(first)
    future: list[SendFuture] = []
    sending = in_thread(lambda: future.append(bench.put(second)))
    wait_until(lambda: bench.accumulator.waiting == 1)
    # What lingers goes now: nobody else can make room.
    assert bench.run() == 1
    sending.join()
    assert len(future) == 1


def test_one_record_may_be_larger_than_all_memory() -> None:
    bench, partition = Bench(linger_ms=0, batch_size=100, buffer_memory=100), StubPartition()
    future = bench.put(partition, b"x" * 5000)
    bench.run()
    assert future.result().offset == 0
    assert bench.accumulator.used == 0


# ---------------------------------------------------------------- the end


def test_nothing_is_taken_after_the_end() -> None:
    bench, partition = Bench(), StubPartition()
    future = bench.put(partition)
    bench.accumulator.close()
    with pytest.raises(ClosedError):
        bench.put(partition)
    assert bench.run() == 1
    assert future.done()


def test_blocked_send_ends_when_the_producer_is_closed() -> None:
    bench = Bench(batch_size=100, buffer_memory=100)
    first, second = StubPartition(), StubPartition(number=1)
    bench.put(first)
    caught: list[BaseException] = []

    def send() -> None:
        try:
            bench.put(second)
        except ClosedError as error:
            caught.append(error)

    sending = in_thread(send)
    wait_until(lambda: bench.accumulator.waiting == 1)
    bench.accumulator.close()
    sending.join()
    assert len(caught) == 1


def test_abort_takes_back_what_nobody_sends() -> None:
    bench, partition = Bench(linger_ms=0), StubPartition()
    partition.answers = [full()]
    resting = bench.put(partition)
    bench.run()
    lingering = bench.put(StubPartition(number=1))
    taken = bench.accumulator.abort()
    assert {id(batch) for batch in taken} == {id(resting._batch), id(lingering._batch)}
    bench.now += 10
    assert bench.run() == 0
    assert bench.accumulator.wait_for_due() is None


def test_a_bug_fails_all_futures_and_is_not_hidden() -> None:
    bench, partition = Bench(linger_ms=0, batch_size=100), StubPartition()
    partition.answers = [ZeroDivisionError()]
    futures = [bench.put(partition, b"x" * 20) for _ in range(6)]
    with pytest.raises(ZeroDivisionError):
        bench.run()
    assert all(isinstance(future.exception(), ZeroDivisionError) for future in futures)


# ---------------------------------------------------------------- what comes between


def test_value_that_grows_while_it_is_sent_is_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, partition = Bench(linger_ms=0, batch_size=200), StubPartition()
    value = bytearray(b"x" * 100)

    def grow_after(*given: Any) -> int:
        size = batch_size(*given)
        value.extend(b"y" * 200 * (len(value) == 100))
        return size

    monkeypatch.setattr(accumulator, "batch_size", grow_after)
    given = Given(value, None, None, None)  # type: ignore[arg-type]
    place: Any = partition
    future, _ = bench.accumulator.append(place, given)
    bench.run()
    assert future.result().offset == 0
    assert len(partition.batches[0]) > 300


def interrupted_at(turn: int, function: Callable[[], object]) -> bool:
    """Call a function; raise KeyboardInterrupt before the line number `turn` of the accumulator."""
    left = [turn]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != accumulator.__file__:
            return None
        left[0] -= event == "line"
        if left[0] < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("sent_before", [0, 1, 2])
@pytest.mark.parametrize("action", ["send", "flush"])
def test_interrupt_anywhere_leaves_nothing_that_is_never_sent(
    sent_before: int, action: str
) -> None:
    for turn in itertools.count():
        bench, partition = Bench(linger_ms=5, batch_size=200), StubPartition()
        futures = [bench.put(partition, b"x" * 50) for _ in range(sent_before)]
        act: Callable[[], object] = bench.accumulator.flush_begin
        if action == "send":
            act = functools.partial(bench.put, partition, b"x" * 60)
        was_interrupted = interrupted_at(turn, act)
        futures.append(bench.put(partition, b"x" * 50))
        for _ in range(3):
            bench.now += 1
            bench.run()
        assert [future.done() for future in futures] == [True] * len(futures)
        assert bench.accumulator.used == 0
        assert bench.accumulator.flush_begin() == []
        if not was_interrupted:
            break
    assert turn > 5


def test_threads_that_wait_for_records_of_the_same_batches_do_not_wait_for_each_other() -> None:
    bench, places = Bench(linger_ms=1000), [StubPartition(), StubPartition(number=1)]
    futures = [bench.put(place) for _ in range(50) for place in places]
    first, second = (sorted(futures[place::2], key=id) for place in (0, 1))
    # In the order of addresses, in which locks are taken, each begins with another batch.
    pairs = [(first[0], second[-1]), (second[0], first[-1])]

    def wait_often(pair: tuple[SendFuture, SendFuture]) -> None:
        for _ in range(2000):
            concurrent.futures.wait(pair, timeout=0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [in_thread(functools.partial(wait_often, pair)) for pair in pairs]
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not any(thread.is_alive() for thread in threads)
