"""Logs for asyncio: the same names as for threads, and a loop that nothing holds up."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from asyncs import append, numbered, offsets, until, waiting, watchers, with_log
from processes import children

import pylog
from pylog import TableChange, aio
from pylog.errors import ClosedError, OffsetOutOfRangeError, TopicExistsError


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "own", "left_out"),
    [
        (pylog.Consumer, aio.Consumer, {"config"}),
        (pylog.Producer, aio.Producer, set()),
        (pylog.Groups, aio.Groups, set()),
        (pylog.Log, aio.Log, {"events", "log_id", "replication"}),
        # Of a topic, what waits for nothing; of a table, what cannot be awaited.
        (
            pylog.Topic,
            aio.Topic,
            set(
                "config check_exists events partition partitioned_by partitions picker read".split()
            )
            | {"topic_id"},
        ),
        (
            pylog.Table,
            aio.Table,
            set("check items keys keyless_records offsets values".split()),
        ),
    ],
)
def test_names_and_arguments_are_those_for_threads(
    kind: type, own: type, left_out: set[str]
) -> None:
    for name in public(kind) - left_out:
        method, theirs = inspect.getattr_static(own, name), inspect.getattr_static(kind, name)
        if isinstance(theirs, property):
            continue
        parameters = [*inspect.signature(theirs).parameters]
        if kind is pylog.Table and name == "get":
            continue
        assert [*inspect.signature(method).parameters] == [
            one for one in parameters if (kind, name, one) != (pylog.Log, "table", "follow")
        ], name
        assert method.__doc__, name
    for name in left_out:
        assert not hasattr(own, name), name


def test_a_log_is_opened_by_await_or_with(tmp_path: Path) -> None:
    async def main() -> None:
        log = await aio.open(tmp_path)
        topic = await log.create_topic("t", 2, retention_ms=5000)
        assert (topic.name, topic.sync.config.retention_ms, await log.topics()) == (
            "t",
            5000,
            ["t"],
        )
        with pytest.raises(TopicExistsError):
            await log.create_topic("t")
        await log.alter_topic("t", retention_ms=6000)
        assert topic.sync.config.retention_ms == 6000
        assert (await log.metrics())["path"] == log.path == str(tmp_path)
        await log.close()
        await log.close()
        with pytest.raises(ClosedError):
            await log.topics()
        with pytest.raises(ClosedError):
            await topic.append(b"")
        with pytest.raises(FileNotFoundError):
            async with aio.open(tmp_path / "nowhere", create=False):
                pass

    asyncio.run(main())
    assert not watchers()


def test_the_end_of_a_loops_share_leaves_the_log_open(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:

        async def main() -> None:
            async with aio.Log(log) as own:
                topic = await numbered(own, "t", records=2)
                assert (await topic.append(b"2")).offset == 2
                consumer = await own.consumer("t")
            with pytest.raises(ClosedError):
                await consumer.poll()

        asyncio.run(main())
        assert offsets([*log.read("t")]) == [0, 1, 2]


def test_reading_replays_and_follows(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", partitions=2, records=2500)

        async def read(**arguments: Any) -> list[int]:
            return offsets([one async for one in log.read("t", **arguments)])

        assert await read() == [*range(2500), *range(2500)]
        assert await read(partition=1, start=5, end=7) == [5, 6]
        late = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        assert await read(start=late) == []
        with pytest.raises(ValueError, match="partition"):
            await read(start=5)
        for follow in (False, True):
            with pytest.raises(OffsetOutOfRangeError):
                await read(partition=0, start=9999, follow=follow)
        following = asyncio.create_task(read(partition=0, start=2498, end=2502, follow=True))
        await waiting(log)
        await append(topic, 5)
        assert await following == [2498, 2499, 2500, 2501]
        assert await read(partition=0, start=3, end=3, follow=True) == []
        end = topic.sync.partition(0).high_watermark
        assert await read(partition=0, start=end, end=end, follow=True) == []
        count = 0
        async for record in log.read("t", follow=True):
            count += 1
            if count == 5005:
                assert record.topic == "t"
                break

    with_log(tmp_path, main)


def test_who_follows_a_topic_reads_partitions_that_are_added(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t", records=2)
        records = log.read("t", follow=True)
        assert offsets([await anext(records) for _ in range(2)]) == [0, 1]
        await topic.add_partitions(3)
        await append(topic, 2, partition=2)
        assert offsets([await anext(records) for _ in range(2)]) == [0, 1]
        await records.aclose()

    with_log(tmp_path, main)


def test_tables_see_what_was_acknowledged(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await log.create_topic("t", cleanup_policy="compact", durability="os")
        changes: list[TableChange] = []
        async with log.table("t", on_change=changes.append) as table:
            assert await table.get(b"k") is None
            await topic.append(b"v", b"k")
            assert await table.get(b"k") == b"v"
            assert await table.snapshot() == {b"k": b"v"}
            assert not await table.wait_for(1, timeout=0.001)
            late = asyncio.create_task(table.wait_for(1))
            await waiting(log)
            place = await topic.append(b"w", b"k")
            assert await late and await table.wait_for(place)
            assert await table.refresh() == {0: 2}
            await asyncio.sleep(0)
            assert [change.new for change in changes] == [b"v", b"w"]
            stuck = asyncio.create_task(table.wait_for(99))
            await waiting(log)
        with pytest.raises(ClosedError):
            await table.get(b"k")
        await topic.append(b"x", b"k")
        with pytest.raises(ClosedError):
            await stuck

    with_log(tmp_path, main)


# ---------------------------------------------------------------- the loop goes on


def test_the_loop_goes_on_while_an_append_hangs_and_a_cancelled_one_is_told_so(
    tmp_path: Path,
) -> None:
    hanging, may_go_on = threading.Semaphore(0), threading.Event()

    def hang(event: pylog.AppendEvent) -> None:
        hanging.release()
        may_go_on.wait()

    async def main(log: aio.Log) -> None:
        topic = await log.create_topic("t", durability="os")
        appends = [asyncio.create_task(topic.append(b"%d" % number)) for number in range(9)]
        notes = []
        try:
            for _ in range(8):
                while not hanging.acquire(blocking=False):
                    await asyncio.sleep(0.001)
            for task in appends:
                task.cancel()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                notes += caught.value.__notes__
        finally:
            may_go_on.set()
        assert notes == ["it was begun in a thread, and goes on there"] * 8 + ["it was not begun"]
        await topic.append(b"last")
        values = {record.value for record in topic.sync.read()}
        assert values == {*(b"%d" % number for number in range(8)), b"last"}

    with_log(tmp_path, main, on_append=hang)


def test_the_loop_goes_on_while_its_share_ends(tmp_path: Path) -> None:
    """What was begun is waited for, without holding up others."""
    is_hanging, may_go_on = threading.Event(), threading.Event()

    def hang(event: pylog.AppendEvent) -> None:
        is_hanging.set()
        may_go_on.wait()

    async def main(log: pylog.Log) -> None:
        own = aio.Log(log)
        topic = await own.create_topic("t", durability="os")
        appended = asyncio.create_task(topic.append(b""))
        await until(is_hanging.is_set)
        appended.cancel()
        closing = asyncio.create_task(own.close())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not closing.done()
        may_go_on.set()
        await closing

    with pylog.open(tmp_path, on_append=hang) as log:
        asyncio.run(main(log))
        assert log.topic("t").partition(0).log_end_offset == 1


def test_a_closed_loop_is_no_trouble(tmp_path: Path) -> None:
    """Nobody closed anything: the tasks that waited ended with their loop."""

    async def main() -> aio.Log:
        log = await aio.open(tmp_path)
        await numbered(log, "t")
        consumer = await log.consumer("t", group="g")
        asyncio.create_task(consumer.poll())  # noqa: RUF006
        await waiting(log)
        return log

    log = asyncio.run(main())
    log.sync.topic("t").append(b"")  # the thread finds the loop closed
    log.sync.close()

    async def again() -> None:
        async with aio.open(tmp_path) as log, log.consumer("t", group="g") as consumer:
            assert len(await consumer.poll()) == 1

    asyncio.run(again())
    with pytest.raises(RuntimeError):
        asyncio.run(log.close())
    log._room.close()


SCRIPT = """
import asyncio, sys
from pylog import aio

