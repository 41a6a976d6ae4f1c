"""Consumers for asyncio: they wait without a thread, and no cancellation loses a record."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from asyncs import append, numbered, offsets, until, waiting, watchers, with_log
from conftest import IS_EXHAUSTIVE

import pylog
from pylog import Record, TopicPartition, aio
from pylog.aio import watch
from pylog.aio.prompt import Outlook
from pylog.errors import (
    ClosedError,
    ConcurrentUseError,
    NotAssignedError,
    UnknownTopicOrPartitionError,
    WakeupError,
)


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody be found by a look that comes anyway, a second later."""
    monkeypatch.setattr(watch, "LOOK_AGAIN_SECONDS", 10_000)


# ---------------------------------------------------------------- records


def test_poll_returns_what_is_there_and_waits_for_more(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", records=7)
        async with log.consumer("t") as consumer:
            assert offsets(await consumer.poll(max_records=5)) == [0, 1, 2, 3, 4]
            assert offsets(await consumer.poll(0)) == [5, 6]
            assert await consumer.poll(0) == await consumer.poll(0.01) == []
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            await append(topic, 2)
            assert offsets(await polled) == [7, 8]
            with pytest.raises(ValueError, match="max_records"):
                await consumer.poll(0, 0)

    with_log(tmp_path, main)


def test_loops_follow_and_end_after_their_time(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", records=3000)
        async with log.consumer("t") as consumer:
            assert offsets([one async for one in consumer.records(timeout=0)]) == [*range(3000)]
            await consumer.seek_to_beginning()
            lists = [len(some) async for some in consumer.batches(999, timeout=0)]
            assert lists == [999, 999, 999, 3]

            async def follow() -> list[Record]:
                found: list[Record] = []
                async for record in consumer:
                    found.append(record)
                    if len(found) == 20:
                        break
                return found

            followed = asyncio.create_task(follow())
            for _ in range(4):
                await waiting(log)
                await append(topic, 5)
            assert offsets(await followed) == [*range(3000, 3020)]

    with_log(tmp_path, main)


def test_who_always_finds_records_lets_other_tasks_run(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=2000)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(count())
        async with log.consumer("t") as consumer:
            for _ in range(20):
                before = turns
                assert len(await consumer.poll(max_records=100)) == 100
                assert turns > before
        other.cancel()

    with_log(tmp_path, main)


def test_what_is_sought_or_resumed_meanwhile_ends_a_wait(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=3)
        async with log.consumer("t") as consumer:
            assert len(await consumer.poll()) == 3
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            await consumer.seek("t", 0, offset=1)
            assert offsets(await polled) == [1, 2]
            await consumer.pause()
            await consumer.seek_to_beginning()
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            assert await consumer.paused() == {TopicPartition("t", 0)}
            await consumer.resume()
            assert len(await polled) == 3

    with_log(tmp_path, main)


def test_two_tasks_cannot_ask_at_once(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        async with log.consumer("t") as consumer:
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            with pytest.raises(ConcurrentUseError):
                await consumer.poll(0)
            with pytest.raises(ConcurrentUseError):
                await anext(consumer.records(0))
            await append(topic, 1)
            assert len(await polled) == 1

    with_log(tmp_path, main)


def test_errors_are_those_of_the_consumer_for_threads(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=1)
        with pytest.raises(UnknownTopicOrPartitionError):
            await log.consumer("nowhere")
        consumer = await log.consumer()
        with pytest.raises(NotAssignedError):
            await consumer.poll()
        await consumer.assign([("t", 0)])
        assert await consumer.assignment() == {TopicPartition("t", 0)}
        assert len(await consumer.poll()) == 1
        polled = asyncio.create_task(consumer.poll())
        await waiting(log)
        await log.delete_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await polled
        await consumer.close()
        with pytest.raises(ClosedError):
            await consumer.poll()

    with_log(tmp_path, main)


def test_another_loop_is_told_so(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=1)
        consumer = await log.consumer("t")

        def elsewhere() -> None:
            for use in (consumer.poll, consumer.commit, log.topics, log.close, consumer.close):
                with pytest.raises(RuntimeError, match="another event loop"):
                    asyncio.run(use())  # type: ignore[operator]

        await asyncio.to_thread(elsewhere)
        assert len(await consumer.poll()) == 1

    async def run() -> None:
        async with aio.open(tmp_path) as log:
            await main(log)

    asyncio.run(run())
    with pylog.open(tmp_path) as sync, pytest.raises(RuntimeError, match="no running event loop"):
        aio.Log(sync)


# ---------------------------------------------------------------- waiting


@pytest.mark.parametrize("count", [500])
def test_many_consumers_wait_with_one_thread(tmp_path: Path, count: int) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        consumers = [await log.consumer("t") for _ in range(count)]
        tasks = [asyncio.create_task(consumer.poll()) for consumer in consumers]
        await waiting(log, count)
        assert len(watchers()) == 1 and threading.active_count() < 20
        await append(topic, 3)
        assert [offsets(records) for records in await asyncio.gather(*tasks)] == [[0, 1, 2]] * count
        assert len(watchers()) == 1 and threading.active_count() < 20

    with_log(tmp_path, main)


def test_two_loops_and_three_logs_share_the_thread(tmp_path: Path) -> None:
    """And a log for threads serves loops in two of them."""
    rounds = 50
    barrier = threading.Barrier(2)
    shared = pylog.open(tmp_path / "shared")
    for name in ("ping", "pong"):
        shared.create_topic(name, durability="os")

    def play(mine: str, other: str) -> None:
        async def main() -> None:
            async with aio.Log(shared) as log, aio.open(tmp_path / mine) as own:
                topic, noise = await log.topic(other), await numbered(own, "noise")
                async with log.consumer(mine) as consumer, own.consumer("noise") as alone:
                    noises = asyncio.create_task(alone.poll())
                    await waiting(own)
                    barrier.wait()
                    assert len(watchers()) == 1
                    for turn in range(rounds):
                        if mine == "pong" or turn:
                            (record,) = await consumer.poll()
                            assert record.offset == turn - (mine == "ping")
                        await topic.append(b"")
                    await append(noise, 1)
                    assert len(await noises) == 1
                    barrier.wait()

        asyncio.run(main())

    pairs = (("ping", "pong"), ("pong", "ping"))
    threads = [threading.Thread(target=play, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not watchers() and not barrier.broken
    assert shared.topic("ping").partition(0).log_end_offset == rounds
    shared.close()


def test_no_event_is_missed_that_came_before_the_wait(tmp_path: Path) -> None:
    """Also by who comes to wait when the thread has seen that event, and waits for the next."""

    async def main(log: aio.Log) -> None:
        room, loop = log._room, asyncio.get_running_loop()
        before = room.events.value
        room.events.notify()
        await room.wait(loop.create_future(), lambda: True, before, None)
        other = asyncio.create_task(
            room.wait(loop.create_future(), lambda: False, room.events.value, None)
        )
        await waiting(log)
        await room.wait(loop.create_future(), lambda: True, before, None)
        other.cancel()
        assert not other.done()

    with_log(tmp_path, main)


def test_wakeup_from_another_thread_ends_a_wait(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        async with log.consumer("t") as consumer:
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            threading.Thread(target=consumer.wakeup).start()
            with pytest.raises(WakeupError):
                await polled
            await append(topic, 1)
            assert len(await consumer.poll()) == 1

    with_log(tmp_path, main)


@pytest.mark.parametrize("how", ["consumer", "log", "sync", "thread"])
@pytest.mark.parametrize("group", [None, "g"])
def test_who_waits_is_told_of_the_end(tmp_path: Path, how: str, group: str | None) -> None:
    async def main() -> None:
        log = await aio.open(tmp_path)
        await numbered(log, "t")
        consumer = await log.consumer("t", group=group)
        polled = asyncio.create_task(consumer.poll())
        await waiting(log)
        if how == "consumer":
            await consumer.close()
        elif how == "log":
            await log.close()
        elif how == "sync":
            log.sync.close()
        else:
            await asyncio.to_thread(log.sync.close)
        with pytest.raises(ClosedError):
            await polled
        await log.close()
        await consumer.close()

    asyncio.run(main())
    assert not watchers()


# ---------------------------------------------------------------- cancellation


def test_a_cancelled_wait_leaves_the_consumer_usable(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        async with log.consumer("t", group="g") as consumer:
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            polled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await polled
            assert not log._room._waiters
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(consumer.poll(), 0.01)
            await append(topic, 1)
            assert offsets(await consumer.poll()) == [0]

    with_log(tmp_path, main)


@pytest.mark.parametrize("group", [None, "g"])
def test_records_that_a_cancelled_poll_took_come_again(tmp_path: Path, group: str | None) -> None:
    """Cancelled while the thread is at it, and when it is done but the task has not run yet."""

    async def main(log: aio.Log) -> None:
        await numbered(log, "t", partitions=2, records=3)
        async with log.consumer("t", group=group) as consumer:
            core, loop = consumer._core, asyncio.get_running_loop()
            poll, is_taken, may_return = core.poll, threading.Event(), threading.Event()

            def held(*arguments: Any) -> list[Record]:
                records = poll(*arguments)
                is_taken.set()
                may_return.wait()
                return records

            core.poll = held  # type: ignore[method-assign]
            polled = asyncio.create_task(consumer.poll(max_records=4))
            await until(is_taken.is_set)
            polled.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await polled
            assert "goes on" in caught.value.__notes__[0]
            core.poll = poll  # type: ignore[method-assign]
            again = asyncio.create_task(consumer.poll(max_records=4))
            may_return.set()
            first = await again
            assert len(first) == 4
            # As if the loop was busy: what the thread brought and the cancellation come together.
            await consumer.seek_to_beginning()
            core.outlook = lambda: Outlook.WORK  # type: ignore[method-assign]
            core.poll = held  # type: ignore[method-assign]
            is_taken.clear()
            may_return.clear()
            polled = asyncio.create_task(consumer.poll(max_records=5))
            await until(is_taken.is_set)
            (work,) = consumer._calls._under_way
            is_told = threading.Event()
            work.add_done_callback(lambda _: is_told.set())
            may_return.set()
            is_told.wait()
            loop.call_soon(polled.cancel)
            with pytest.raises(asyncio.CancelledError):
                await polled
            places = {(one.partition, one.offset) for one in await consumer.poll()}
            assert places == {(number, offset) for number in range(2) for offset in range(3)}

    with_log(tmp_path, main)


async def take_with_cancellations(
    log: aio.Log, consumer: aio.Consumer, seed: int, total: int
) -> dict[int, list[int]]:
    """Ask in one way after the other, and cancel at any await; return the offsets that came."""
    pick = random.Random(seed)
    topic = await log.topic("t")
    found: dict[int, list[int]] = defaultdict(list)
    count = appended = 0

    async def poll() -> None:
        for _ in range(pick.randrange(1, 4)):
            # No await between what is returned and what is noted.
            note(await consumer.poll(pick.choice([None, 0, 0.001]), pick.randrange(1, 9)))

    async def loop() -> None:
        async for record in consumer.records(pick.choice([None, 0])):
            note([record])
            if pick.randrange(6) == 0:
                await asyncio.sleep(0)

    async def other() -> None:
        if pick.randrange(2):
            await consumer.lag()
        elif consumer._core.config.group is not None:
            await consumer.commit()

    def note(records: list[Record]) -> None:
        nonlocal count
        for record in records:
            found[record.partition].append(record.offset)
            count += 1

    while count < total:
        if appended < total and pick.randrange(3):
            some = min(pick.randrange(1, 20), total - appended)
            appended += some
            values = [b""] * some
            topic.sync.append_many(values, partition=pick.randrange(3))
        tasks = [asyncio.create_task(pick.choice([poll, loop])())]
        if pick.randrange(3) == 0:
            tasks.append(asyncio.create_task(other()))
        turns = pick.choice([0, 1, 2, 3, pick.randrange(40)])
        for _ in range(turns):
            await asyncio.sleep(0)
        if pick.randrange(4) == 0:
            await asyncio.sleep(pick.random() / 500)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            assert result is None or isinstance(result, asyncio.CancelledError), (seed, result)
    return found


@pytest.mark.parametrize("group", [None, "g"])
def test_cancelled_at_any_await_every_record_comes_once_and_in_order(
    tmp_path: Path, group: str | None
) -> None:
    total = 400

    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", partitions=3)
        if group is not None:
            await (await log.consumer("t", group="first")).close()
            await log.alter_topic("__consumer_offsets", durability="os")
        for turn in range(100 if IS_EXHAUSTIVE else 3):
            seed = random.randrange(2**32)
            print("seed", seed)
            ends = [partition.log_end_offset for partition in topic.sync.partitions]
            async with log.consumer(
                "t",
                group=None if group is None else f"{group}-{turn}",
                auto_offset_reset="latest",
                auto_commit_interval_ms=1,
            ) as consumer:
                await consumer.poll(0)  # it begins here
                found = await take_with_cancellations(log, consumer, seed, total)
            for partition in topic.sync.partitions:
                expected = [*range(ends[partition.number], partition.log_end_offset)]
                assert found[partition.number] == expected, seed

    with_log(tmp_path, main)
