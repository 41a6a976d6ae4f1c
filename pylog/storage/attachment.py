"""A partition while this process has it open: page, segments, writable end and group commit.

Knows how to open and end them; how they are written is in writer.py.  Must not know readers'
questions.

An `Attachment` is made anew after a fork or a suspension; who still holds an old one may go on
reading marks through it, but nothing more is written through it.

Locks: the page lock, taken here; the partition's own lock is held by every caller.
"""

from __future__ import annotations

import errno
import logging
import math

from pylog import _native
from pylog._native import Marks
from pylog.errors import DurabilityUnknownError
from pylog.storage import lifecycle, policy, recovery
from pylog.storage.cleaned_files import settle
from pylog.storage.environment import NEVER_SEEN, KnownSettings
from pylog.storage.manifest import Manifest
from pylog.storage.recovery import Opened, Repairs
from pylog.storage.role import RoleKind
from pylog.storage.segment_files import sweep
from pylog.storage.segments import check_segments
from pylog.storage.shared_page import Presence
from pylog.storage.sync import GroupCommit, advance_durable_locked
from pylog.storage.tail import TailRules, WritableTail, full_error
from pylog.storage.tail_rules import tail_rules
from pylog.storage.writer import PartitionWriter

logger = logging.getLogger("pylog")


class Attachment(PartitionWriter):
    """The open parts of one partition in one process."""

    commit: GroupCommit
    _presence: Presence

    # ------------------------------------------------------------------ open and close

    def open(self) -> None:
        """Join those who have the partition open, or, when there are none, recover it first.

        Raises OSError, IncompatibleFormatError, with nothing left open.
        """
        environment = self._environment
        presence = self._presence = Presence(
            self._directory,
            environment.lock_file(),
            boot_identity=environment.boot_identity,
        )
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
        if self._settings.role.is_held or self.page.marks().is_held:
            with self.page:
                # Who has it open may not have heard of the role.
                self._obey_role_locked()

    def _open_alone(self) -> None:
        """Recover, and make the page anew.  Without space for repairs reading still works."""
        opened = recovery.examine(
            self._directory,
            index_interval_bytes=self._config.index_interval_bytes,
            same_boot=self._presence.may_be_of_this_boot(),
        )
        is_repaired = True
        if opened.repairs is not None:
            opened = self._without_lost(opened, opened.repairs)
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
            is_truncated = opened.manifest.truncated_at > 0
            sweep(self._directory, self._segments.current.bases, is_truncated=is_truncated)
        marks = lifecycle.initial_marks(
            opened,
            is_repaired=is_repaired,
            now=self._environment.clock(),
            high_watermark=self._held_high_watermark(opened.manifest),
        )
        self._presence.initialize(marks)
        if opened.manifest is not None:
            self._settle_cleaned(opened.manifest)

    def _without_lost(self, opened: Opened, repairs: Repairs) -> Opened:
        """Return what was found, so that nobody takes new records for those that may be lost.

        Among replicas epochs are the elector's to give, so there it is told, before it is repaired.
        """
        role = self._settings.role
        is_lost = repairs.active.end_offset < self._acknowledged_end()
        if role.is_held:
            if is_lost or repairs.is_damaged:
                self._on_lost_records()
        elif is_lost and role.epoch == 0:
            return recovery.in_new_epoch(opened)
        return opened

    def _acknowledged_end(self) -> float:
        """Return up to where records may have been acknowledged by who is gone, if that is known.

        What is synced survives everything.  Of the rest the page tells, while the machine runs; if
        it went down, there may have been any number.
        """
        marks = self._presence.last_marks()
        if marks is None:
            return -1 if self._is_fsync else math.inf
        return marks.durable_offset if self._is_fsync else marks.log_end_offset

    def _held_high_watermark(self, manifest: Manifest | None) -> int | None:
        """Return up to where all in-sync replicas had everything; None in a log that is alone.

        That only grows, so whatever was published before still holds.  The page tells the latest of
        it when those who had the partition open are gone, but not when the machine was; then there
        is what the manifest says, and the others will tell.
        """
        if not self._settings.role.is_held:
            return None
        marks = self._presence.last_marks()
        known = 0 if manifest is None else manifest.high_watermark
        return known if marks is None else max(known, marks.high_watermark)

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
            settings_seen=self._settings_to_see(),
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
        """Write by these settings, and obey this role, from now on.

        What other threads place meanwhile they place by the old settings, before this returns, or
        not at all: the C core sees in every turn of the page lock that they are no longer counted.
        The caller sets `settings_seen` when all is done: after an interrupt it is done again.
        """
        with self.page:
            self._settings = settings
            self.tail.configure(self._tail_rules(), settings_seen=self._settings_to_see())
            self._obey_role_locked()

    def _settings_to_see(self) -> int:
        """Return by which count of settings the C core may append.

        A follower's is none, so that whoever appends comes to where that is refused.
        """
        settings = self._settings
        return NEVER_SEEN if settings.role.kind is RoleKind.FOLLOWER else settings.seen

    def _tail_rules(self) -> TailRules:
        return tail_rules(self._config, self._name, is_held=self._settings.role.is_held)

    def _obey_role_locked(self) -> None:
        """Hold the high watermark, or let go of it, as the role says; show what may be seen.

        By newer settings than these another process may have done the contrary: then they are
        counted already, and this one comes again.
        """
        settings, counter = self._settings, self._environment.settings
        if counter is not None and counter.value != settings.seen:
            return
        marks, role = self.page.marks(), settings.role
        if role.is_held:
            if not marks.is_held:
                self.page.publish(is_held=1)
            if role.kind is RoleKind.LEADER and marks.leader_epoch < role.epoch:
                # The next one to append comes to where the epoch begins.
                self.tail.detach()
        elif marks.is_held:
            high_watermark = max(marks.high_watermark, marks.durable_offset)
            self.page.publish(is_held=0, high_watermark=high_watermark)
            self.tell_readers()
        if not (role.is_held or self._is_fsync):
            self._show_placed_locked()

    def _show_placed_locked(self) -> None:
        """Make visible what waits for a sync that this durability does not ask for.

        Whoever placed it may find, on its way back, that it need not wait.
        """
        marks = self.page.marks()
        if marks.high_watermark < marks.log_end_offset and marks.state != _native.FAILED:
            self.page.publish(high_watermark=marks.log_end_offset)
            self.tell_readers()

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
            synced = self._sync()
        except OSError as error:
            raise self._sync_failed_locked(error) from error
        advance_durable_locked(self.page, synced, synced.log_end_offset)

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

    # ------------------------------------------------------------------ sync

    def _sync(self) -> Marks:
        """Sync every segment that may hold bytes above the durable offset; see GroupCommit."""
        marks = self.page.marks()
        self._sync_segments(marks, marks.log_end_offset)
        return marks

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
            advance_durable_locked(self.page, marks, marks.base_offset)
        segments = self.segments(marks)
        for segment in segments.segments[: segments.floor(marks.base_offset)]:
            segment.holder.is_pinned = False

    # ------------------------------------------------------------------ check

    def check(self) -> None:
        """Assert every invariant of marks and segments; see Partition.check."""
        marks = self.page.marks()
        check_segments(self.segments(marks), marks)
