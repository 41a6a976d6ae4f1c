"""Errors of who reads through a consumer: told to the caller, nothing was read."""

from __future__ import annotations

from pylog.errors.base import PylogError, shown


class ConcurrentUseError(PylogError, RuntimeError):
    """Raised when a second thread calls a consumer that is at work.

    Nothing was done.  Give each thread a consumer of its own, or a lock; only `wakeup` may be
    called at any time.  Source: Kafka ConcurrentModificationException.
    """

    def __init__(self, message: str = "a consumer serves one thread at a time") -> None:
        super().__init__(message)


class WakeupError(PylogError):
    """Raised by a consumer's wait, or its next one, when `wakeup` was called.

    Nothing is lost: the next call goes on where the last one ended.  Source: Kafka WakeupException.
    """

    def __init__(self, message: str = "woken by wakeup()") -> None:
        super().__init__(message)


class NotAssignedError(PylogError, LookupError):
    """Raised when a consumer is asked about a partition that it does not read.

    topic, partition: None when it reads nothing at all: nothing was subscribed to or assigned.
    """

    _fields = ("topic", "partition")

    def __init__(self, topic: str | None = None, partition: int | None = None) -> None:
        super().__init__(
            "nothing is subscribed to or assigned"
            if topic is None
            else f"topic {shown(topic)}, partition {partition} is not assigned to this consumer"
        )
        self.topic = topic
        self.partition = partition


class NoOffsetForPartitionError(PylogError, LookupError):
    """Raised when nobody said where to begin, and auto_offset_reset is "none".

    Call `seek` first.  Source: Kafka NoOffsetForPartitionException.
    """

    _fields = ("topic", "partition")

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(f"topic {shown(topic)}, partition {partition}: no offset to begin at")
        self.topic = topic
        self.partition = partition
