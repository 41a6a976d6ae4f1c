"""The open directory of a log: which partition objects exist, the clock, the background, forks.

Knows the directory, its lock file and the life of `Partition` objects.  Must not know bytes, nor
what topics mean.

Locks: `_lock`, around the table of partitions; no I/O is done while it is held, except closing.
`_closing`, around the end: the lock file is not closed while another thread still ends partitions.

`pylog.lock` is one page that every process maps, with three counters: events, which tell waiters of
any partition to look again, changes of settings, and partitions that got files; and with the number
of replicas in sync.  Its bytes also number the locks of partitions (storage/shared_page.py).
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from pylog import codecs
from pylog._native import Events, system_clock
from pylog.config import TopicConfig
from pylog.engine.background import Background
from pylog.engine.cleaner import Cleaner
from pylog.engine.due_work import (
    flush_later,
    may_be_compacted,
    remove_later,
    retain_later,
    sweep_later,
)
from pylog.engine.log_files import LOCK_NAME, map_lock_file, open_lock_file, open_properties
from pylog.errors import ClosedError, NetworkFileSystemError, PylogError
from pylog.records import AppendEvent, ReadEvent
from pylog.storage import layout
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.descriptors import Descriptors, budget_of
from pylog.storage.environment import Environment, Flushable
from pylog.storage.files import (
    NETWORK_FILE_SYSTEMS,
    Directory,
    File,
    FileSystem,
    OsFiles,
    descriptor_limit,
)
from pylog.storage.partition import Partition
from pylog.storage.role import NO_ROLE, Role

logger = logging.getLogger("pylog")

_LOOK_AGAIN_SECONDS: Final = 0.1  # some syncs long (guessed)
# In pylog.lock: another cache line than the events'.
_SETTINGS_POSITION: Final = 64
_IN_SYNC_POSITION: Final = 128
_NEW_FILES_POSITION: Final = 192

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Client(Protocol):
    """Who uses a log in the background, and has to end before it."""

    def close(self) -> None:
        """End, with everything done that was begun.  Idempotent."""

    def after_fork(self) -> None:
        """In a forked child: forget what is the parent's."""


