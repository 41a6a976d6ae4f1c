"""Producers on a real log: futures, batches, threads, the end, and forks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_files import CountingFiles
from processes import children
from tail_memory import NewThreads, run_threads, tiny_switch_interval, wait_until

import pylog
from pylog import Log, ProducerConfig, SendFuture
from pylog.codecs import NUMBERS
from pylog.engine.engine import Engine
from pylog.errors import (
    ClosedError,
    DeliveryTimeoutError,
    InvalidConfigurationError,
    InvalidRecordError,
    InvalidTimestampError,
    MissingExtraError,
    RecordTooLargeError,
    UnknownTopicOrPartitionError,
)
from pylog.storage.files import OsFiles


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with pylog.open(tmp_path) as log:
        log.create_topic("t", partitions=3, durability="os")
        yield log


def stored(log: Log, number: int) -> list[bytes | None]:
    return [record.value for record in log.topic("t").partition(number).records()]


# ---------------------------------------------------------------- sending


def test_records_arrive_with_all_their_parts(log: Log) -> None:
    with log.producer() as producer:
        headers = [("trace", b"1"), ("none", None)]
        future = producer.send("t", b"value", b"key", headers, 1234)
        tombstone = producer.send("t", None, b"key", partition=2)
    meta = future.result()
    [record] = [r for r in log.read("t") if r.value == b"value"]
    assert (record.partition, record.offset) == (meta.partition, meta.offset)
    assert (record.key, record.timestamp, record.headers) == (b"key", 1234, tuple(headers))
    assert meta.timestamp == 1234
    assert tombstone.result().partition == 2
    assert log.topic("t").append(b"x", b"key").partition == meta.partition


def test_records_are_batched(log: Log) -> None:
    with log.producer(linger_ms=10_000) as producer:
        for turn in range(100):
            producer.send("t", b"%d" % turn, partition=0)
    partition = log.topic("t").partition(0)
    assert [batch["count"] for batch in headers_of(partition)] == [100]


def headers_of(partition: pylog.Partition) -> list[dict[str, int]]:
    path = Path(partition._directory.path)
    data = b"".join(file.read_bytes() for file in sorted(path.glob("*.log")))
    return pylog._native.batch_headers(data)


def test_records_without_a_key_fill_one_batch_before_the_next_partition(log: Log) -> None:
    with log.producer(linger_ms=10_000, batch_size=1000) as producer:
        futures = [producer.send("t", b"x" * 90) for _ in range(60)]
    numbers = [future.result().partition for future in futures]
    assert set(numbers) == {0, 1, 2}
    changes = sum(a != b for a, b in itertools.pairwise(numbers))
    assert changes <= 8


def test_log_append_time_is_what_futures_tell(log: Log) -> None:
    log.create_topic("u", durability="os", message_timestamp_type="LogAppendTime")
    with log.producer(linger_ms=60_000) as producer:
        futures = [producer.send("u", b"x", timestamp=stamp) for stamp in (5, 2**62)]
    [timestamp] = {record.timestamp for record in log.read("u")}
    assert timestamp > 1_700_000_000_000
    assert {future.result().timestamp for future in futures} == {timestamp}


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_batches_are_compressed_as_the_topic_allows(log: Log, compression: Any) -> None:
    log.create_topic("plain", durability="os", compression_type="uncompressed")
    try:
        ProducerConfig(compression=compression)
    except MissingExtraError as error:
        pytest.skip(str(error))
    with log.producer(linger_ms=60_000, compression=compression) as producer:
        for topic in ("t", "plain"):
            for turn in range(50):
                producer.send(topic, b"value %d " % turn * 5, partition=0)
    [squeezed] = headers_of(log.topic("t").partition(0))
    [plain] = headers_of(log.topic("plain").partition(0))
    assert (squeezed["attributes"] & 7, plain["attributes"] & 7) == (NUMBERS[compression], 0)
    assert squeezed["size"] < plain["size"] / 2
    expected = [b"value %d " % turn * 5 for turn in range(50)]
    assert [record.value for record in log.read("t")] == expected


def test_bytes_are_copied_when_they_are_sent(log: Log) -> None:
    value, key = bytearray(b"value"), bytearray(b"key")
    with log.producer() as producer:
        producer.send("t", value, key, partition=0)  # type: ignore[arg-type]
        value[:] = b"wrong"
        key[:] = b"bad"
    [record] = log.read("t")
    assert (record.value, record.key) == (b"value", b"key")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"value": "text"}, TypeError),
        ({"value": b"", "key": 5}, TypeError),
        ({"value": b"", "headers": [("a",)]}, TypeError),
        ({"value": b"", "timestamp": "now"}, TypeError),
        ({"value": b"", "timestamp": -1}, InvalidRecordError),
        ({"value": b"", "timestamp": 2**64}, InvalidTimestampError),
        ({"value": b"", "timestamp": 2**62}, InvalidTimestampError),
        ({"value": b"", "partition": 3}, UnknownTopicOrPartitionError),
        ({"value": b"", "partition": -1}, UnknownTopicOrPartitionError),
        ({"value": b"", "partition": "0"}, TypeError),
        ({"value": b"x" * (1 << 21)}, RecordTooLargeError),
        ({"value": b"", "topic": "u"}, UnknownTopicOrPartitionError),
    ],
)
def test_wrong_argument_is_refused_by_send_itself(
    log: Log, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with log.producer() as producer:
        for _ in range(2):
            with pytest.raises(error):
                producer.send(**({"topic": "t"} | arguments))
            producer.send("t", b"good", partition=0)
    assert [record.value for record in log.read("t")] == [b"good", b"good"]


@pytest.mark.parametrize(
    "settings",
    [
        {"acks": 2},
        {"acks": True},
        {"acks": "none"},
        {"linger_ms": -1},
        {"linger_ms": 0.5},
        {"batch_size": 60},
        {"batch_size": True},
        {"buffer_memory": 1000},
        {"max_block_ms": None},
        {"delivery_timeout_ms": 4},
        {"compression": "lzma"},
        {"compression_level": 3},
        {"compression": "lz4", "compression_level": 18},
        {"compression": "gzip", "compression_level": -2},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        ProducerConfig(**settings)
    assert caught.value.setting == list(settings)[-1]


def test_partitions_of_a_topic_that_was_made_anew_are_found(log: Log) -> None:
    with log.producer(linger_ms=0) as producer:
        producer.send("t", b"x", partition=2).result()
        log.delete_topic("t")
        log.create_topic("t", partitions=1, durability="os")
        with pytest.raises(UnknownTopicOrPartitionError):
            producer.send("t", b"x", partition=2).result()
        assert producer.send("t", b"y", partition=0).result().offset == 0


def test_topic_that_is_deleted_meanwhile_fails_the_future(log: Log) -> None:
    with log.producer(linger_ms=60_000) as producer:
        future = producer.send("t", b"x", partition=0)
        log.delete_topic("t")
        producer.flush()
        assert isinstance(future.exception(), UnknownTopicOrPartitionError | ClosedError)


def test_one_sync_serves_all_that_is_due_in_a_partition(tmp_path: Path) -> None:
    files = CountingFiles(OsFiles())
    engine = Engine(str(tmp_path), file_system=files)
    engine.open(create=True)
    with Log(engine) as log:
        log.create_topic("t")
        producer = log.producer(linger_ms=60_000, batch_size=1000)
        producer.send("t", b"first")
        producer.flush()
        partition = log.topic("t").partition(0)
        before = files.data_syncs
        # The sender waits with the first batch; all others are due when it has placed that.
        with partition._attachment.page:  # type: ignore[union-attr]
            futures = [producer.send("t", b"x" * 100) for _ in range(100)]
        producer.flush()
        assert all(future.result() for future in futures)
        assert partition.durable_offset == 101
        assert files.data_syncs - before <= 3
        producer.close()


# ---------------------------------------------------------------- futures


def test_future_is_one_of_concurrent_futures(log: Log) -> None:
    with log.producer(linger_ms=1) as producer:
        futures = [producer.send("t", b"%d" % turn) for turn in range(100)]
        done, waiting = concurrent.futures.wait(futures)
        assert (len(done), len(waiting)) == (100, 0)
        more = [producer.send("t", b"%d" % turn) for turn in range(100)]
        assert set(concurrent.futures.as_completed(more)) == set(more)
        assert not futures[0].cancel()
        assert not (futures[0].cancelled() or futures[0].running())


def test_waiting_for_a_future_times_out(log: Log) -> None:
    with log.producer(linger_ms=60_000) as producer:
        future = producer.send("t", b"x")
        assert future.running()
        with pytest.raises(TimeoutError):
            future.result(timeout=0)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout=0.001)
        done, waiting = concurrent.futures.wait([future], timeout=0)
        assert (done, waiting) == (set(), {future})
        assert "pending" in repr(future)
    assert "offset 0" in repr(future)
    assert future.exception() is None


def test_future_can_be_awaited(log: Log) -> None:
    async def send() -> pylog.RecordMetadata:
        return await asyncio.wrap_future(producer.send("t", b"x", partition=1))

    with log.producer(linger_ms=1) as producer:
        assert asyncio.run(send()).partition == 1


def test_callbacks_come_in_the_order_of_the_records(log: Log) -> None:
    seen: list[int] = []

    def note(future: SendFuture) -> None:
        seen.append(future.result().offset)

    with log.producer(linger_ms=1) as producer:
        for _ in range(500):
            producer.send("t", b"x" * 100, partition=0, on_delivery=note)
    assert seen == list(range(500))


def test_callback_of_a_done_future_runs_at_once(log: Log) -> None:
    with log.producer(linger_ms=0) as producer:
        future = producer.send("t", b"x")
        future.result()
        threads: list[threading.Thread] = []
        future.add_done_callback(lambda _: threads.append(threading.current_thread()))
        assert threads == [threading.current_thread()]


def test_what_a_callback_raises_is_logged_and_harms_nobody(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(future: SendFuture) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "pylog"), log.producer(linger_ms=0) as producer:
        producer.send("t", b"x", on_delivery=fail).result()
        assert producer.send("t", b"y").result().offset >= 0
    assert "a callback of" in caplog.text


def test_callback_may_send_and_close(log: Log) -> None:
    ends: list[SendFuture] = []

    def again(future: SendFuture) -> None:
        ends.append(producer.send("t", b"second", partition=1))
        with pytest.raises(RuntimeError):
            producer.flush()
        producer.close()
        closed.set()

    closed = threading.Event()
    producer = log.producer(linger_ms=60_000)
    producer.send("t", b"first", partition=0, on_delivery=again)
    producer.flush()
    producer.close()
    assert closed.wait(0)
    assert ends[0].result().partition == 1


def test_futures_hold_no_batch_memory(log: Log) -> None:
    with log.producer() as producer:
        future = producer.send("t", b"x" * 1000)
    builder = getattr(future._batch, "builder", None)
    assert builder is None


# ---------------------------------------------------------------- threads


def test_threads_send_each_in_order(log: Log) -> None:
    each, threads = 3000, 4
    with tiny_switch_interval(), log.producer(linger_ms=1, batch_size=500) as producer:
        sent: list[list[SendFuture]] = [[] for _ in range(threads)]

        def send(number: int) -> None:
            for turn in range(each):
                sent[number].append(producer.send("t", b"%d %d" % (number, turn), b"%d" % turn))

        run_threads(*[lambda number=number: send(number) for number in range(threads)])
    offsets = {(f.result().partition, f.result().offset) for futures in sent for f in futures}
    assert len(offsets) == each * threads
    for number in range(3):
        values = [(value or b"").split() for value in stored(log, number)]
        for thread in range(threads):
            turns = [int(turn) for who, turn in values if int(who) == thread]
            assert turns == sorted(set(turns))
    assert sum(1 for _ in log.read("t")) == each * threads


def test_back_pressure_loses_nothing(log: Log) -> None:
    with log.producer(batch_size=1000, buffer_memory=3000) as producer:
        futures = [producer.send("t", b"x" * 400, b"%d" % turn) for turn in range(2000)]
    assert all(future.done() for future in futures)
    assert sum(1 for _ in log.read("t")) == 2000


# ---------------------------------------------------------------- the end


def test_close_delivers_and_is_idempotent(log: Log) -> None:
    producer = log.producer(linger_ms=60_000)
    future = producer.send("t", b"x")
    producer.close()
    assert future.done()
    producer.close()
    with pytest.raises(ClosedError):
        producer.send("t", b"y")
    assert "closed" in repr(producer)


def test_flush_waits_for_callbacks(log: Log) -> None:
    is_called, may_return = threading.Event(), threading.Event()

    def on_delivery(future: SendFuture) -> None:
        is_called.set()
        may_return.wait()

    with log.producer() as producer:
        future = producer.send("t", b"x", on_delivery=on_delivery)
        is_called.wait()
        assert future.done()
        assert not producer.flush(timeout=0)
        may_return.set()
        assert producer.flush()


def test_producer_that_never_sent_has_no_thread(log: Log) -> None:
    new_threads = NewThreads()
    with log.producer() as producer:
        assert new_threads() == []
        assert producer.flush()


def test_close_with_a_timeout_fails_what_was_not_begun(log: Log) -> None:
    partition = log.topic("t").partition(0)
    partition.append(b"before")
    producer = log.producer(linger_ms=0)
    with partition._attachment.page:  # type: ignore[union-attr]
        first = producer.send("t", b"held up", partition=0)
        wait_until(lambda: not first._batch.lane.batches)
        second = producer.send("t", b"behind", partition=0)
        assert not producer.flush(timeout=0.001)
        producer.close(timeout=0.001)
        assert isinstance(second.exception(), DeliveryTimeoutError)
        assert not first.done()
    assert first.result().offset == 1
    assert stored(log, 0) == [b"before", b"held up"]


def test_closing_the_log_closes_its_producers(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t")
        producer = log.producer(linger_ms=60_000)
        future = producer.send("t", b"x")
    assert future.result().offset == 0
    with pytest.raises(ClosedError):
        producer.send("t", b"y")


def test_what_was_sent_is_delivered_at_exit(tmp_path: Path) -> None:
    program = f"""
import pylog
log = pylog.open({str(tmp_path)!r})
log.create_topic("t")
producer = log.producer(linger_ms=60_000)
for turn in range(100):
    producer.send("t", b"%d" % turn)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    with pylog.open(tmp_path) as log:
        assert [record.value for record in log.read("t")] == [b"%d" % turn for turn in range(100)]


def test_producer_that_is_dropped_delivers_and_ends(log: Log) -> None:
    producer = log.producer(linger_ms=60_000)
    future = producer.send("t", b"x")
    reference = weakref.ref(producer)
    thread = producer.sender._thread
    assert thread is not None
    del producer
    gc.collect()
    assert reference() is None
    thread.join()
    assert future.result(0).offset == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_empty(log: Log) -> None:
    producer = log.producer(linger_ms=60_000)
    mine = producer.send("t", b"parent", partition=0)

    def work() -> None:
        assert isinstance(mine.exception(), ClosedError)
        assert producer.send("t", b"child", partition=0)
        assert producer.flush()
        producer.close()

    with children() as start:
        start(work).join()
    producer.close()
    assert mine.result().offset == 1
    assert stored(log, 0) == [b"child", b"parent"]