async def main():
    async with aio.open(sys.argv[1]) as log, log.consumer("t", group="g") as consumer:
        await consumer.poll(0)
        print("waits", flush=True)
        try:
            await consumer.poll()
        finally:
            print("ends", flush=True)

asyncio.run(main())
"""


def test_ctrl_c_ends_a_wait_and_the_member_leaves(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as log:
        log.create_topic("t")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(pylog.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        process.kill()
        process.wait()
    assert out == "ends\n" and err.rstrip().endswith("KeyboardInterrupt"), err
    assert process.returncode == -signal.SIGINT
    with pylog.open(tmp_path) as log:
        assert log.groups.describe("g").members == ()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_a_waiting_thread_of_its_own(tmp_path: Path) -> None:
    async def main(log: aio.Log) -> None:
        topic = await numbered(log, "t")
        consumer = await log.consumer("t", group="g")
        polled = asyncio.create_task(consumer.poll())
        await waiting(log)

        def child() -> None:
            assert not watchers()

            async def main() -> None:
                async with aio.Log(log.sync) as own, own.consumer("t") as consumer:
                    polled = asyncio.create_task(consumer.poll())
                    await waiting(own)
                    assert len(watchers()) == 1
                    await (await own.topic("t")).append(b"0")
                    assert offsets(await polled) == [0]

            asyncio.run(main())
            assert not watchers()

        with children() as start:
            born = start(child)
            assert offsets(await polled) == [0]
            born.join()
        assert topic.name == "t"

    with_log(tmp_path, main)


def test_what_others_append_all_the_time_takes_no_idle_loop_its_time(tmp_path: Path) -> None:
    """It is asked again and again whether there is something for it, but with pauses."""

    async def main(log: aio.Log) -> None:
        busy, idle = await numbered(log, "busy"), await numbered(log, "idle")
        room, loop = log._room, asyncio.get_running_loop()
        look, pauses, early = room._look, [], []

        def noted() -> None:
            early.append(room._not_before - loop.time())
            began = loop.time()
            look()
            pauses.append((room._not_before - loop.time()) / (loop.time() - began))

        room._look = noted  # type: ignore[method-assign]
        async with log.consumer("idle") as consumer:
            polled = asyncio.create_task(consumer.poll())
            await waiting(log)
            while len(pauses) < 20:
                busy.sync.append(b"")
                await asyncio.sleep(0)
            assert sorted(pauses)[10] > 1  # times as long as asking took, mostly
            assert max(early) < 1e-6
            assert not polled.done()
            await append(idle, 1)
            assert offsets(await polled) == [0]

    with_log(tmp_path, main)