class Engine:
    """One process's share of a log directory."""

    def __init__(
        self,
        path: str,
        *,
        file_system: FileSystem | None = None,
        max_open_partitions: int | None = None,
        on_append: Callable[[AppendEvent], object] | None = None,
        on_read: Callable[[ReadEvent], object] | None = None,
        cleaner: CleanerConfig | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self._on_append, self._on_read = on_append, on_read
        self._file_system: FileSystem = file_system or OsFiles()
        self._budget = budget_of(descriptor_limit())
        self._max_open_partitions = max_open_partitions or self._budget
        self._lock = threading.RLock()
        self._closing = threading.RLock()
        self._partitions: dict[tuple[str, int, uuid.UUID], Partition] = {}
        # In the order of their last attachment; the first ones are suspended first.
        self._attached: dict[Partition, int] = {}
        self._background = Background(time.monotonic)
        # A thread of its own: what is synced in time must not wait for a long compaction.
        self._cleaning = Background(time.monotonic, "pylog-cleaner")
        self._cleaner = Cleaner(cleaner or CleanerConfig(), time.monotonic)
        self._root: Directory | None = None
        self._lock_file: File | None = None
        self._environment: Environment | None = None
        self._is_forked = False
        self.fork_listeners: list[Callable[[], None]] = []
        self.clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self.log_id = uuid.UUID(int=0)
        # Who knows the topics says here what their settings are, and whether they still exist.
        self.settings_of: Callable[[str, uuid.UUID], TopicConfig | None] = lambda *topic: None
        # Who knows the replicas says here what the log is among them.
        self.role_of: Callable[[], Role] = lambda: NO_ROLE
        self.on_lost_records: Callable[[Flushable], None] = lambda partition: None

    # ------------------------------------------------------------------ open and close

    def __del__(self) -> None:
        # Topics, partitions and iterators hold on to their engine, so nobody uses it any more.
        self.close()

    def open(self, *, create: bool) -> None:
        """Open the directory, creating it if `create`.

        Raises FileNotFoundError, NetworkFileSystemError, IncompatibleFormatError, CorruptFileError,
        OSError.
        """
        kind = self._file_system.file_system_type(self.path)
        if kind in NETWORK_FILE_SYSTEMS:
            raise NetworkFileSystemError(self.path, kind)
        root = self._root = self._file_system.root(self.path, create=create)
        self.log_id = open_properties(root, create=create)
        self._lock_file = open_lock_file(root)
        memory = map_lock_file(root)
        self._in_sync = memoryview(memory)[_IN_SYNC_POSITION:][:4].cast("i")
        self._environment = Environment(
            lock_file=self.current_lock_file,
            boot_identity=self._file_system.boot_identity(),
            descriptors=Descriptors(self._budget),
            clock=system_clock,
            monotonic=time.monotonic,
            log_events=Events(memory),
            settings=Events(memory, _SETTINGS_POSITION),
            settings_of=lambda topic, topic_id: self.settings_of(topic, topic_id),
            decompress=codecs.decompress,
            random_bytes=os.urandom,
            role=lambda: self.role_of(),
            on_lost_records=lambda partition: self.on_lost_records(partition),
            in_sync_replicas=lambda: self.in_sync_replicas,
            new_files=Events(memory, _NEW_FILES_POSITION),
            cleaner=self._cleaner.config,
            pace=self._cleaner.pace,
            on_attach=self._note_attached,
            on_configured=self._note_configured,
            on_unsynced_roll=self._flush_sealed_soon,
            on_deleted_files=self._remove_deleted_later,
            on_append=self._on_append,
            on_read=self._on_read,
        )
        _engines.add(self)

    def current_lock_file(self) -> File:
        """Return `pylog.lock`, whose bytes are locks that the kernel drops when a process dies.

        Byte 0: the log is open; 1: its files are made; from 2 on those of partitions (see
        storage/shared_page.py); from 2**62 on those of groups (see groups/liveness.py); from
        2**62 + 2**61 on two of the log's role (see replication/roles.py), and behind them those of
        mirrors (see interop/kafka/holding.py).
        In a forked child another opening of it than the parent's.  Raises ClosedError, OSError.
        """
        with self._lock:
            if self._lock_file is None:
                raise ClosedError(f"log {self.path} is closed")
            if self._is_forked:
                assert self._root is not None
                self._lock_file = open_lock_file(self._root)
                self._is_forked = False
            return self._lock_file

    def lock_alone(self, byte: int, *, blocking: bool) -> File | None:
        """Return a file that holds a byte of `pylog.lock` until it is closed; None if another does.

        Threads keep each other out as processes do.  The kernel lets go of it when its holder dies.
        Raises ClosedError, OSError.
        """
        file = self.root.open(LOCK_NAME, writable=True)
        try:
            if file.lock(byte, exclusive=True, blocking=blocking):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def close(self) -> None:
        """Close every partition; the first error is raised when all are closed.  Idempotent."""
        for client in list(self.clients):
            client.close()
        with self._closing:
            self._close()

    def _close(self) -> None:
        """Close as `close` does; the caller holds `_closing`."""
        self._cleaner.end()
        self._cleaning.close()
        self._background.close()
        with self._lock:
            partitions = list(self._partitions.values())
            self._partitions.clear()
            # From now on none is made: it would outlive the lock file, and so its place in it.
            self._environment = None
        error: BaseException | None = None
        for partition in partitions:
            try:
                partition.close()
            except (PylogError, OSError) as first:
                error = error or first
        _engines.discard(self)
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None
        if error is not None:
            raise error

    @property
    def is_closed(self) -> bool:
        """Whether the log was closed (or never opened)."""
        return self._environment is None

    @property
    def events(self) -> Events:
        """The counter that changes when records become visible in any partition of the log."""
        events = self._open_environment().log_events
        assert events is not None
        return events

    @property
    def settings(self) -> Events:
        """The counter of changes of settings; see Environment."""
        settings = self._open_environment().settings
        assert settings is not None
        return settings

    @property
    def new_files(self) -> Events:
        """The counter of partitions that got files; see Environment."""
        new_files = self._open_environment().new_files
        assert new_files is not None
        return new_files

    @property
    def root(self) -> Directory:
        """The directory.  Raises ClosedError."""
        self._open_environment()
        assert self._root is not None
        return self._root

    @property
    def boot_identity(self) -> str:
        """A text that changes with every boot.  Raises ClosedError."""
        return self._open_environment().boot_identity

    @property
    def in_sync_replicas(self) -> int:
        """How many replicas have all that is acknowledged, the leader included.

        As whoever leads said last, in any process; 0 before that.
        """
        return self._in_sync[0]

    @in_sync_replicas.setter
    def in_sync_replicas(self, count: int) -> None:
        # One store of an aligned word: who reads beside it gets the old number or the new one.
        self._in_sync[0] = count

    def _open_environment(self) -> Environment:
        environment = self._environment
        if environment is None:
            raise ClosedError(f"log {self.path} is closed")
        return environment

    # ------------------------------------------------------------------ partitions

    def partition(
        self, topic: str, number: int, *, topic_id: uuid.UUID, config: TopicConfig
    ) -> Partition:
        """Return the partition's one object in this process.  No I/O.  Raises ClosedError."""
        name = (topic, number, topic_id)
        with self._lock:
            environment = self._open_environment()
            partition = self._partitions.get(name)
            if partition is None:
                assert self._root is not None
                partition = self._partitions[name] = Partition(
                    self._root.directory(layout.partition_directory(topic, number)),
                    topic=topic,
                    number=number,
                    topic_id=topic_id,
                    config=config,
                    environment=environment,
                )
            return partition

    def delete_partition(self, partition: Partition, *, topic_id: uuid.UUID) -> None:
        """Close the partition in all processes and give its space back.  Raises OSError.

        Appends through other handles raise UnknownTopicOrPartitionError from now on.  May be
        repeated, as it must be after a crash.
        """
        partition.delete()
        with self._lock:
            self._partitions.pop((partition.topic, partition.number, topic_id), None)
            self._attached.pop(partition, None)

    def forget_topic(self, topic_id: uuid.UUID) -> None:
        """Let go, soon, of what this process has open of a topic that is no more.

        Whoever deleted it removed the files; their space is free when the last one lets go.  No I/O
        here, so that it may be called under locks.
        """
        with self._lock:
            if any(name[2] == topic_id for name in self._partitions):
                task = functools.partial(self._let_go, topic_id)
                self._background.schedule(("forget", topic_id), 0.0, task)

    def _let_go(self, topic_id: uuid.UUID) -> None:
        """Suspend the partitions of a deleted topic, which cannot be attached again, for good."""
        with self._lock:
            gone = [(name, one) for name, one in self._partitions.items() if name[2] == topic_id]
        is_busy = False
        for name, partition in gone:
            try:
                is_let_go = partition.suspend()
            except (PylogError, OSError):
                is_let_go = True  # a sync that failed, of records that are deleted
            if is_let_go:
                with self._lock:
                    self._partitions.pop(name, None)
                self._attached.pop(partition, None)
            else:
                is_busy = True
        if is_busy:
            task = functools.partial(self._let_go, topic_id)
            self._background.schedule(("forget", topic_id), _LOOK_AGAIN_SECONDS, task)

    @property
    def attached(self) -> list[Partition]:
        """The partitions whose files this process has open, in no order that matters."""
        return list(self._attached)

    @property
    def open_descriptors(self) -> int:
        """How many files of segments are open."""
        environment = self._environment
        return 0 if environment is None else len(environment.descriptors)

    def _note_attached(self, flushable: Flushable) -> None:
        partition = flushable
        assert isinstance(partition, Partition)
        self._attached.pop(partition, None)
        self._attached[partition] = 1
        if len(self._attached) > self._max_open_partitions:
            # Not here: the caller holds the new partition's lock, and suspending takes another's.
            self._background.schedule("suspend", 0.0, self._suspend_idle)

    def _note_configured(self, flushable: Flushable) -> None:
        partition = flushable
        assert isinstance(partition, Partition)
        flush_later(self._background, weakref.ref(partition))
        if "delete" in partition.config.cleanup_policy or may_be_compacted(partition):
            retain_later(self._background, weakref.ref(self))
        self._compact_later(partition)

    def _compact_later(self, partition: Partition) -> None:
        if self._cleaner.config.cleaner_enable and may_be_compacted(partition):
            sweep_later(self._cleaning, weakref.ref(self))

    def _suspend_idle(self) -> None:
        """Suspend the partitions that were attached longest ago, first those not used since."""
        excess = len(self._attached) - self._max_open_partitions
        attached = list(self._attached)
        # Two rounds at most: the first takes the second chance from everyone.
        for partition in attached + attached:
            if excess <= 0:
                return
            if self._attached.pop(partition, None) is None:
                continue
            # Out of the table while it is looked at: it may be attached again at once, by others.
            if partition.take_used() or not partition.suspend():
                self._attached[partition] = 1
            else:
                excess -= 1
        # Some could not be suspended, because a sync of theirs was in flight.
        if excess > 0:
            self._background.schedule("suspend", _LOOK_AGAIN_SECONDS, self._suspend_idle)

    # ------------------------------------------------------------------ background

    def _flush_sealed_soon(self, partition: Flushable) -> None:
        self._background.schedule(("sealed", partition), 0.0, partition.flush_sealed)

    def apply_retention(self) -> None:
        """Apply retention to each partition that is open here; an error concerns only that one."""
        for partition in list(self._attached):
            if partition.is_attached:
                try:
                    partition.apply_retention()
                except (PylogError, OSError):
                    logger.exception("%r: nothing was deleted", partition)
                # An internal one may have become more than its active segment since it was opened.
                self._compact_later(partition)

    def compact_what_is_due(self) -> None:
        """Compact the partitions that are open here, if it is time; see `Cleaner.sweep`."""
        self._cleaner.sweep([partition for partition in self.attached if partition.is_attached])

    @property
    def cleaner_backoff_seconds(self) -> float:
        """How long after one look for what has to be compacted comes the next."""
        return self._cleaner.config.cleaner_backoff_ms / 1000

    def _remove_deleted_later(self, partition: Flushable) -> None:
        assert isinstance(partition, Partition)
        remove_later(self._background, weakref.ref(partition))

    # ------------------------------------------------------------------ fork

    def after_fork(self) -> None:
        """In a forked child: forget what is the parent's; the next use takes its own.

        Nothing is opened or written here: most children only run another program.
        """
        self._lock = threading.RLock()
        self._closing = threading.RLock()
        self._is_forked = True
        if self._lock_file is not None:
            # It shares its locks with the parent: if that is killed, they must not stay here.
            self._lock_file.close()
        self._background.after_fork()
        self._cleaning.after_fork()
        self._cleaner.after_fork()
        self._attached.clear()
        if self._environment is not None:
            self._environment.descriptors.after_fork()
        for partition in self._partitions.values():
            partition.after_fork()
        for listener in self.fork_listeners:
            listener()
        for client in list(self.clients):
            client.after_fork()


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        engine.after_fork()


def _close_at_exit() -> None:
    for engine in list(_engines):
        try:
            engine.close()
        except (PylogError, OSError):
            logger.exception("log %s was not closed cleanly", engine.path)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_at_exit)
