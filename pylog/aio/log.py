"""`Log` and `Topic` for asyncio, and `open`.  Every method hands on; there are no rules here."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import itertools
import logging
import os
import re
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, MutableMapping
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, Literal, ParamSpec, TypeVar

import pylog.log
from pylog._native import Record
from pylog.aio.calls import Caller, Calls, awaited
from pylog.aio.closing import Closing
from pylog.aio.consumer import Consumer
from pylog.aio.producer import Producer
from pylog.aio.prompt import PromptConsumer
from pylog.aio.table import Table
from pylog.aio.watch import Room
from pylog.consumer.config import ConsumerConfig
from pylog.consumer.group_part import Listener
from pylog.errors import NoOffsetForPartitionError
from pylog.groups.administration import Groups as SyncGroups
from pylog.producer.config import ProducerConfig
from pylog.records import AppendEvent, ReadEvent, TableChange
from pylog.storage.cleaner_config import CleanerConfig
from pylog.topics.topic import Partitioner
from pylog.topics.topic import Topic as SyncTopic

logger = logging.getLogger("pylog")

_PIECE: Final = 1000  # records of a replay that a thread takes at once: some 0.3 ms (measured)


_Opened = TypeVar("_Opened", bound=Closing)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Opening(Generic[_Opened]):
    """Something that `await` opens, and that `async with` opens and closes."""

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, _Opened]]) -> None:
        self._opening = opening
        self._opened: _Opened | None = None

    def __await__(self) -> Generator[Any, None, _Opened]:
        return self._opening().__await__()

    async def __aenter__(self) -> _Opened:
        self._opened = await self._opening()
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._opened is not None
        await self._opened.close()


def _as(
    method: Callable[Concatenate[Any, _Arguments], object],
) -> Callable[[Callable[..., _Result]], Callable[Concatenate[Any, _Arguments], _Result]]:
    """Let a method show the arguments of another one, to which it hands them on."""

    def show(own: Callable[..., _Result]) -> Callable[Concatenate[Any, _Arguments], _Result]:
        return functools.update_wrapper(own, method, assigned=(), updated=())

    return show


class Topic(Caller):
    """A `pylog.Topic` for asyncio.  Its methods are coroutines, made in threads.

    An append that is cancelled when a thread has begun it goes on there: it may be in the log.
    """

    def __init__(self, topic: SyncTopic, calls: Calls) -> None:
        super().__init__(topic, calls)
        self.name = topic.name

    @property
    def sync(self) -> SyncTopic:
        """The topic for threads, which has more."""
        topic: SyncTopic = self._inner
        return topic

    append = awaited(SyncTopic.append)
    append_many = awaited(SyncTopic.append_many)
    add_partitions = awaited(SyncTopic.add_partitions)
    offsets_for_times = awaited(SyncTopic.offsets_for_times)
    delete_records = awaited(SyncTopic.delete_records)
    apply_retention = awaited(SyncTopic.apply_retention)
    compact = awaited(SyncTopic.compact)

    def __repr__(self) -> str:
        return f"<aio.{repr(self._inner)[1:]}"


class Groups(Caller):
    """The consumer groups of a log, as `pylog.Groups`, with coroutines."""

    list = awaited(SyncGroups.list)
    describe = awaited(SyncGroups.describe)
    delete = awaited(SyncGroups.delete)
    remove_members = awaited(SyncGroups.remove_members)
    alter_offsets = awaited(SyncGroups.alter_offsets)
    delete_offsets = awaited(SyncGroups.delete_offsets)
    reset_offsets = awaited(SyncGroups.reset_offsets)


class Log(Caller, Closing):
    """A `pylog.Log` for the tasks of one event loop.

    Methods are those of `pylog.Log`, which says what they do and raise: coroutines, made in at most
    eight threads, and in eight for consumers, that start with the first ones.  One thread of the
    process waits for all logs.
    Of `consumer`, `producer` and `table`, `await` gives one, and `async with` closes it, too.
    `Log(log)` is one for a log that is open: its `close` ends what was made by it, not that log.
    Made in the loop, or RuntimeError is raised; used in another one, it raises RuntimeError, too.
    """

    def __init__(self, log: pylog.log.Log) -> None:
        super().__init__(log, Calls())
        self._log = log
        # Threads of their own: one stays in a consumer's listener, which may await all else.
        self._consumer_calls = Calls()
        self._is_owner = False
        self._room = Room(log.events)
        self._clients: weakref.WeakSet[Consumer | Producer] = weakref.WeakSet()
        self._closing: asyncio.Task[None] | None = None

    @property
    def sync(self) -> pylog.log.Log:
        """The log for threads."""
        return self._log

    @property
    def path(self) -> str:
        """The directory."""
        return self._log.path

    @property
    def groups(self) -> Groups:
        """The consumer groups of the log."""
        return Groups(self._log.groups, self._calls)

    topics = awaited(pylog.log.Log.topics)
    delete_topic = awaited(pylog.log.Log.delete_topic)
    metrics = awaited(pylog.log.Log.metrics)
    apply_retention = awaited(pylog.log.Log.apply_retention)
    compact = awaited(pylog.log.Log.compact)
    promote = awaited(pylog.log.Log.promote)
    demote = awaited(pylog.log.Log.demote)
    follow = awaited(pylog.log.Log.follow)

    async def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        if_exists: Literal["error", "ok"] = "error",
        **settings: Any,
    ) -> Topic:
        """Create a topic and return it, as `pylog.Log.create_topic`."""
        create = functools.partial(
            self._log.create_topic, name, partitions, if_exists=if_exists, **settings
        )
        return Topic(await self._make(create), self._calls)

    async def alter_topic(self, name: str, **settings: Any) -> None:
        """Change some settings of a topic, as `pylog.Log.alter_topic`."""
        await self._make(functools.partial(self._log.alter_topic, name, **settings))

    async def topic(self, name: str, *, partitioner: Partitioner | None = None) -> Topic:
        """Return a topic, as `pylog.Log.topic`."""
        find = functools.partial(self._log.topic, name, partitioner=partitioner)
        return Topic(await self._make(find), self._calls)

    async def read(
        self,
        topic: str,
        *,
        partition: int | None = None,
        start: int | datetime.datetime | None = None,
        end: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[Record]:
        """Iterate over the records of one partition of a topic, or of all, as `pylog.Log.read`.

        It reads in a thread; following, it waits as a consumer does.
        """
        read = functools.partial(
            self._log.read, topic, partition=partition, start=start, end=end, follow=follow
        )
        records = await self._make(read)
        if not follow:
            take = functools.partial(_take, records)
            while piece := await self._make(take):
                for record in piece:
                    yield record
            return
        # What is out of range is raised, there as here.
        async with self.consumer(auto_offset_reset="none") as consumer:
            if partition is None:
                await consumer.subscribe(topic)
            else:
                await consumer.assign([(topic, partition)])
            if isinstance(start, datetime.datetime):
                await consumer.seek_to_time(start)
            elif start is not None:
                await consumer.seek(topic, partition or 0, offset=start)
            else:
                await consumer.seek_to_beginning()
            if end is not None and await consumer.position(topic, partition or 0) >= end:
                return
            async for record in _followed(consumer):
                if end is None or record.offset < end:
                    yield record
                if end is not None and record.offset >= end - 1:
                    return

    @_as(pylog.log.Log.consumer)
    def consumer(
        self,
        *topics: str,
        pattern: str | re.Pattern[str] | None = None,
        on_assigned: Listener | None = None,
        on_revoked: Listener | None = None,
        on_lost: Listener | None = None,
        **settings: Any,
    ) -> Opening[Consumer]:
        """Return a consumer, to be awaited or entered, with the arguments of `pylog.Log.consumer`.

        Listeners as in `Consumer.subscribe`.
        """

        async def consumer() -> Consumer:
            self._calls.check_loop()
            core = self._log._new_consumer(PromptConsumer, ConsumerConfig(**settings))
            made = Consumer(core, self._consumer_calls, self._room)
            self._clients.add(made)
            if topics or pattern is not None:
                await made.subscribe(
                    *topics,
                    pattern=pattern,
                    on_assigned=on_assigned,
                    on_revoked=on_revoked,
                    on_lost=on_lost,
                )
            return made

        return Opening(consumer)

    @_as(pylog.log.Log.producer)
    def producer(
        self, *, max_block_ms: int = ProducerConfig().max_block_ms, **settings: Any
    ) -> Opening[Producer]:
        """Return a producer, to be awaited or entered, with the arguments of `pylog.Log.producer`.

        Its thread is one of its own.
        """

        async def producer() -> Producer:
            self._calls.check_loop()
            config = ProducerConfig(max_block_ms=max_block_ms)
            made = Producer(
                self._log.producer(max_block_ms=0, **settings),
                self._calls,
                max_block=config.max_block_ms / 1000,
            )
            self._clients.add(made)
            return made

        return Opening(producer)

    def table(
        self,
        topic: str,
        *,
        store: MutableMapping[bytes, bytes] | None = None,
        if_stale: Literal["error", "rebuild"] = "error",
        on_change: Callable[[TableChange], object] | None = None,
    ) -> Opening[Table]:
        """Return a table, to be awaited or entered, with arguments as `pylog.Log.table`.

        on_change: called in the event loop.
        """

        async def table() -> Table:
            loop = self._calls.loop
            tell = None if on_change is None else functools.partial(_tell, loop, on_change)
            opening = functools.partial(
                self._log.table,
                topic,
                store=store,
                follow="never",
                if_stale=if_stale,
                on_change=tell,
            )
            return Table(await self._make(opening), self._calls, self._room)

        return Opening(table)

    async def close(self) -> None:
        """End: producers send what is left, consumers leave, and the log is closed.  Idempotent.

        Whoever waits for one of them gets ClosedError.  Raises what `pylog.Log.close` raises; what
        a consumer's or producer's end raises is logged.  It goes on when this is cancelled.
        """
        self._calls.check_loop()
        if self._closing is None:
            self._closing = self._calls.loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            ends = [client.close() for client in self._clients]
            for error in await asyncio.gather(*ends, return_exceptions=True):
                if error is not None:
                    logger.error("%r was not closed cleanly", self, exc_info=error)
            if self._is_owner:
                await self._make(self._log.close)
        finally:
            self._room.close()
            await self._consumer_calls.close()
            await self._calls.close()

    def __repr__(self) -> str:
        return f"<aio.{repr(self._log)[1:]}"


async def _followed(consumer: Consumer) -> AsyncIterator[Record]:
    """Iterate over the records of a consumer for ever, those of added partitions too."""
    while True:
        try:
            async for record in consumer:
                yield record
        except NoOffsetForPartitionError as error:
            await consumer.seek_to_beginning((error.topic, error.partition))


def _take(records: Iterator[Record]) -> list[Record]:
    return list(itertools.islice(records, _PIECE))


def _tell(
    loop: asyncio.AbstractEventLoop, function: Callable[[TableChange], object], change: TableChange
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(function, change)


def open(
    path: str | os.PathLike[str],
    *,
    create: bool = True,
    on_append: Callable[[AppendEvent], object] | None = None,
    on_read: Callable[[ReadEvent], object] | None = None,
    cleaner: CleanerConfig | None = None,
) -> Opening[Log]:
    """Return a log directory, to be awaited or entered, with arguments and errors as `pylog.open`.

    on_append and on_read are called in whatever thread appends or reads.
    """

    async def opening() -> Log:
        opened = functools.partial(
            pylog.log.open,
            path,
            create=create,
            on_append=on_append,
            on_read=on_read,
            cleaner=cleaner,
        )
        calls = Calls()
        try:
            log = Log(await calls.make(opened, unclaimed=pylog.log.Log.close))
        finally:
            await calls.close()
        log._is_owner = True
        return log

    return Opening(opening)
