"""What the tests of asyncio share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pylog import aio

Main = Callable[[aio.Log], Coroutine[Any, Any, None]]


def with_log(path: Path, main: Main, **settings: Any) -> None:
    """Run `main` with a log, in a loop of its own; no thread of pylog's is left then."""
    before = set(threading.enumerate())

    async def run() -> None:
        async with aio.open(path, **settings) as log:
            await main(log)
        left = set(threading.enumerate()) - before
        assert not left, left

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something holds; the time-out of the test bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


async def waiting(log: aio.Log, count: int = 1) -> None:
    """Return when so many tasks wait for the log."""
    await until(lambda: len(log._room._waiters) == count)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pylog-aio"]


async def numbered(log: aio.Log, name: str, partitions: int = 1, records: int = 0) -> aio.Topic:
    """Make a topic; the values of each partition are its offsets."""
    topic = await log.create_topic(name, partitions, durability="os")
    for number in range(partitions):
        await append(topic, records, number)
    return topic


async def append(topic: aio.Topic, records: int, partition: int = 0) -> None:
    """Append records whose values are their offsets."""
    end = topic.sync.partition(partition).log_end_offset
    values = [b"%d" % offset for offset in range(end, end + records)]
    await topic.append_many(values, partition=partition)


def offsets(records: list[Any]) -> list[int]:
    assert [record.value for record in records] == [b"%d" % one.offset for one in records]
    return [record.offset for record in records]
