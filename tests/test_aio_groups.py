"""Members of groups in event loops: listeners run in the loop, and nothing waits there."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path

import pytest
from asyncs import append, numbered, offsets, until, waiting, with_log

from pylog import OffsetAndMetadata, TopicPartition, aio
from pylog.aio.calls import THREADS
from pylog.errors import ConcurrentUseError, FencedInstanceIdError, InvalidConfigurationError


async def settled(members: list[aio.Consumer], partitions: int) -> list[list[int]]:
    """Let members ask until all partitions have an owner; return who has which."""
    while True:
        for member in members:
            assert not await member.poll(0)
        shares = [sorted(one.partition for one in await member.assignment()) for member in members]
        if sum(map(len, shares)) == partitions:
            return shares


def test_members_share_partitions_and_commit_where_they_go_on(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", partitions=4)
        async with log.consumer("t", group="g") as first:
            assert await settled([first], 4) == [[0, 1, 2, 3]]
            async with log.consumer("t", group="g") as second:
                shares = await settled([first, second], 4)
                assert [len(share) for share in shares] == [2, 2]
                for number in range(4):
                    await append(topic, 2, number)
                records = [*await first.poll(), *await second.poll()]
                assert len(records) == 8
                (await second.committed()) and await second.commit()
            assert await settled([first], 4) == [[0, 1, 2, 3]]
            committed = (await log.groups.describe("g")).offsets
            assert len(committed) >= 2
        async with log.consumer("t", group="g") as third:
            left = [one async for one in third.records(timeout=0)]
            # What the first one got last was not done, for it did not ask again before its end.
            assert {one.partition for one in left} <= set(shares[0])
            assert (await log.groups.list())[0].group == "g"

    with_log(tmp_path, main)


def test_what_is_done_is_committed_while_nothing_comes(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=3)
        async with log.consumer("t", group="g", auto_commit_interval_ms=1) as consumer:
            assert len(await consumer.poll()) == 3
            polled = asyncio.create_task(consumer.poll())
            one = TopicPartition("t", 0)
            while (found := (await consumer.committed())[one]) is None or found.offset != 3:
                await asyncio.sleep(0.001)
            assert not polled.done()
            polled.cancel()

    with_log(tmp_path, main)


def test_commits_are_those_of_the_consumer_for_threads(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=3)
        async with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            async for record in consumer:
                await consumer.commit(record, metadata="two")
                if record.offset == 1:
                    break
            one = TopicPartition("t", 0)
            found = await consumer.committed(one)
            assert found == {one: OffsetAndMetadata(2, "two", found[one].leader_epoch)}
            await consumer.commit({("t", 0): 1})
            assert (await consumer.committed())[one] == OffsetAndMetadata(1)
            assert await consumer.position("t", 0) == 2
            assert await consumer.lag() == {one: 1}

    with_log(tmp_path, main)


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_listeners_run_in_the_loop_and_may_commit_and_seek(tmp_path: Path, kind: str) -> None:
    calls: list[tuple[str, int]] = []

    async def main(log: aio.Log) -> None:
        await numbered(log, "t", partitions=2, records=5)
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        consumers: list[aio.Consumer] = []

        def note(name: str, partitions: set[TopicPartition]) -> None:
            assert asyncio.get_running_loop() is loop and threading.get_ident() == thread
            calls.append((name, len(partitions)))

        async def assigned(partitions: set[TopicPartition]) -> None:
            note("assigned", partitions)
            (consumer,) = consumers
            for one in partitions:
                await consumer.seek(*one, offset=3)
            for use in (consumer.poll, consumer.close, consumer.unsubscribe):
                with pytest.raises(ConcurrentUseError):
                    await use()  # type: ignore[operator]

        async def revoked(partitions: set[TopicPartition]) -> None:
            await asyncio.sleep(0.001)
            note("revoked", partitions)
            with pytest.raises(ConcurrentUseError):
                await consumers[0].poll()
            await consumers[0].commit({("t", 0): 1})

        consumer = await log.consumer(group="g")
        consumers.append(consumer)
        if kind == "coroutine":
            await consumer.subscribe("t", on_assigned=assigned, on_revoked=revoked)
        else:
            await consumer.subscribe(
                "t",
                on_assigned=lambda partitions: note("assigned", partitions),
                on_revoked=lambda partitions: note("revoked", partitions),
            )
        records = await consumer.poll()
        assert {one.offset for one in records} == ({3, 4} if kind == "coroutine" else {*range(5)})
        assert calls == [("assigned", 2)]
        await consumer.close()
        assert calls == [("assigned", 2), ("revoked", 2)]
        if kind == "coroutine":
            offsets = (await log.groups.describe("g")).offsets
            assert offsets[TopicPartition("t", 0)].committed == OffsetAndMetadata(1)

    with_log(tmp_path, main)


def test_the_end_of_the_log_tells_listeners_and_commits_what_is_done(tmp_path: Path) -> None:
    told: list[int] = []

    async def main() -> None:
        async with aio.open(tmp_path) as log:
            topic = await numbered(log, "t", records=3)
            consumer = await log.consumer(
                "t", group="g", on_revoked=lambda partitions: told.append(len(partitions))
            )
            assert offsets(await consumer.poll()) == [0, 1, 2]
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            await append(topic, 2)  # these are read in the loop
            assert offsets(await polled) == [3, 4]
        assert told == [1]
        async with aio.open(tmp_path) as log:
            found = (await log.groups.describe("g")).offsets[TopicPartition("t", 0)]
            assert found.committed is not None and found.committed.offset == 3

    asyncio.run(main())


def test_who_chooses_partitions_commits_while_nothing_comes(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=3)
        async with log.consumer(group="g", auto_commit_interval_ms=1) as consumer:
            await consumer.assign([("t", 0)])
            assert len(await consumer.poll()) == 3
            polled = asyncio.create_task(consumer.poll())
            place = TopicPartition("t", 0)
            while (found := (await consumer.committed())[place]) is None or found.offset != 3:
                await asyncio.sleep(0.001)
            assert not polled.done()
            polled.cancel()

    with_log(tmp_path, main)


def test_tasks_that_a_listener_began_take_their_turn(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=2)
        tasks: list[asyncio.Task[None]] = []

        async def late() -> None:
            for _ in range(20):
                await consumer.commit({("t", 0): 0})

        async def assigned(partitions: set[TopicPartition]) -> None:
            tasks.append(asyncio.create_task(late()))
            await asyncio.sleep(0)

        consumer = await log.consumer("t", group="g", on_assigned=assigned)
        assert offsets(await consumer.poll()) == [0, 1]
        await asyncio.gather(*tasks)
        assert len(tasks) == 1
        await consumer.close()

    with_log(tmp_path, main)


def test_what_a_listener_raises_is_raised_by_poll(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", records=1)

        async def assigned(partitions: set[TopicPartition]) -> None:
            raise LookupError("no room")

        async with log.consumer("t", group="g", on_assigned=assigned) as consumer:
            with pytest.raises(LookupError, match="no room"):
                await consumer.poll()
            assert offsets(await consumer.poll()) == [0]
        with pytest.raises(InvalidConfigurationError):
            await log.consumer("t", on_assigned=assigned)
        assert topic.name == "t"

    with_log(tmp_path, main)


def test_many_listeners_at_once_may_await_the_log(tmp_path: Path) -> None:
    """More than there are threads for consumers, which stay in their listeners."""

    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=1)
        notes = await log.create_topic("notes", durability="os")

        async def note(partitions: set[TopicPartition]) -> None:
            await notes.append(b"told")

        consumers = [
            await log.consumer("t", group=f"g{turn}", on_assigned=note, on_revoked=note)
            for turn in range(THREADS + 2)
        ]
        polled = await asyncio.gather(*(consumer.poll() for consumer in consumers))
        assert [offsets(records) for records in polled] == [[0]] * len(consumers)
        await asyncio.gather(*(consumer.close() for consumer in consumers))
        assert notes.sync.partition(0).high_watermark == 2 * len(consumers)

    with_log(tmp_path, main)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_listener_may_take_its_time(tmp_path: Path, is_cancelled: bool) -> None:
    """Others run meanwhile; and who is cancelled meanwhile leaves it to end as it likes."""

    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=2)
        has_begun, may_end, has_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def assigned(partitions: set[TopicPartition]) -> None:
            has_begun.set()
            await may_end.wait()
            has_ended.set()

        async with (
            log.consumer("t", group="g", on_assigned=assigned) as consumer,
            log.consumer("t") as other,
        ):
            polled = asyncio.create_task(consumer.poll())
            await has_begun.wait()
            assert len(await other.poll()) == 2
            committing = asyncio.create_task(consumer.commit())
            await asyncio.sleep(0)
            if is_cancelled:
                polled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await polled
            assert not committing.done()
            may_end.set()
            await committing
            assert has_ended.is_set()
            records = await (consumer.poll() if is_cancelled else polled)
            assert offsets(records) == [0, 1]

    with_log(tmp_path, main)


def test_who_waits_is_no_member_that_hangs(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", partitions=2)
        async with (
            log.consumer("t", group="g", max_poll_interval_ms=300) as waiter,
            log.consumer("t", group="g", max_poll_interval_ms=300) as sleeper,
        ):
            await settled([waiter, sleeper], 2)
            polled = asyncio.create_task(waiter.poll())
            # The other one does not ask: its partition comes to who waits.
            while len(await waiter.assignment()) < 2:
                await asyncio.sleep(0.01)
            assert not polled.done()
            for number in range(2):
                await append(topic, 1, number)
            count = len(await polled)
            while count < 2:
                count += len(await waiter.poll())
            assert count == 2

    with_log(tmp_path, main)


def test_a_member_that_was_dropped_joins_again_when_it_asks(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", records=1)
        async with log.consumer("t", group="g") as consumer:
            assert offsets(await consumer.poll()) == [0]
            await consumer.commit()
            for is_waiting in (False, True):
                (member,) = (await log.groups.describe("g")).members
                polled = asyncio.create_task(consumer.poll()) if is_waiting else None
                if is_waiting:
                    await waiting(log)
                await log.groups.remove_members("g", [member.member_id])
                await append(topic, 1)
                assert len(await (polled or consumer.poll())) == 1
                await consumer.commit()

    with_log(tmp_path, main)


def test_static_members_are_fenced_while_they_wait(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t")
        consumer = await log.consumer("t", group="g", instance_id="one")
        polled = asyncio.create_task(consumer.poll())
        await waiting(log)
        async with log.consumer("t", group="g", instance_id="one") as other:
            with pytest.raises(FencedInstanceIdError):
                await polled
            assert not await other.poll(0)

    with_log(tmp_path, main)


def test_a_member_that_nobody_holds_any_more_leaves_its_partitions(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        await numbered(log, "t", records=1)
        consumer: aio.Consumer | None = await log.consumer("t", group="g")
        assert consumer is not None
        assert len(await consumer.poll()) == 1
        core, consumer = weakref.ref(consumer._core), None

        def is_gone() -> bool:
            gc.collect()  # a thread may have held on to it until now
            return core() is None

        await until(is_gone)
        async with log.consumer("t", group="g") as other:
            assert offsets(await other.poll()) == [0]

    with_log(tmp_path, main)


def test_many_members_in_one_loop_rebalance(tmp_path: Path) -> None:
    count = 60

    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", partitions=count)
        await (await log.consumer("t", group="first")).close()
        await log.alter_topic("__consumer_offsets", durability="os")
        members = [await log.consumer("t", group="g") for _ in range(count)]
        seen: set[tuple[int, int]] = set()

        async def work(member: aio.Consumer) -> None:
            async for record in member:
                assert (record.partition, record.offset) not in seen
                seen.add((record.partition, record.offset))

        tasks = [asyncio.create_task(work(member)) for member in members]
        for _ in range(2):
            for number in range(count):
                await append(topic, 1, number)
        await until(lambda: len(seen) == 2 * count)
        for task in tasks:
            task.cancel()

    with_log(tmp_path, main)
