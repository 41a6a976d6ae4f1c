"""What all partitions of a log share, and what the work in the background asks of a partition.

Knows only callables and values: who makes them is above, who uses them beside and below.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Protocol

from pylog._native import Events
from pylog.config import TopicConfig
from pylog.storage.descriptors import Descriptors
from pylog.storage.files import File


class Flushable(Protocol):
    """What the background needs of a partition."""

    @property
    def config(self) -> TopicConfig:
        """The topic's settings."""

    def flush(self) -> int:
        """Make everything durable that was appended so far."""

    def flush_sealed(self) -> None:
        """Make everything durable below the active segment."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What all partitions of a log share.

    clock: milliseconds since the epoch.  monotonic: seconds.  on_attach: told of each partition
    that opens its files.  on_unsynced_roll: told when a sealed segment was left unsynced.
    check_topic: raises UnknownTopicOrPartitionError when the topic of this name and id is no more.
    """

    lock_file: Callable[[], File]
    boot_identity: str
    descriptors: Descriptors
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    log_events: Events | None
    decompress: Callable[[int, memoryview], bytes]
    on_attach: Callable[[Flushable], None]
    on_unsynced_roll: Callable[[Flushable], None]
    check_topic: Callable[[str, uuid.UUID], None]
