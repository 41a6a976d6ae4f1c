"""`Topic`: a named set of partitions, as a user holds it.

Knows how a record's partition is picked, and how records of several partitions are appended and
read together.  Must not know where topics are written down, nor files.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import operator
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from pylog._native import Appender, Events, Record, RecordMetadata, RecordsIterator, Router
from pylog.arguments import check_callable, whole_number
from pylog.config import TopicConfig
from pylog.engine.moments import milliseconds_of
from pylog.errors import (
    ClosedError,
    OffsetOutOfRangeError,
    PartitionerError,
    UnknownTopicOrPartitionError,
)
from pylog.records import (
    AppendedRecords,
    CompactionProgress,
    CompactionReport,
    Freed,
    OffsetAndTimestamp,
)
from pylog.storage.partition import Partition
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.storage.readable import DEFAULT_READ_BYTES
from pylog.topics.cursors import Cursors
from pylog.topics.keyed import KeyedAppender
from pylog.topics.metadata import TopicFacts

# (topic name, key, value, number of partitions) to one of them.
Partitioner = Callable[[str, bytes | None, bytes | None, int], int]
_Pick = Callable[[bytes | None, bytes | None], int]

_STICKY_BYTES: Final = 16384  # Kafka's batch.size
_NEVER_ASKED: Final = 2**31  # a count of changes that none is: they are counted modulo 2**31


class Topics(Protocol):
    """What a topic needs of who knows all topics of the log."""

    @property
    def events(self) -> Events:
        """Changes when records become visible in any partition."""

    @property
    def settings(self) -> Events:
        """Counts changes of any topic; see Environment."""

    def facts_of(self, name: str, topic_id: uuid.UUID) -> TopicFacts:
        """Return what is true of this very topic now.  Raises UnknownTopicOrPartitionError."""

    def partition_of(self, facts: TopicFacts, number: int) -> Partition:
        """Return the topic's partition of this number, which exists."""

    def add_partitions(self, name: str, topic_id: uuid.UUID, total: int) -> None:
        """Give this very topic more partitions; see Topic.add_partitions."""


