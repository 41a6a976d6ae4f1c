"""What a consumer asked for: topics by name, by pattern, or partitions; and where to begin.

Knows names, and which offset a policy means.  Must not know what was read, nor when topics are
looked at again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable
from typing import Protocol

from pylog._native import Events
from pylog.consumer.config import ConsumerConfig
from pylog.errors import (
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from pylog.records import TopicPartition, partition_named
from pylog.storage.partition import Partition
from pylog.topics.cursors import Locate
from pylog.topics.topic import Topic

logger = logging.getLogger("pylog")


class KnownTopics(Protocol):
    """What a consumer needs of who knows all topics of the log; see TopicRegistry."""

    @property
    def events(self) -> Events:
        """Changes when records become visible in any partition."""

    @property
    def version(self) -> int:
        """Grows with each change of any topic."""

    def names(self) -> list[str]:
        """Return the names of all topics but internal ones, sorted."""

    def get(self, name: str) -> Topic:
        """Return a topic.  Raises UnknownTopicOrPartitionError."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subscription:
    """One of three: names of topics, a pattern that whole names match, or partitions."""

    topics: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    assigned: tuple[TopicPartition, ...] = ()

    @classmethod
    def to(cls, topics: tuple[str, ...], pattern: str | re.Pattern[str] | None) -> Subscription:
        """Return a subscription to names or to a pattern.

        Raises ValueError for both or none, TypeError for a name that is no str, re.error.
        """
        if bool(topics) == (pattern is not None):
            raise ValueError("expected names of topics or a pattern, one of them")
        for name in topics:
            if not isinstance(name, str):
                raise TypeError(f"topics are names, not {type(name).__name__}")
        compiled = None if pattern is None else re.compile(pattern)
        return cls(topics=tuple(dict.fromkeys(topics)), pattern=compiled)

    @classmethod
    def of(cls, partitions: Iterable[tuple[str, int]]) -> Subscription:
        """Return the subscription to just these partitions.  Raises TypeError, ValueError."""
        return cls(assigned=tuple(dict.fromkeys(map(partition_named, partitions))))

    def names(self, known: KnownTopics) -> list[str]:
        """Return the names of the topics that are meant now."""
        if self.pattern is None:
            return list(self.topics)
        return [name for name in known.names() if self.pattern.fullmatch(name)]

    def existing(self, known: KnownTopics) -> list[str]:
        """Return `names`; raises UnknownTopicOrPartitionError for one that does not exist."""
        names = self.names(known)
        if self.pattern is None:
            for name in names:
                known.get(name)
        return names

    def partitions(self, known: KnownTopics) -> list[Partition]:
        """Return the partitions that are meant now.

        Raises UnknownTopicOrPartitionError for a name or partition that does not exist, and what
        reading `__metadata` raises.
        """
        if self.assigned:
            return [known.get(topic).partition(number) for topic, number in self.assigned]
        found: list[Partition] = []
        for name in self.names(known):
            # One that a pattern matched may be deleted meanwhile.
            with contextlib.suppress(
                *() if self.pattern is None else (UnknownTopicOrPartitionError,)
            ):
                found.extend(known.get(name).partitions)
        return found


def is_there(known: KnownTopics, partition: Partition) -> bool:
    """Return whether a partition is of a topic that was not deleted, nor made anew."""
    try:
        return known.get(partition.topic).partition(partition.number) is partition
    except UnknownTopicOrPartitionError:
        return False


def beginning(config: ConsumerConfig, clock: Callable[[], int]) -> Locate:
    """Return how `auto_offset_reset` is obeyed: where to begin, or go on when that place is gone.

    clock: milliseconds since the epoch.
    What is returned raises NoOffsetForPartitionError, OffsetOutOfRangeError, and what
    `Partition.first_offset` raises.
    """
    reset, age = config.auto_offset_reset, config.reset_ms

    def locate(partition: Partition, error: OffsetOutOfRangeError | None) -> int:
        if age is not None:
            offset = partition.first_offset(max(clock() - age, 0))
        elif reset == "none":
            raise error or NoOffsetForPartitionError(partition.topic, partition.number)
        elif reset == "latest":
            offset = partition.high_watermark
        else:
            offset = partition.log_start_offset
        if error is not None:
            logger.warning("%r: %s; going on at %d", partition, error, offset)
        return offset

    return locate
