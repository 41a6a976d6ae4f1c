"""Producers for asyncio: sending never blocks the loop, and every record's fate is known."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from asyncs import numbered, until, with_log

from pylog import SendFuture, aio
from pylog.errors import (
    BufferExhaustedError,
    ClosedError,
    InvalidConfigurationError,
    InvalidRecordError,
    OutOfOrderSequenceError,
    RecordTooLargeError,
    UnknownTopicOrPartitionError,
)


class Held:
    """A topic whose appends by producers wait until they are let go, at the end of a test at last.

    error: what they raise then.
    """

    def __init__(self, topic: aio.Topic) -> None:
        self.is_held, self._may_go_on = threading.Event(), threading.Event()
        self.error: Exception | None = None
        partition = topic.sync.partition(0)
        self._place = partition.place_batch
        partition.place_batch = self._wait  # type: ignore[method-assign, assignment]

    def _wait(self, *arguments: object) -> object:
        self.is_held.set()
        self._may_go_on.wait()
        if self.error is not None:
            raise self.error
        return self._place(*arguments)  # type: ignore[arg-type]

    def let_go(self) -> None:
        self._may_go_on.set()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        self.let_go()


def values(topic: aio.Topic) -> list[bytes | None]:
    return [record.value for record in topic.sync.read()]


def test_futures_tell_where_records_are_in_the_order_sent(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        async with log.producer() as producer:
            sent = [await producer.send("t", b"%d" % number) for number in range(1000)]
            places = await asyncio.gather(*sent)
            assert [place.offset for place in places] == [*range(1000)]
            place = await producer.send_and_wait("t", b"last", b"key", [("h", b"1")], 5)
            assert (place.offset, place.timestamp) == (1000, 5)
        assert values(topic) == [*(b"%d" % number for number in range(1000)), b"last"]

    with_log(tmp_path, main)


def test_what_cannot_be_sent_raises_and_what_fails_later_is_the_futures(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await log.create_topic("t", durability="os", max_message_bytes=200)
        await log.create_topic("k", cleanup_policy="compact")
        async with log.producer() as producer:
            with pytest.raises(UnknownTopicOrPartitionError):
                await producer.send("nowhere", b"")
            with pytest.raises(RecordTooLargeError):
                await producer.send("t", bytes(1000))
            with pytest.raises(InvalidRecordError):
                await producer.send("k", b"without a key")
            with pytest.raises(TypeError):
                await producer.send("t", 5)  # type: ignore[arg-type]
            told: list[SendFuture] = []
            held = Held(await log.topic("t"))
            held.error = OutOfOrderSequenceError(5, 2, 1)
            futures = [await producer.send("t", b"", on_delivery=told.append) for _ in range(2)]
            held.let_go()
            results = await asyncio.gather(*futures, return_exceptions=True)
            assert results == [held.error] * 2 == [one.exception() for one in told]
        with pytest.raises(ClosedError):
            await producer.send("k", b"", b"")
        with pytest.raises(InvalidConfigurationError, match="max_block_ms"):
            await log.producer(max_block_ms=-1)
        with pytest.raises(InvalidConfigurationError, match="linger_ms"):
            await log.producer(linger_ms=-1)

    with_log(tmp_path, main)


def test_who_sends_without_pause_lets_others_run(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t")
        has_run = asyncio.Event()
        async with log.producer() as producer:
            asyncio.get_running_loop().call_soon(has_run.set)
            while not has_run.is_set():
                await producer.send("t", b"")
            assert await producer.flush()

    with_log(tmp_path, main)


def test_a_full_buffer_makes_senders_wait_and_not_the_loop(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        waits = b"waits" * 30
        making = log.producer(batch_size=300, buffer_memory=600, linger_ms=60_000)
        async with making as producer:
            with Held(topic) as held:
                fill = [await producer.send("t", bytes(200)) for _ in range(2)]
                waiting = asyncio.create_task(producer.send("t", waits))
                await until(held.is_held.is_set)
                cancelled = asyncio.create_task(producer.send_and_wait("t", bytes(150)))
                for _ in range(10):
                    await asyncio.sleep(0.001)
                assert not waiting.done() and not fill[0].done()
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await cancelled
                assert caught.value.__notes__ == ["the record was not sent"]
                held.let_go()
                last = await waiting
                assert await producer.flush()
                await asyncio.gather(*fill, last)
        assert values(topic) == [bytes(200), bytes(200), waits]

    with_log(tmp_path, main)


def test_without_room_for_long_enough_nothing_is_sent(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", partitions=2)
        sizes = {"batch_size": 300, "buffer_memory": 300, "linger_ms": 60_000}
        making = log.producer(max_block_ms=20, **sizes)  # type: ignore[arg-type]
        async with making as producer:
            with Held(topic) as held:
                first = await producer.send("t", b"first", partition=0)
                second = asyncio.create_task(producer.send("t", b"second", partition=1))
                await until(held.is_held.is_set)  # what lingered does not any more
                with pytest.raises(BufferExhaustedError, match="max_block_ms=20"):
                    await second
                held.let_go()
                await first
        assert values(topic) == [b"first"]

    with_log(tmp_path, main)


@pytest.mark.parametrize("how", ["send_and_wait", "future", "gather"])
def test_what_was_sent_is_appended_whoever_is_cancelled(tmp_path: Path, how: str) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        told: list[int] = []
        async with log.producer(linger_ms=0) as producer:
            with Held(topic) as held:
                if how == "send_and_wait":
                    task = asyncio.create_task(producer.send_and_wait("t", b"sent"))
                else:
                    future = await producer.send(
                        "t", b"sent", on_delivery=lambda sent: told.append(sent.result().offset)
                    )

                    async def wait() -> None:
                        await (asyncio.gather(future) if how == "gather" else future)

                    task = asyncio.create_task(wait())  # type: ignore[arg-type]
                await until(held.is_held.is_set)
                task.cancel()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                if how == "send_and_wait":
                    assert "was sent" in caught.value.__notes__[0]
                flushed = asyncio.create_task(producer.flush())
                assert not await producer.flush(timeout=0.001)
                assert not flushed.done()
                held.let_go()
                assert await flushed
                assert told == ([] if how == "send_and_wait" else [0])
        assert values(topic) == [b"sent"]

    with_log(tmp_path, main)


def test_the_end_of_the_log_sends_what_is_left(tmp_path: Path) -> None:
    async def main() -> None:
        async with aio.open(tmp_path) as log:
            await numbered(log, "t")
            producer = await log.producer(linger_ms=60_000)
            future = await producer.send("t", b"left")
        assert (await future).offset == 0
        await producer.close()
        async with aio.open(tmp_path) as log:
            assert values(await log.topic("t")) == [b"left"]

    asyncio.run(main())
