"""What all partitions of a log share, and what the work in the background asks of a partition.

Knows only callables and values: who makes them is above, who uses them beside and below.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from pylog._native import Events
from pylog.config import TopicConfig
from pylog.records import AppendEvent, ReadEvent
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.descriptors import Descriptors
from pylog.storage.files import File
from pylog.storage.role import NO_ROLE, Role

NEVER_SEEN: Final = 2**31  # a count of settings that none is: they are counted modulo 2**31


class Flushable(Protocol):
    """What the background needs of a partition."""

    @property
    def config(self) -> TopicConfig:
        """The topic's settings."""

    def flush(self) -> int:
        """Make everything durable that was appended so far."""

    def flush_sealed(self) -> None:
        """Make everything durable below the active segment."""

    def remove_deleted(self) -> None:
        """Remove the files of deleted segments whose time has come."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What all partitions of a log share.

    clock: milliseconds since the epoch.  monotonic: seconds.
    settings: counts changes of any topic's settings, None when there are none.  Whoever acts by
    changed settings has counted them before, so that nobody acts by older ones after that.
    settings_of: the newest settings of the topic of this name and id; None when nobody keeps any,
    and a partition has those it was made with.  Raises UnknownTopicOrPartitionError when the topic
    is no more.
    on_attach: told of each partition that opens its files.  on_configured: told of each that
    follows other settings from now on.  on_unsynced_roll: told when a sealed segment was left
    unsynced.
    on_deleted_files: told when files wait for their removal.
    role: the newest role of the log among its replicas, which is changed before `settings` is
    counted; by that everybody learns of it.
    on_lost_records: told, while the log has a role, of each partition that lost or may have lost
    records which were acknowledged, before that is repaired; what it raises keeps the partition
    from being opened.
    in_sync_replicas: how many replicas have what is acknowledged, this one included.
    new_files: counts partitions that got files, so that who watches many need not look for them.
    random_bytes: returns so many bytes that nobody can guess.
    cleaner: how compaction works.  pace: told of the bytes that compaction is about to read or
    write; it may wait, and what it raises ends the compaction with nothing changed by it.
    on_append, on_read: a user's functions; see `pylog.open`.
    """

    lock_file: Callable[[], File]
    boot_identity: str
    descriptors: Descriptors
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    log_events: Events | None
    settings: Events | None
    settings_of: Callable[[str, uuid.UUID], TopicConfig | None]
    decompress: Callable[[int, memoryview], bytes]
    on_attach: Callable[[Flushable], None]
    on_configured: Callable[[Flushable], None]
    on_unsynced_roll: Callable[[Flushable], None]
    on_deleted_files: Callable[[Flushable], None]
    random_bytes: Callable[[int], bytes]
    role: Callable[[], Role] = lambda: NO_ROLE
    on_lost_records: Callable[[Flushable], None] = lambda _: None
    in_sync_replicas: Callable[[], int] = lambda: 1
    new_files: Events | None = None
    cleaner: CleanerConfig = dataclasses.field(default_factory=CleanerConfig)
    pace: Callable[[int], object] | None = None
    on_append: Callable[[AppendEvent], object] | None = None
    on_read: Callable[[ReadEvent], object] | None = None


class KnownSettings(NamedTuple):
    """Settings and role, and the count of changes (Environment.settings) they are as new as."""

    seen: int
    config: TopicConfig
    role: Role = NO_ROLE
