"""A partition while this process has it open: page, segments, writable end and group commit.

Knows how to open and end them, and how room is made for an append.  Must not know readers'
questions. An `Attachment` is made anew after a fork or a suspension; who still holds an old one may
go on reading marks through it, but nothing more is written through it.

Locks: the page lock, taken here; the partition's own lock is held by every caller.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import uuid
from collections.abc import Callable

from pylog import _native
from pylog._native import Counters, Marks, SharedPage
from pylog.config import TopicConfig
from pylog.errors import (
    DurabilityUnknownError,
    PartitionFailedError,
    PartitionFullError,
    UnknownTopicOrPartitionError,
)
from pylog.storage import lifecycle, policy, recovery
from pylog.storage.cleaned_files import settle
from pylog.storage.environment import Environment, KnownSettings
from pylog.storage.files import Directory
from pylog.storage.known_segments import KnownSegments
from pylog.storage.manifest import Manifest
from pylog.storage.segment import Segment
from pylog.storage.segment_files import sweep, sync_indexes
from pylog.storage.segments import SegmentSet, check_segments
from pylog.storage.shared_page import Presence
from pylog.storage.sync import GroupCommit, advance_durable_locked
from pylog.storage.tail import TailRules, WritableTail, full_error, refusal_of
from pylog.storage.tail_rules import should_roll, tail_rules

logger = logging.getLogger("pylog")


class Attachment:
    """The open parts of one partition in one process."""

    page: SharedPage
    tail: WritableTail
    commit: GroupCommit

    def __init__(
        self,
        directory: Directory,
        *,
        topic: str,
        number: int,
        topic_id: uuid.UUID,
        settings: KnownSettings,
        counters: Counters,
        environment: Environment,
        on_unsynced_roll: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._on_unsynced_roll = on_unsynced_roll
        self._topic = topic
        self._number = number
        self._topic_id = topic_id
        self._settings = settings
        self.settings_seen = settings.seen  # the count of the settings that are followed
        self._counters = counters
        self._environment = environment
        self._segments = KnownSegments(
            directory,
            descriptors=environment.descriptors,
            config=lambda: self._config,
            marks=lambda: self.page.marks(),
            deleted=lambda: UnknownTopicOrPartitionError(topic, number),
        )
        self._rolled: list[int] = []  # base offsets of segments whose indexes are not synced
        self._presence = Presence(
            directory, environment.lock_file(), boot_identity=environment.boot_identity
        )

    @property
    def _config(self) -> TopicConfig:
        return self._settings.config

    @property
    def _name(self) -> str:
        return f"{self._topic}-{self._number}"

    @property
    def _is_fsync(self) -> bool:
        return self._settings.config.durability == "fsync"

    # ------------------------------------------------------------------ open and close

    def open(self) -> None:
        """Join those who have the partition open, or, when there are none, recover it first.

        Raises OSError, IncompatibleFormatError, with nothing left open.
        """
        presence = self._presence
        lifecycle.check_owner(self._directory, self._topic_id)
        try:
            presence.open()
            assert presence.page is not None
            self.page = presence.page
            with presence.gate() as is_alone:
                if is_alone:
                    self._open_alone()
                else:
                    presence.check_compatible()
        except BaseException:
            presence.leave()
            raise
        self._make_parts()

    def _open_alone(self) -> None:
        """Recover, and make the page anew.  Without space for repairs reading still works."""
        opened = recovery.examine(
            self._directory,
            index_interval_bytes=self._config.index_interval_bytes,
            same_boot=self._presence.may_be_of_this_boot(),
        )
        is_repaired = True
        if opened.repairs is not None:
            try:
                recovery.repair(self._directory, opened.repairs)
            except OSError as error:
                if full_error(error, self._directory.path) is None:
                    raise
                is_repaired = False
                logger.warning("%s: no space for repairs; reading goes on", self._directory.path)
        if opened.manifest is not None:
            self._segments.take(opened.manifest)
            sweep(self._directory, self._segments.current.bases)
        now = self._environment.clock()
        marks = lifecycle.initial_marks(opened, is_repaired=is_repaired, now=now)
        self._presence.initialize(marks)
        if opened.manifest is not None:
            self._settle_cleaned(opened.manifest)

    def _settle_cleaned(self, manifest: Manifest) -> None:
        """Finish what a dead process left of a cleaning, now that `manifest` is published."""
        try:
            settle(self._directory, manifest.segments)
        except OSError as error:
            # Readers find what counts under either name.
            logger.warning("%s: cleaned files are left: %s", self._directory.path, error)

    def _make_parts(self) -> None:
        """Make the writable end and the group commit, which need the page."""
        environment = self._environment
        self.tail = WritableTail(
            self._directory,
            self.page,
            self._tail_rules(),
            topic=self._topic,
            partition=self._number,
            clock=environment.clock,
            log_events=environment.log_events,
            settings=environment.settings,
            settings_seen=self._settings.seen,
            counters=self._counters,
            growth_limit=lambda: policy.growth_limit(len(environment.descriptors)),
        )
        self.commit = GroupCommit(
            self.page,
            self._sync,
            log_events=environment.log_events,
            path=self._directory.path,
        )

    # ------------------------------------------------------------------ settings

    def follow(self, settings: KnownSettings) -> None:
        """Write by these settings from now on.

        What other threads place meanwhile they place by the old settings, before this returns, or
        not at all: the C core sees in every turn of the page lock that they are no longer counted.
        The caller sets `settings_seen` when all is done: after an interrupt it is done again.
        """
        with self.page:
            self._settings = settings
            self.tail.configure(self._tail_rules(), settings_seen=settings.seen)
            if not self._is_fsync:
                self._show_placed_locked()

    def _tail_rules(self) -> TailRules:
        return tail_rules(self._config, self._name)

    def _show_placed_locked(self) -> None:
        """Make visible what waits for a sync that this durability does not ask for.

        Whoever placed it may find, on its way back, that it need not wait.
        """
        marks = self.page.marks()
        if marks.high_watermark < marks.log_end_offset and marks.state != _native.FAILED:
            self.page.publish(high_watermark=marks.log_end_offset)
            if self._environment.log_events is not None:
                self._environment.log_events.notify()

    def close(self, *, sync: bool) -> None:
        """Leave; the last one to leave syncs and promises a clean end.

        sync: sync in any case.  Raises DurabilityUnknownError when the sync fails; everything is
        closed nevertheless.
        """
        presence = self._presence
        try:
            # Who syncs in another thread would publish to a page that is somebody else's by then.
            self.commit.pause(blocking=True)
            with presence.gate() as is_alone:
                try:
                    self._end(is_alone=is_alone, sync=sync)
                finally:
                    self.tail.detach()
                    presence.leave()
        finally:
            self.commit.end()
            self._segments.forget_files()

    def _end(self, *, is_alone: bool, sync: bool) -> None:
        """Sync if asked or alone; alone, promise a clean end as well."""
        with self.page:
            marks = self.page.marks()
            # Other flags say that nothing was written since; after an unfinished roll much may be.
            if marks.state == _native.FAILED or marks.flags & ~lifecycle.WHILE_WRITING:
                return
            if marks.durable_offset < marks.log_end_offset and (is_alone or sync):
                self._sync_locked()
            if not is_alone or marks.flags:
                return
            manifest = self.segments(marks).manifest
            assert manifest is not None
            try:
                lifecycle.end_cleanly_locked(self._directory, self.page, manifest)
            except OSError as error:
                # The data is safe; only the promise is missing, so the next open recovers.
                logger.warning("%s: not ended cleanly: %s", self._directory.path, error)

    def _sync_locked(self) -> None:
        try:
            end_offset = self._sync()
        except OSError as error:
            raise self._sync_failed_locked(error) from error
        advance_durable_locked(self.page, end_offset)

    def _sync_failed_locked(self, error: OSError) -> DurabilityUnknownError:
        self.page.publish(state=_native.FAILED)
        return DurabilityUnknownError(
            f"{self._directory.path}: {error.strerror}", error_number=error.errno or errno.EIO
        )

    def delete(self) -> None:
        """Make the partition unusable for every process that has it open, and remove its files."""
        presence = self._presence
        with self.page:
            self.page.publish(state=_native.FAILED, flags=lifecycle.IS_DELETED)
        try:
            with presence.gate():
                self.tail.detach()
                presence.leave()
                lifecycle.remove_directory(self._directory)
        finally:
            self._segments.forget_files()

    def abandon(self) -> None:
        """In a forked child: let go without a word; the page and the locks are the parent's."""
        self.tail.native.detach()
        self.commit.abandon()

    # ------------------------------------------------------------------ segments

    def known_segments(self) -> SegmentSet:
        """Return the newest snapshot that this process has; without looking for a newer one."""
        return self._segments.current

    def segments(self, marks: Marks) -> SegmentSet:
        """Return a snapshot of the segments that is at least as new as `marks`.

        Reads the manifest when another process changed it; otherwise no system call.
        """
        return self._segments.as_of(marks)

    def _sync(self) -> int:
        """Sync every segment that may hold bytes above the durable offset; see GroupCommit."""
        marks = self.page.marks()
        self._sync_segments(marks, marks.log_end_offset)
        return marks.log_end_offset

    def _sync_segments(self, marks: Marks, end_offset: int) -> None:
        """Sync the segments that hold offsets in [durable offset, end_offset)."""
        monotonic = self._environment.monotonic
        start = monotonic()
        self._segments.sync(marks, end_offset)
        self._counters.note_sync(monotonic() - start)

    def sync_sealed(self) -> None:
        """Make what is sealed durable, unless another thread syncs: that reaches further."""
        with self.commit.turn() as is_taken:
            marks = self.page.marks()
            is_behind = marks.durable_offset < marks.base_offset
            if is_taken and is_behind and marks.state != _native.FAILED:
                self._sync_sealed(marks)

    def _sync_sealed(self, marks: Marks) -> None:
        try:
            self._sync_segments(marks, marks.base_offset)
        except OSError as error:
            with self.page:
                raise self._sync_failed_locked(error) from error
        self._sync_indexes()
        with self.page:
            advance_durable_locked(self.page, marks.base_offset)
        segments = self.segments(marks)
        for segment in segments.segments[: segments.floor(marks.base_offset)]:
            segment.holder.is_pinned = False

    # ------------------------------------------------------------------ writing

    def write(
        self, data: bytearray, count: int, timestamp: int, expected_offset: int, *, is_large: bool
    ) -> tuple[int, int] | int:
        """Make room for `data`, and if it is large, place it; returns (first, end) or a status.

        Raises NotAppendedError and its kinds: certainly nothing was appended.
        """
        with self.page:
            result = self.write_locked(data, count, timestamp, expected_offset, is_large=is_large)
        self.after_write()
        return result

    def after_write(self) -> None:
        """Do what is left to do after `write_locked`."""
        if self._rolled and self._is_fsync:
            self._sync_indexes()
        if self._environment.log_events is not None and not self._is_fsync:
            self._environment.log_events.notify()

    def check_writable(self, marks: Marks) -> None:
        """Raise UnknownTopicOrPartitionError or PartitionFailedError if nothing can be changed."""
        if marks.flags & lifecycle.IS_DELETED:
            raise UnknownTopicOrPartitionError(self._topic, self._number)
        if marks.state == _native.FAILED:
            raise PartitionFailedError(f"{self._directory.path}: a write to disk failed before")

    def write_locked(
        self, data: bytearray, count: int, timestamp: int, expected_offset: int, *, is_large: bool
    ) -> tuple[int, int] | int:
        """Write as `write` does, before `after_write`; an error leaves the state it means."""
        try:
            if is_large:
                # Mostly there is room: the C core looks for it with less ado.
                result = self.tail.write_locked(data, expected_offset)
                if result != _native.NO_ROOM and result != _native.NOT_OPEN:
                    return result
            self._make_room_locked(len(data), count, timestamp)
            return self.tail.write_locked(data, expected_offset) if is_large else _native.NO_ROOM
        except PartitionFullError:
            self.page.publish(state=_native.FULL)
            raise
        except OSError as error:
            refusal, state = refusal_of(error, self._directory.path)
            if state is not None:
                self.page.publish(state=state)
            raise refusal from error

    def _make_room_locked(self, size: int, count: int, timestamp: int) -> None:
        marks = self.page.marks()
        self.check_writable(marks)
        is_full = marks.state == _native.FULL
        marks, segments = self._writable_locked(marks)
        if should_roll(self._config, self._name, marks, size, count, timestamp):
            marks = self._roll_locked(segments)
        self.tail.make_room_locked(marks, size)
        if is_full:
            self.page.publish(state=_native.OPEN)

    def _writable_locked(self, marks: Marks) -> tuple[Marks, SegmentSet]:
        """Be ready to write to the active segment, or to seal it."""
        marks, segments = self.ready_locked(marks)
        if self.tail.serial != marks.segment_serial:
            self._attach_tail_locked(marks, segments.segments[-1])
        if self.page.intent != (0, 0):
            self.tail.clean_intent_locked()
        return marks, segments

    def roll_locked(self, marks: Marks) -> None:
        """Seal the active segment, which is not empty, and open the next one.  Raises OSError."""
        _, segments = self._writable_locked(marks)
        self._roll_locked(segments)

    def ready_locked(self, marks: Marks) -> tuple[Marks, SegmentSet]:
        """Do what the flags ask for before the first write, and what was left unfinished."""
        if marks.flags:
            self._begin_locked(marks)
            marks = self.page.marks()
        return marks, self.segments(marks)

    def _begin_locked(self, marks: Marks) -> None:
        """Do what the flags ask for before the first write."""
        directory, page, now = self._directory, self.page, self._environment.clock()
        if marks.flags & lifecycle.IS_CHANGING:
            self._segments.take(lifecycle.finish_change_locked(directory, page))
            marks = page.marks()
            if not marks.flags:
                return
        if marks.flags & lifecycle.IS_ROLLING:
            rolled = lifecycle.finish_roll_locked(directory, page)
            self._segments.take(rolled)
            return
        if marks.flags & lifecycle.NEEDS_REPAIR:
            interval = self._config.index_interval_bytes
            manifest = lifecycle.repair_locked(
                directory, page, index_interval_bytes=interval, now=now
            )
            marks = page.marks()
        else:
            manifest = self.segments(marks).manifest
        if manifest is None:
            manifest = lifecycle.begin_new_locked(directory, page, topic_id=self._topic_id, now=now)
        else:
            manifest = lifecycle.begin_again_locked(directory, page, manifest)
        self._segments.take(manifest)

    def _attach_tail_locked(self, marks: Marks, active: Segment) -> None:
        self.tail.detach()
        active.holder.is_pinned = True
        self.tail.attach_locked(marks, active.file())

    def _sync_indexes(self) -> None:
        """Sync the indexes that rolls sealed, where nobody waits for the page lock.

        With "fsync" whoever rolled does it after the append, else the background with the data.
        """
        rolled, self._rolled = self._rolled, []
        for base_offset in rolled:
            sync_indexes(self._directory, base_offset)

    def _roll_locked(self, segments: SegmentSet) -> Marks:
        """Roll, and attach the writable end to the new segment; returns the marks after it."""
        assert segments.manifest is not None
        old = segments.segments[-1]
        # With "fsync" these are more than the active one if another durability left them unsynced.
        first = segments.floor(self.page.marks().durable_offset)
        unsynced = segments.segments[first:] if self._is_fsync else ()
        manifest = lifecycle.roll_locked(
            self._directory, self.page, segments.manifest, unsynced=unsynced
        )
        self._segments.take(manifest)
        self._rolled.append(old.base_offset)
        for segment in unsynced:
            segment.holder.is_pinned = False
        if not self._is_fsync:
            self._on_unsynced_roll()
        marks = self.page.marks()
        self._attach_tail_locked(marks, self._segments.current.segments[-1])
        return marks

    def advance_start_locked(self, manifest: Manifest, log_start_offset: int) -> list[int]:
        """Forget the records below an offset; return base offsets of segments that go with them.

        manifest: the current one, or with newer facts of its segments.
        Raises what lifecycle's function raises.
        """
        bases = [facts.base_offset for facts in manifest.segments]
        active = self._segments.current.segments[-1]
        manifest = lifecycle.advance_start_locked(
            self._directory, self.page, manifest, active, log_start_offset
        )
        self._segments.take(manifest)
        lifecycle.advance_epochs(self._directory, manifest.log_start_offset)
        return [base for base in bases if base < manifest.segments[0].base_offset]

    def commit_locked(self, manifest: Manifest) -> None:
        """Replace the manifest by one with other sealed segments, or other facts beside them.

        manifest: made of what `ready_locked` returned.  Raises what lifecycle.commit_locked raises:
        it may have come to pass nevertheless.
        """
        manifest = dataclasses.replace(manifest, generation=manifest.generation + 1)
        lifecycle.commit_locked(self._directory, self.page, manifest)
        self._segments.take(manifest)

    # ------------------------------------------------------------------ check

    def check(self) -> None:
        """Assert every invariant of marks and segments; see Partition.check."""
        marks = self.page.marks()
        check_segments(self.segments(marks), marks)
