"""`Consumer`: reads topics, one after the other or many at once, and follows what is appended.

Knows which partitions are read and where each goes on.  Must not know files or segments.

Locks: the gate's, which lets one thread in at a time.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import operator
import re
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, TypeVar

from pylog._native import Record, RecordsIterator, system_clock
from pylog.consumer_config import ConsumerConfig
from pylog.cursors import Cursor, Cursors
from pylog.errors import (
    ClosedError,
    NotAssignedError,
    PylogError,
    UnknownTopicOrPartitionError,
)
from pylog.gate import Gate
from pylog.moments import milliseconds_of
from pylog.records import TopicPartition
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.subscription import KnownTopics, Subscription, beginning

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# What a loop does with so many records at a time, before all else is looked at: other partitions,
# topics that were made, whoever calls wakeup().  Their number follows from how long it takes.
_PIECE_SECONDS: Final = 0.05  # guessed: nobody waits long, and a look costs 2 us
_MAX_PIECE: Final = 4096  # records: 0.2 ms of a loop that does nothing, measured


def _alone(
    method: Callable[Concatenate[Consumer, _Arguments], _Result],
) -> Callable[Concatenate[Consumer, _Arguments], _Result]:
    """Let one thread at a time call a method, while the consumer is open."""

    @functools.wraps(method)
    def alone(
        self: Consumer, /, *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        self.gate.enter()
        try:
            return method(self, *arguments, **named)
        finally:
            self.gate.leave()

    return alone


class Consumer:
    """Reads the records of topics, several partitions in turns, and waits for more.

    Made by `Log.consumer`.  An iterator over it gives record after record and never ends by itself;
    `records` and `batches` can; `poll` returns what there is.  They share one position a partition.
    A context manager.  One thread at a time may use it: a call by a second thread raises
    ConcurrentUseError; only `wakeup` may be called at any time.  All methods but `close` raise
    ClosedError when it or the log is closed, and UnknownTopicOrPartitionError when a topic that it
    was given by name is deleted.
    Where a partition is read from at first, and after what was to come next is gone, is said by
    `auto_offset_reset`; a partition that is added later is read from its beginning.
    """

    def __init__(
        self,
        topics: KnownTopics,
        config: ConsumerConfig,
        *,
        clock: Callable[[], int] = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._topics = topics
        self._monotonic = monotonic
        self._events = topics.events
        self.gate = Gate(self._events)
        self._cursors = Cursors(beginning(config, clock))
        self._subscription: Subscription | None = None
        self._version = -1  # of the topics, when they were last looked at
        self._look_again = 0.0
        self._pace = _Pace()

    # ------------------------------------------------------------------ what is read

    @_alone
    def subscribe(self, *topics: str, pattern: str | re.Pattern[str] | None = None) -> None:
        """Read these topics from now on, instead of what was read before.

        topics: names.  pattern: or a regular expression that whole names match; topics that are
        made later are read as soon as they are there.  Partitions that are read already go on
        where they are.
        Raises UnknownTopicOrPartitionError for a name, ValueError, TypeError, re.error, each with
        nothing changed; CorruptionError, OSError.
        """
        self._read(Subscription.to(topics, pattern))

    @_alone
    def assign(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Read just these partitions, (topic, number) pairs, instead of what was read before.

        None of them is as `unsubscribe`.  Raises what `subscribe` raises.
        """
        subscription = Subscription.of(partitions)
        if subscription.assigned:
            self._read(subscription)
        else:
            self.unsubscribe()

    @_alone
    def unsubscribe(self) -> None:
        """Read nothing any more."""
        self._subscription = None
        self._cursors.follow(())

    @_alone
    def subscription(self) -> set[str]:
        """Return the names of the topics that are subscribed to, or match the pattern, now."""
        subscription = self._subscription
        return set() if subscription is None else set(subscription.names(self._topics))

    @_alone
    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that are read now."""
        self._refresh()
        return {_name(cursor) for cursor in self._cursors}

    def _read(self, subscription: Subscription) -> None:
        # The version first: what is changed after it makes another one.
        version = self._topics.version
        added = self._cursors.follow(subscription.partitions(self._topics))
        self._subscription, self._version = subscription, version
        if self.config.auto_offset_reset == "latest":
            for cursor in added:
                cursor.seek(cursor.partition.high_watermark)

    def _refresh(self) -> bool:
        """Follow topics that were made, grew or were deleted; return whether any was."""
        self._look_again = self._monotonic() + LOOK_AGAIN_SECONDS
        subscription = self._subscription
        version = self._topics.version
        if version == self._version or subscription is None:
            return False
        added = self._cursors.follow(subscription.partitions(self._topics))
        self._version = version
        if self.config.auto_offset_reset == "latest":
            # What they hold was appended after the consumer had begun.
            for cursor in added:
                cursor.seek(cursor.partition.log_start_offset)
        return True

    # ------------------------------------------------------------------ records

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the records as they come, for ever; see `records`."""
        return self.records()

    def records(self, timeout: float | None = None) -> Iterator[Record]:
        """Iterate over the records, and end when none came for `timeout` seconds.

        timeout: None never ends; 0 ends when everything is read that is there.
        Partitions take turns; records of one keep their order.  What is sought, paused or assigned
        meanwhile counts from the next record on.
        Raises NotAssignedError, NoOffsetForPartitionError, WakeupError, ConcurrentUseError, and
        what `Partition.read` and iterating over its result raise; with auto_offset_reset "none"
        OffsetOutOfRangeError.  Those about one partition name it in `topic` and `partition`; its
        position stays, and another iteration goes on with the next partition.
        A wait holds no GIL and ends on Ctrl-C.  Per record it costs what `Partition.records` does.
        """
        # No frame of Python between two records of a piece.
        return itertools.chain.from_iterable(
            iter(functools.partial(self._next_piece, timeout), None)
        )

    def batches(
        self, max_records: int | None = None, *, timeout: float | None = None
    ) -> Iterator[list[Record]]:
        """Iterate over lists of records, as `poll` returns them; ends as `records` does."""
        return iter(functools.partial(self.poll, timeout, max_records), [])

    @_alone
    def poll(self, timeout: float | None = None, max_records: int | None = None) -> list[Record]:
        """Return the next records, of all partitions that have some, each in its order.

        timeout: seconds to wait for the first one, None for ever; after it the result is empty.
        max_records: at least 1, by default the setting `max_poll_records`.  Partitions share it
        evenly while they have enough.
        Raises what `records` raises, and ValueError; what other partitions have is returned first.
        """
        limit = self.config.max_poll_records if max_records is None else max_records
        if limit < 1:
            raise ValueError(f"max_records={limit}: expected at least 1")
        deadline = self._deadline(timeout)
        taken: list[Record] = []
        before: dict[Cursor, int] = {}
        try:
            while not taken and (cursor := self._await(deadline)) is not None:
                self._take(cursor, limit, taken, before)
        except (PylogError, OSError):
            if not taken:
                raise
        except BaseException:
            # An interrupt: records that nobody got are given again.
            for cursor, position in before.items():
                cursor.seek(position)
            raise
        return taken

    def _take(
        self, ready: Cursor, limit: int, taken: list[Record], before: dict[Cursor, int]
    ) -> None:
        """Move records to `taken`, beginning with a partition that is ready; notes positions."""
        share = -(-limit // len(self._cursors))
        cursor: Cursor | None = ready
        while cursor is not None and len(taken) < limit:
            before.setdefault(cursor, cursor.position)
            cursor.take(min(share, limit - len(taken)), taken)
            cursor = self._next_ready() if len(taken) < limit else None

    @_alone
    def _next_piece(self, timeout: float | None) -> Iterator[Record] | None:
        """Return some records for a loop, None when none came in time."""
        count = self._pace.next_count(self._monotonic())
        cursor = self._await(self._deadline(timeout))
        if cursor is None:
            return None
        assert cursor.rest is not None
        self._pace.begin(self._monotonic(), cursor.rest)
        return itertools.islice(cursor.rest, count)

    def _await(self, deadline: float | None) -> Cursor | None:
        """Return the next partition that has records, waiting for some; None after the deadline."""
        if self._subscription is None:
            raise NotAssignedError
        while True:
            seen = self._events.value
            self.gate.check()
            now = self._monotonic()
            if now >= self._look_again:
                self._refresh()
            cursor = self._next_ready()
            if cursor is not None:
                return cursor
            if self._refresh():
                continue
            left = LOOK_AGAIN_SECONDS if deadline is None else deadline - now
            if left <= 0:
                return None
            self._events.wait(seen, min(left, LOOK_AGAIN_SECONDS))

    def _next_ready(self) -> Cursor | None:
        config = self.config
        share = config.fetch_max_bytes // max(len(self._cursors), 1)
        max_bytes = max(min(share, config.max_partition_fetch_bytes), 1)
        while True:
            try:
                return self._cursors.next_ready(max_bytes)
            except (UnknownTopicOrPartitionError, ClosedError):
                # A topic was deleted, here or elsewhere: a pattern does not match it any more.
                if not self._refresh():
                    raise

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._monotonic() + timeout

    # ------------------------------------------------------------------ positions

    @_alone
    def position(self, topic: str, partition: int) -> int:
        """Return the offset behind the last record that was given: of the next one to come.

        Raises NotAssignedError, NoOffsetForPartitionError, and what `Partition.first_offset`
        raises when `auto_offset_reset` asks for it.
        """
        return self._cursor(topic, partition).position

    @_alone
    def seek(self, topic: str, partition: int, *, offset: int) -> None:
        """Go on with the record at `offset` of a partition, or the next one after it.

        offset: at least 0.  Where there is none, the next read does what `auto_offset_reset` says.
        Raises NotAssignedError, TypeError, ValueError.  No I/O.
        """
        cursor = self._cursor(topic, partition)
        offset = operator.index(offset)
        if offset < 0:
            raise ValueError(f"offset {offset}: expected at least 0")
        cursor.seek(offset)

    @_alone
    def seek_to_time(self, when: int | datetime.datetime, *partitions: tuple[str, int]) -> None:
        """Go on with the first record that is at least as late as `when`, else with what comes.

        when: milliseconds since the epoch, or an aware datetime.  partitions: (topic, number)
        pairs, by default all that are read; each is looked up now.
        Raises NotAssignedError and what `Partition.offset_for_time` raises; partitions before the
        one that it is about are sought then.
        """
        timestamp = milliseconds_of(when)
        for cursor in self._chosen(partitions):
            cursor.seek(cursor.partition.first_offset(timestamp))

    @_alone
    def seek_to_beginning(self, *partitions: tuple[str, int]) -> None:
        """Go on with the first record; partitions as in `seek_to_time`.

        Raises NotAssignedError.
        """
        for cursor in self._chosen(partitions):
            cursor.seek(cursor.partition.log_start_offset)

    @_alone
    def seek_to_end(self, *partitions: tuple[str, int]) -> None:
        """Go on with what is appended from now on; partitions as in `seek_to_time`.

        Raises NotAssignedError.
        """
        for cursor in self._chosen(partitions):
            cursor.seek(cursor.partition.high_watermark)

    @_alone
    def pause(self, *partitions: tuple[str, int]) -> None:
        """Give no records of these partitions until `resume`; by default of all that are read.

        Raises NotAssignedError.
        """
        for cursor in self._chosen(partitions):
            cursor.is_paused = True
            cursor.stop()

    @_alone
    def resume(self, *partitions: tuple[str, int]) -> None:
        """Give records of these partitions again; by default of all.  Raises NotAssignedError."""
        for cursor in self._chosen(partitions):
            cursor.is_paused = False

    @_alone
    def paused(self) -> set[TopicPartition]:
        """Return the partitions that are paused."""
        return {_name(cursor) for cursor in self._cursors if cursor.is_paused}

    @_alone
    def lag(self) -> dict[TopicPartition, int]:
        """Return for each partition that is read how many offsets lie before the high watermark.

        Raises what `position` raises.  Copies the marks of each; reads nothing.
        """
        self._refresh()
        return {
            _name(cursor): max(cursor.partition.high_watermark - cursor.position, 0)
            for cursor in self._cursors
        }

    def _cursor(self, topic: str, number: int) -> Cursor:
        cursor = self._cursors.get(topic, number)
        if cursor is None:
            raise NotAssignedError(topic, number)
        return cursor

    def _chosen(self, partitions: tuple[tuple[str, int], ...]) -> list[Cursor]:
        if not partitions:
            return list(self._cursors)
        return [self._cursor(topic, number) for topic, number in partitions]

    # ------------------------------------------------------------------ end

    def wakeup(self) -> None:
        """Let the wait that is going on, or the next one, raise WakeupError.

        May be called by any thread and by a signal handler.  Source: Kafka Consumer.wakeup.
        """
        self.gate.wakeup()

    def close(self) -> None:
        """End.  Idempotent.  Raises ConcurrentUseError."""
        # The log may be closed meanwhile, and the consumer with it.
        with contextlib.suppress(ClosedError):
            self.unsubscribe()
        self.gate.close()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Consumer{' (closed)' if self.gate.is_closed else ''}>"


class _Pace:
    """How many records a loop gets before all else is looked at: as many as it does in a while."""

    def __init__(self) -> None:
        self._count = 1
        self._began = 0.0
        self._piece: RecordsIterator | None = None
        self._start = 0

    def begin(self, now: float, piece: RecordsIterator) -> None:
        """Note what the loop gets."""
        self._began, self._piece, self._start = now, piece, piece.next_offset

    def next_count(self, now: float) -> int:
        """Return how many records it is to get next, when it is back."""
        piece, self._piece = self._piece, None
        if piece is not None:
            seconds = now - self._began
            if seconds > _PIECE_SECONDS:
                self._count = max(self._count // 2, 1)
            elif seconds < _PIECE_SECONDS / 2 and piece.next_offset - self._start >= self._count:
                self._count = min(self._count * 2, _MAX_PIECE)
        return self._count


def _name(cursor: Cursor) -> TopicPartition:
    return TopicPartition(cursor.partition.topic, cursor.partition.number)