class Topic:
    """A named set of partitions.  Cheap to make: partitions come into being when they are used.

    name: as given to `create_topic`.
    Every method may be called by many threads at once.
    """

    def __init__(
        self, facts: TopicFacts, topics: Topics, partitioner: Partitioner | None = None
    ) -> None:
        self.name = facts.name
        self._known = (_NEVER_ASKED, facts)  # as of which count of changes
        self._topics = topics
        # Kept here, for they can be asked also when the log is closed.
        self._events = topics.events
        self._settings = topics.settings
        self._partitioner = partitioner
        router = self._new_router(_STICKY_BYTES)
        self._pick: _Pick = router.pick if partitioner is None else self._asking(partitioner)
        self._keyed = KeyedAppender(
            self.name,
            router,
            self.partition,
            config=lambda: self.config,
            pick=self._pick if partitioner else None,
        )
        if partitioner is None:
            # Nothing is left to do after the C call, so it is the method itself: no Python frame.
            self.append = router.append  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<Topic {self.name}: {self._known[1].partitions} partitions>"

    def __len__(self) -> int:
        """Return the number of partitions, those included that another process added."""
        return self._facts.partitions

    @property
    def _facts(self) -> TopicFacts:
        """What is known of the topic now; when it or the log is no more, what was known.

        Raises CorruptionError, OSError.
        """
        # The count first: what is changed after it makes another count.
        count = self._settings.value
        if count != self._known[0]:
            with contextlib.suppress(UnknownTopicOrPartitionError, ClosedError):
                self._known = (count, self._topics.facts_of(self.name, self.topic_id))
        return self._known[1]

    @property
    def topic_id(self) -> uuid.UUID:
        """What tells this topic from others that had its name, or will."""
        return self._known[1].topic_id

    @property
    def events(self) -> Events:
        """The counter that changes when records become visible in any partition of the log."""
        return self._events

    def check_exists(self) -> None:
        """Raise UnknownTopicOrPartitionError if the topic was deleted.

        Raises CorruptionError, ClosedError, OSError.  Without news: one copy of the marks.
        """
        self._topics.facts_of(self.name, self.topic_id)

    @property
    def config(self) -> TopicConfig:
        """Its settings, with the last change that anybody made; when it is no more, as they were.

        Raises CorruptionError, OSError.
        """
        return self._facts.config

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All partitions, by number.  Raises ClosedError."""
        facts = self._facts
        return tuple(self._topics.partition_of(facts, number) for number in range(facts.partitions))

    def partition(self, number: int) -> Partition:
        """Return one partition; no I/O.

        number: in [0, len(self)).  Raises UnknownTopicOrPartitionError, ClosedError, TypeError.
        """
        number = whole_number("partition", number)
        facts = self._facts
        if not 0 <= number < facts.partitions:
            raise UnknownTopicOrPartitionError(self.name, number)
        return self._topics.partition_of(facts, number)

    def add_partitions(self, total: int) -> None:
        """Let the topic have `total` partitions from now on, in all processes.

        Nobody has to open anything again: every `Topic` of it, everywhere, routes over the new
        count from its next append on.  Records stay where they are, so **keys move**: most keys
        belong to another partition from now on, and records of one key that were appended before
        and after lie in two.  Who relies on their order adds partitions while nothing is appended
        and all is read, or makes a new topic.  A compacted topic is better made anew: what takes a
        key away in its new partition is dropped one day, and the old value in the other stays.
        total: more than len(self), else InvalidPartitionsError with nothing changed.
        Raises InvalidConfigurationError, UnknownTopicOrPartitionError, PartitionFullError,
        NotAppendedError, DurabilityUnknownError, CorruptionError, ClosedError, OSError.
        One synced append.  Source: Kafka's createPartitions, NewPartitions.increaseTo.
        """
        self._topics.add_partitions(self.name, self.topic_id, total)

    def partitioned_by(self, partitioner: Partitioner) -> Topic:
        """Return the same topic with a partitioner; see `Log.topic`."""
        check_callable("partitioner", partitioner)
        return Topic(self._facts, self._topics, partitioner)

    def picker(self, *, sticky_bytes: int, partitioner: Partitioner | None) -> _Pick:
        """Return a function from (key, value) to a partition's number, for a client of the topic.

        sticky_bytes: after so many without a key the next partition is taken.  partitioner: None
        hashes the keys.  Added partitions count from the next call on.
        The function raises TypeError for a key, PartitionerError and what the partitioner raises.
        """
        if partitioner is None:
            return self._new_router(sticky_bytes).pick
        return self._asking(partitioner)

    def _asking(self, partitioner: Partitioner) -> _Pick:
        def pick(key: bytes | None, value: bytes | None) -> int:
            count = len(self)
            result = partitioner(self.name, key, value, count)
            try:
                number = operator.index(result)
            except TypeError:
                raise PartitionerError(self.name, result, count) from None
            if not 0 <= number < count:
                raise PartitionerError(self.name, result, count)
            return number

        return pick

    def _new_router(self, sticky_bytes: int) -> Router:
        # It asks for the count of now with its first record.
        return Router(
            self._known[1].partitions,
            self._appender_of,
            sticky_bytes,
            settings=self._settings,
            count_now=self.__len__,
        )

    def _appender_of(self, number: int) -> Appender:
        return self.partition(number).appender

    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        *,
        partition: int | None = None,
    ) -> RecordMetadata:
        """Append one record; return where it is, once the topic's durability is reached.

        partition: by default the one that the topic's partitioner picks; else by the key's murmur2
        hash, as Kafka's Java client does; without a key one is kept for a while and then the next
        is taken.
        Other arguments, errors and cost as `Partition.append`; UnknownTopicOrPartitionError,
        PartitionerError and what the partitioner raises.
        Source: Kafka BuiltInPartitioner, KIP-480.
        """
        number = self._pick(key, value) if partition is None else partition
        return self.partition(number).append(value, key, headers, timestamp)

    def append_many(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Sequence[tuple[str, bytes | None]] | None] | None = None,
        timestamps: Sequence[int] | int | None = None,
        *,
        partition: int | None = None,
    ) -> AppendedRecords:
        """Append records, one batch per partition and one sync per partition at the end.

        Records of one partition keep their order.  The result has one row per value, in the order
        given.  partition: by default each key's; records without keys all go to one partition.
        A partitioner is asked for every record before any is appended.
        Other arguments, errors and cost as `Partition.append_many`; with several partitions the
        `appended` of a NotAppendedError need not be a prefix of what was given.
        Raises UnknownTopicOrPartitionError, PartitionerError and what the partitioner raises too.
        """
        if partition is None and (len(self) > 1 or self._partitioner is not None):
            return self._keyed.append(values, keys, headers, timestamps)
        number = 0 if partition is None else partition
        return self.partition(number).append_many(values, keys, headers, timestamps)

    def read(
        self,
        partition: int | None = None,
        start: int | datetime.datetime | None = None,
        end: int | None = None,
        *,
        follow: bool = False,
    ) -> Iterator[Record]:
        """Iterate over the records of one partition, or of all, one partition after the other.

        Without `follow` it ends at the high watermarks of the moment it begins.  Following all
        partitions of a topic delivers records as they come, those of added partitions too.
        start, end: offsets only with `partition`, or where the topic has one, else ValueError; a
        time may be the start of all.
        Arguments and errors otherwise as `Partition.records`, whose errors come with the iteration.
        """
        timestamp = None
        if isinstance(start, datetime.datetime):
            timestamp, start = milliseconds_of(start), None
        count = len(self)
        if partition is None and count == 1 and not (follow and end is None):
            partition = 0
        if partition is not None:
            one = self.partition(partition)
            first = start if timestamp is None else one.first_offset(timestamp)
            return one.records(first, end, follow=follow)
        if end is not None or (start is not None and count > 1):
            raise ValueError("offsets to start and end at need a partition")
        if not follow:
            return self._replay(timestamp)
        if timestamp is not None:
            # Found now, as for one partition: what comes from here on is followed.
            starts = [one.first_offset(timestamp) for one in self.partitions]
        else:
            starts = [] if start is None else [start]
        return itertools.chain.from_iterable(self._follow(starts))

    def offsets_for_times(
        self, when: int | datetime.datetime
    ) -> dict[int, OffsetAndTimestamp | None]:
        """Return for each partition the first record with at least this timestamp, or None.

        when: milliseconds since the epoch, or an aware datetime.
        Raises and costs, for each partition, what `Partition.offset_for_time` does.
        """
        timestamp = milliseconds_of(when)
        return {one.number: one.offset_for_time(timestamp) for one in self.partitions}

    def apply_retention(self) -> dict[int, Freed]:
        """Delete what is too old or too much now; return what was freed, by partition.

        Raises what `Partition.apply_retention` raises; partitions before that one are done then.
        """
        return {partition.number: partition.apply_retention() for partition in self.partitions}

    def compact(
        self,
        *,
        include_active: bool = True,
        progress: Callable[[CompactionProgress], object] | None = None,
    ) -> dict[int, CompactionReport]:
        """Compact all partitions now, whatever the dirty ratio; return what was done, by partition.

        Arguments, errors and cost as `Partition.compact`; partitions before the one that raises are
        done then.
        """
        return {
            partition.number: partition.compact(include_active=include_active, progress=progress)
            for partition in self.partitions
        }

    def delete_records(self, before: Mapping[int, int]) -> dict[int, int]:
        """Delete the records below an offset of each partition; return the new log start offsets.

        before: offsets by partition number, -1 for all that is visible.
        Raises TypeError and UnknownTopicOrPartitionError before anything is deleted, and what
        `Partition.delete_records` raises: partitions named earlier are done then.
        """
        if not isinstance(before, Mapping):
            raise TypeError(f"before must be a mapping, not {type(before).__name__}")
        partitions = {number: self.partition(number) for number in before}
        return {
            number: partition.delete_records(before[number])
            for number, partition in partitions.items()
        }

    def _replay(self, timestamp: int | None) -> Iterator[Record]:
        partitions = self.partitions
        ends = [partition.high_watermark for partition in partitions]
        starts = [
            None if timestamp is None else partition.first_offset(timestamp)
            for partition in partitions
        ]
        return itertools.chain.from_iterable(
            partition.records(start, end)
            for partition, start, end in zip(partitions, starts, ends, strict=True)
        )

    def _follow(self, starts: list[int]) -> Iterator[RecordsIterator]:
        """Yield what all partitions hold and get, one read after the other; see `read`.

        starts: of the first partitions; the others are read from their log start offset.
        """
        cursors = Cursors(_log_start)
        events = self._events
        for cursor, start in zip(cursors.follow(self.partitions).added, starts, strict=False):
            cursor.seek(start)
        while True:
            seen = events.value
            if len(cursors) < len(self):
                cursors.follow(self.partitions)
            ready = cursors.next_ready(DEFAULT_READ_BYTES)
            if ready is not None:
                assert ready.rest is not None
                yield ready.rest
            else:
                # Raises when the topic was deleted: nothing will come any more.
                self.check_exists()
                events.wait(seen, LOOK_AGAIN_SECONDS)


def _log_start(partition: Partition, error: OffsetOutOfRangeError | None) -> int:
    """Begin at the log start offset; who began elsewhere is told that it is out of range."""
    if error is not None:
        raise error
    return partition.log_start_offset
