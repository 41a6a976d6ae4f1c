"""A partition as one process holds it: opened with its first use, and closed, suspended or forked.

Knows when the files are opened and let go, and the marks.  Must not know how records are placed or
read.

Locks, in this order:
    _lock       this process's slow paths: attach, detach, roll, growth (reentrant)
    _turn       of the group commit: whoever has it takes neither _lock nor another turn
    page lock   all processes: whoever holds it may change marks and files
Reading marks takes none.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final, Self

from pylog import _native
from pylog._native import Appender, Counters, Marks, RecordMetadata
from pylog.arguments import seconds, whole_number
from pylog.config import TopicConfig
from pylog.errors import ClosedError, CorruptFileError, UnknownTopicOrPartitionError
from pylog.storage.attachment import Attachment
from pylog.storage.environment import NEVER_SEEN, Environment, KnownSettings
from pylog.storage.files import Directory, File
from pylog.storage.lifecycle import IS_DELETED
from pylog.storage.observer import observer_of
from pylog.storage.policy import LOOK_AGAIN_SECONDS
from pylog.storage.produced import Produced
from pylog.storage.replica_waits import ReplicaWaits
from pylog.storage.role import NO_ROLE, Role

_STATES: Final = {_native.OPEN: "open", _native.FULL: "full", _native.FAILED: "failed"}


class PartitionHandle(ReplicaWaits):
    """The life of a partition in this process.

    Opens lazily: the constructor does no I/O, the first call that needs the files attaches.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        topic: str,
        number: int,
        topic_id: uuid.UUID,
        config: TopicConfig,
        environment: Environment,
    ) -> None:
        self.topic = topic
        self.number = number
        self._settings = KnownSettings(NEVER_SEEN, config)
        self.appender = Appender(self._append_slowly)
        self._counters = Counters()
        self._observer = observer_of(topic, number, environment)
        self._directory = directory
        self._topic_id = topic_id
        self._environment = environment
        self._lock = threading.RLock()
        self._attachment: Attachment | None = None
        self._is_closed = False
        self._waits_for_sync = True  # until an attachment says how the topic is written
        self._produced: Produced | None = None  # until a producer's batch is appended
        self._was_used = False
        self._seen_end_offset = -1
        self._clock_passed = -1  # a time that the clock is known to have passed
        self._deleted_since: dict[str, float] = {}  # files that wait for their removal
        self._cleaner_file: File | None = None  # held while this process compacts
        self._cleaner_thread: int | None = None
        self.compaction_error: Exception | None = None  # of the last try, None after a success

    def __repr__(self) -> str:
        return f"<Partition {self.topic}-{self.number}>"

    @abstractmethod
    def _append_slowly(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        expected_offset: int | None = None,
    ) -> RecordMetadata:
        """Append what the C call could not."""

    @abstractmethod
    def remove_deleted(self) -> None:
        """Remove the files of deleted segments whose time has come."""

    # ------------------------------------------------------------------ settings

    @property
    def config(self) -> TopicConfig:
        """The topic's settings, with the last change that anybody made.

        When the topic or the log is no more, as they were.  Raises CorruptionError, OSError.
        """
        return self._known_settings().config

    def _known_settings(self) -> KnownSettings:
        counter = self._environment.settings
        if counter is None or counter.value != self._settings.seen:
            with contextlib.suppress(UnknownTopicOrPartitionError, ClosedError):
                return self._newest_settings()
        return self._settings

    def _settings_count(self) -> int:
        counter = self._environment.settings
        return 0 if counter is None else counter.value

    def _newest_settings(self) -> KnownSettings:
        """Return the topic's settings and the role of now.  Raises UnknownTopicOrPartitionError."""
        # The count first: what is changed after it makes another count.
        count = self._settings_count()
        config = self._environment.settings_of(self.topic, self._topic_id)
        role = self._environment.role()
        # One assignment, or another thread's count could come with these settings.
        self._settings = KnownSettings(count, config or self._settings.config, role)
        return self._settings

    def _follow_settings(self, attachment: Attachment) -> None:
        """Write by the topic's newest settings; the caller holds `_lock`.

        A thread that placed a record looks afterwards whether it waits.  So waiting begins before a
        record can be placed that has to be waited for, and ends when all are visible.
        """
        if self._settings_count() == attachment.settings_seen:
            return
        settings = self._newest_settings()
        waits = settings.config.durability == "fsync"
        self._set_waiting(waits=waits or self._waits_for_sync)
        attachment.follow(settings)
        self._set_waiting(waits=waits)
        self._use_core(attachment)
        self._environment.on_configured(self)
        attachment.settings_seen = settings.seen

    def _set_waiting(self, *, waits: bool) -> None:
        self._waits_for_sync = waits
        self.appender.then(self._wait_for if waits else None)

    def _use_core(self, attachment: Attachment) -> None:
        """Let the C core append, unless there is something to do before or after that it cannot."""
        is_simple = not (self.tells_of_appends or self._asks_before_appending)
        self.appender.use(attachment.tail.native if is_simple else None)

    def _wait_for(self, metadata: RecordMetadata) -> None:
        self._wait_durable(metadata.offset, metadata.offset + 1)

    # ------------------------------------------------------------------ facts

    def marks(self) -> Marks | None:
        """Return all marks as of one moment, or None while the partition has no files."""
        attachment = self._attachment or self._attached()
        try:
            return None if attachment is None else attachment.page.marks()
        except ClosedError:
            assert attachment is not None
            return self._again(attachment).marks()

    @property
    def log_start_offset(self) -> int:
        """The first offset that can be read."""
        marks = self.marks()
        return 0 if marks is None else marks.log_start_offset

    @property
    def high_watermark(self) -> int:
        """Readers see the records below it."""
        marks = self.marks()
        return 0 if marks is None else marks.high_watermark

    @property
    def log_end_offset(self) -> int:
        """The offset that the next record gets."""
        marks = self.marks()
        return 0 if marks is None else marks.log_end_offset

    @property
    def durable_offset(self) -> int:
        """Every record below it is on disk."""
        marks = self.marks()
        return 0 if marks is None else marks.durable_offset

    @property
    def state(self) -> str:
        """ "open", "full" (no space; appends are tried) or "failed" (read-only until reopened)."""
        marks = self.marks()
        return "open" if marks is None else _STATES[marks.state]

    def metrics(self) -> dict[str, int | float | str | None] | None:
        """Return numbers of now, None while this process has no files open; see `Log.metrics`.

        Opens nothing and takes no lock; never raises.
        """
        attachment = self._attachment
        if attachment is None:
            return None
        try:
            marks = attachment.page.marks()
        except ClosedError:
            return None
        counters = self._counters
        sealed = [
            segment.facts.size
            for segment in attachment.known_segments().segments
            if segment.base_offset < marks.base_offset
        ]
        has_active = marks.generation > 0
        return {
            "topic": self.topic,
            "partition": self.number,
            "state": _STATES[marks.state],
            "log_start_offset": marks.log_start_offset,
            "high_watermark": marks.high_watermark,
            "log_end_offset": marks.log_end_offset,
            "durable_offset": marks.durable_offset,
            "segments": len(sealed) + has_active,
            "size_bytes": sum(sealed) + marks.position,
            "appended_records": counters.appended_records,
            "appended_bytes": counters.appended_bytes,
            "read_records": counters.read_records,
            "read_bytes": counters.read_bytes,
            "syncs": counters.syncs,
            "sync_seconds": counters.sync_seconds,
            "last_sync_seconds": counters.last_sync_seconds,
        }

    def check(self) -> None:
        """Assert every invariant of the marks and segments; reads no data."""
        attachment = self._attached()
        if attachment is not None:
            attachment.check()

    def _again(self, attachment: Attachment) -> Self:
        """Return self if another thread suspended `attachment` meanwhile; raises ClosedError."""
        if self._is_closed or attachment is self._attachment:
            raise ClosedError(f"{self!r} is closed")
        return self

    def wait(self, offset: int, timeout: float | None = None) -> bool:
        """Wait until the high watermark is above `offset`; return whether it is.

        timeout: seconds, None for ever.
        Raises TypeError, ValueError for NaN, ClosedError, UnknownTopicOrPartitionError, OSError.
        Holds no lock and no GIL; signals are handled.  Source: futex(2) on the shared page.
        """
        offset, timeout = whole_number("offset", offset), seconds(timeout)
        attachment = self._attached(create=True)
        assert attachment is not None
        events = attachment.page.events
        monotonic = self._environment.monotonic
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            seen = events.value
            marks = self.marks()
            if marks is not None and marks.high_watermark > offset:
                return True
            if marks is not None and marks.flags & IS_DELETED:
                raise UnknownTopicOrPartitionError(self.topic, self.number)
            left = LOOK_AGAIN_SECONDS if deadline is None else deadline - monotonic()
            if left <= 0:
                return False
            events.wait(seen, min(left, LOOK_AGAIN_SECONDS))

    # ------------------------------------------------------------------ open and close

    def _attached(self, *, create: bool = False) -> Attachment | None:
        attachment = self._attachment
        if attachment is not None:
            return attachment
        with self._lock:
            if self._is_closed:
                raise ClosedError(f"{self!r} is closed")
            if self._attachment is None:
                self._newest_settings()
                if create or self._directory.exists():
                    self._check_topic_again(self._attach_or_ask())
            return self._attachment

    def _attach(self) -> Attachment:
        """Open the files, creating the directory if need be; the caller holds `_lock`."""
        if not self._directory.exists():
            self._directory.make()
        settings = self._settings
        attachment = Attachment(
            self._directory,
            topic=self.topic,
            number=self.number,
            topic_id=self._topic_id,
            settings=settings,
            counters=self._counters,
            environment=self._environment,
            on_unsynced_roll=lambda: self._environment.on_unsynced_roll(self),
            on_lost_records=lambda: self._environment.on_lost_records(self),
        )
        attachment.open()
        new_files = self._environment.new_files
        if new_files is not None and attachment.page.marks().log_end_offset == 0:
            new_files.notify()  # whoever made them may have been killed before it did
        # First: an interrupt must not leave an attachment whose records nobody waits for.
        self._set_waiting(waits=settings.config.durability == "fsync")
        self._attachment = attachment
        self._use_core(attachment)
        self._environment.on_attach(self)
        self._environment.on_configured(self)
        return attachment

    def _attach_or_ask(self) -> Attachment:
        try:
            return self._attach()
        except (CorruptFileError, FileNotFoundError):
            # Files of another topic, or none: this one may have been deleted, and made anew, since
            # it was asked for.  Then that is what to say.
            self._newest_settings()
            raise

    def _check_topic_again(self, attachment: Attachment) -> None:
        """Let go again if the topic was deleted while its files were opened, or made anew.

        Whoever deletes it from now on meets this process at the page.
        """
        try:
            self._newest_settings()
        except BaseException:
            self._forget()
            attachment.close(sync=False)
            raise

    def _attach_for_writing(self) -> Attachment:
        attachment = self._attached(create=True)
        assert attachment is not None
        return attachment

    def _ready_attachment(self) -> Attachment:
        """Return what is open of the partition, with nothing left to do before a write.

        Raises what a write raises.
        """
        while True:
            with self._lock:
                attachment = self._attach_for_writing()
                self._follow_settings(attachment)
                if not attachment.page.marks().flags:
                    return attachment
                attachment.make_ready()

    def flush(self) -> int:
        """Make everything appended so far durable; return the offset up to which it is.

        Raises DurabilityUnknownError, ClosedError.  Blocks for an fdatasync per unsynced segment.
        """
        end_offset = self.log_end_offset
        while True:
            attachment = self._attached()
            if attachment is None or attachment.commit.wait(end_offset):
                return end_offset

    def wait_durable(self, start: int, end_offset: int, role: Role | None = NO_ROLE) -> None:
        """Return when the offsets in [start, end_offset) are as durable as the topic asks.

        role: what `begin_append` returned before they were placed; None waits for no replica.
        Raises DurabilityUnknownError, NotEnoughReplicasAfterAppendError, ClosedError.  With
        durability "fsync" it blocks for a sync that all waiting threads share, where the log leads
        replicas until they have it; else it returns at once.
        """
        observer = self._observer
        try:
            if self._waits_for_sync:
                self._wait_durable(start, end_offset)
            if role is not None and self._settings.role.is_held:
                self._wait_for_replicas(start, end_offset, role)
        except BaseException:
            if observer is not None:
                observer.given_up(start, end_offset)
            raise
        if observer is not None:
            observer.acknowledged(start, end_offset)

    def _wait_durable(self, start: int, end_offset: int) -> None:
        # Attaches again when another thread suspended the partition between append and sync.
        while True:
            attachment = self._attachment or self._attach_for_writing()
            if attachment.commit.wait(end_offset, start):
                return

    def flush_sealed(self) -> None:
        """Make the segments before the active one durable; see `flush` for what it raises."""
        attachment = self._attachment
        if attachment is not None:
            attachment.sync_sealed()

    def suspend(self) -> bool:
        """Let go of files, maps and presence until the next use; return whether that was possible.

        Not possible while a sync is in flight, or a compaction.  Raises what `close` raises.
        """
        with self._lock:
            attachment = self._attachment
            if attachment is None:
                return True
            if self._cleaner_file is not None or not attachment.commit.pause():
                return False
            self._save_produced()
            self._forget()
            attachment.close(sync=True)
            return True

    def close(self) -> None:
        """End: sync, and if nobody else has the partition open, promise a clean end.

        Raises DurabilityUnknownError when the last sync failed.  Idempotent.
        """
        with self._lock:
            self._is_closed = True
            attachment = self._attachment
            self._save_produced()
            self._forget()
            if attachment is not None:
                attachment.page.events.notify()
                attachment.close(sync=self._waits_for_sync)

    def delete(self) -> None:
        """Close the partition in all processes and remove its files.

        Appends through other handles raise UnknownTopicOrPartitionError; reads go on for as long as
        they hold files.  Raises OSError; may be called again.
        """
        with self._lock:
            # Attached without asking whether the topic exists: it is hidden already.
            if not self._is_closed and self._attachment is None and self._directory.exists():
                self._attach()
            attachment = self._attachment
            self._is_closed = True
            self._forget()
            if attachment is not None:
                attachment.delete()

    @property
    def tells_of_appends(self) -> bool:
        """Whether a user's function is called, by the thread that waits, for each append."""
        return self._observer is not None and self._observer.sees_appends

    @property
    def waits_after_placing(self) -> bool:
        """Whether an append has more to wait for than its place, as far as was seen by the last."""
        return self._waits_for_sync or self._settings.role.is_held

    @property
    def is_attached(self) -> bool:
        """Whether this process has the partition's files open."""
        return self._attachment is not None

    def take_used(self) -> bool:
        """Return whether the partition was read or appended to since the last call."""
        attachment = self._attachment
        if attachment is None:
            return False
        end_offset = attachment.page.marks().log_end_offset
        was_used = self._was_used or end_offset != self._seen_end_offset
        self._was_used, self._seen_end_offset = False, end_offset
        return was_used

    def _save_produced(self) -> None:
        if self._produced is not None and self._attachment is not None:
            self._produced.save(self._attachment)

    def _forget(self) -> None:
        self._attachment = None
        if self._produced is not None:
            self._produced.forget()
        self.appender.use(None)

    def after_fork(self) -> None:
        """In a forked child: drop what belongs to the parent; the next use attaches anew."""
        self._lock = threading.RLock()
        if self._cleaner_file is not None:
            # It shares its lock with the parent: if that is killed, it must not stay here.
            self._cleaner_file.close()
            self._cleaner_file = self._cleaner_thread = None
        attachment = self._attachment
        self._produced = None
        self._forget()
        if attachment is not None:
            attachment.abandon()
