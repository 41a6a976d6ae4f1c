"""Give space back: move the log start, and remove the files of segments that hold nothing above it.

Knows the order of it: the manifest's replacement is the commit, the marks tell all processes, then
files are renamed and, a while later, removed by whichever process notices.  What to delete is
decided in policy.py.  Must not know topics.

Locks: the page lock for the change, the partition's own for what this process remembers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import operator
from collections.abc import Callable
from typing import Final, SupportsIndex

from pylog._native import Marks
from pylog.config import UNLIMITED
from pylog.errors import ClosedError, InvalidConfigurationError, OffsetOutOfRangeError
from pylog.records import Freed
from pylog.storage import policy
from pylog.storage.attachment import Attachment
from pylog.storage.handle import PartitionHandle
from pylog.storage.lifecycle import IS_DELETED, WHILE_WRITING, active_facts
from pylog.storage.manifest import Clock, Manifest, SegmentFacts
from pylog.storage.segment_files import deleted_names, mark_deleted, remove_indexes, unlisted_bases
from pylog.storage.tail import full_error

logger = logging.getLogger("pylog")

HIGH_WATERMARK: Final = -1  # Kafka's DeleteRecordsRequest.HIGH_WATERMARK


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is known of clock and segments, and how many of the oldest are to go."""

    clock: Clock
    segments: tuple[SegmentFacts, ...]
    count: int
    rolls: bool  # the active segment is old, by the clock
    log_start_offset: int

    def says_more_than(self, manifest: Manifest, marks: Marks, clock_passed: int) -> bool:
        """Whether it is worth replacing the manifest.  clock_passed: a time known to have passed.

        Segments may lie below the log start since a roll.  That the clock goes on is written down
        now and then only.
        """
        kept = policy.segments_from(self.segments, self.log_start_offset)
        known = (*manifest.segments[:-1], active_facts(manifest, marks))
        return (
            self.count > 0
            or self.rolls
            or len(kept) < len(self.segments)
            or self.segments != known
            or self.clock.doubted != manifest.clock.doubted
            or manifest.clock.trusted < 0
            or self.clock.trusted - clock_passed > policy.MAX_CLOCK_JUMP_MS // 2
        )


class RetainingPartition(PartitionHandle):
    """What of a partition is kept, and how the rest goes."""

    def delete_records(self, before: SupportsIndex) -> int:
        """Delete all records below an offset; return the log start offset, which is then there.

        before: at most the high watermark; -1 stands for the high watermark.  Below the log start
        offset nothing changes.  Durable, and seen by every process, when it returns: reading what
        was deleted raises OffsetOutOfRangeError.  Segments that hold no other records go, and give
        their space back after `file_delete_delay_ms`.
        Raises TypeError, OffsetOutOfRangeError, InvalidConfigurationError for a topic that is only
        compacted, PartitionFullError, PartitionFailedError, ClosedError, OSError, and what opening
        raises.  One replacement of the manifest, two syncs, while appenders wait.
        Source: KIP-107, Kafka Partition.deleteRecordsOnLeader.
        """
        offset = _whole_before(before)
        policies = self.config.cleanup_policy
        if policies == "compact":
            # The latest record of a key would go with the others (Kafka: PolicyViolationException).
            raise InvalidConfigurationError("cleanup_policy", policies, '"delete" among them')
        with self._lock:
            attachment = self._attached()
            if attachment is None:
                _check_before(offset, 0, 0)
                return 0
            with attachment.page:
                marks = attachment.page.marks()
                _check_before(offset, marks.log_start_offset, marks.high_watermark)
                attachment.check_writable(marks)
                if offset == HIGH_WATERMARK:
                    offset = marks.high_watermark
                if offset <= marks.log_start_offset:
                    return marks.log_start_offset
                gone = self._advance_start_locked(attachment, marks, offset)
                offset = attachment.page.marks().log_start_offset
            if gone:
                self._remove_later(attachment)
            return offset

    @property
    def dropped_tombstones_end(self) -> int:
        """Behind the last tombstone that compaction dropped when its time was over; 0: none was.

        Whoever has read values below it, and is to go on below it, will not see what deletes them.
        As of now: no older than what was read before.  Raises ClosedError, CorruptFileError,
        OSError, and what opening raises.
        """
        attachment = self._attachment or self._attached()
        if attachment is None:
            return 0
        try:
            manifest = attachment.segments(attachment.page.marks()).manifest
        except ClosedError:
            return self._again(attachment).dropped_tombstones_end
        return 0 if manifest is None else manifest.dropped_tombstones_end

    def _advance_start_locked(
        self, attachment: Attachment, marks: Marks, log_start_offset: int
    ) -> list[int]:
        manifest = attachment.segments(marks).manifest
        assert manifest is not None, "there are records"
        kept = policy.segments_from(manifest.segments, log_start_offset)

        def commit() -> list[int]:
            _, segments = attachment.ready_locked(attachment.page.marks())
            assert segments.manifest is not None
            return attachment.advance_start_locked(segments.manifest, log_start_offset)

        return self._commit_with_space(attachment, commit, len(manifest.segments) - len(kept))

    def _commit_with_space(
        self, attachment: Attachment, commit: Callable[[], list[int]], count: int
    ) -> list[int]:
        """Do what replaces the manifest; on a full disk the indexes of what is to go pay for it.

        count: the number of the oldest segments that go.  Until the manifest is replaced they are
        read without indexes.  Raises PartitionFullError when that was not enough, OSError.
        """
        path = self._directory.path
        try:
            return commit()
        except OSError as error:
            full = full_error(error, path)
            known = attachment.segments(attachment.page.marks()).segments[:count]
            if full is None or not known:
                raise full or error from error
        for segment in known:
            segment.forget_indexes()
            remove_indexes(self._directory, segment.base_offset)
        try:
            return commit()
        except OSError as error:
            raise full_error(error, path) or error from error

    # ------------------------------------------------------------------ by time and by size

    def apply_retention(self) -> Freed:
        """Delete the segments that are too old or too many; return what was freed.

        Whole segments only, the oldest first, and if `cleanup_policy` says "delete": those whose
        last record was appended more than `retention_ms` ago, and those without which there are
        still `retention_bytes` left.  The active segment is sealed first if it is to go.
        Time is the log's clock, not the records' timestamps.  A clock that was set back deletes
        nothing early; one that is more than 30 days ahead of what was known deletes nothing by time
        for an hour, with a warning.
        Raises PartitionFullError when there was no space to write down what is to go, not even
        after its indexes were removed; PartitionFailedError, DurabilityUnknownError, ClosedError,
        OSError, and what opening raises.
        O(1) a segment, no data is read; one replacement of the manifest, two syncs, while appenders
        wait, if anything goes.  Also done in the background, every five minutes, by each process
        that has the partition open.  Source: Kafka UnifiedLog.deleteOldSegments.
        """
        with self._lock:
            attachment = self._attached()
            if attachment is None:
                return Freed(0)
            with attachment.page:
                marks = attachment.page.marks()
                attachment.check_writable(marks)
                if marks.flags & WHILE_WRITING:
                    marks, _ = attachment.ready_locked(marks)
                plan = self._plan(attachment, marks)
                gone = self._carry_out_locked(attachment, plan) if plan else []
                start = attachment.page.marks().log_start_offset
            # Also with nothing to delete: a process that died may have left files to whoever looks.
            self._remove_later(attachment)
            if plan is None:
                return Freed(start)
            sizes = [facts.size for facts in plan.segments if facts.base_offset in gone]
            return Freed(start, len(sizes), sum(sizes))

    def _plan(self, attachment: Attachment, marks: Marks) -> Plan | None:
        """Return what is to be done, None for nothing.  Writes nothing."""
        manifest = attachment.segments(marks).manifest
        if manifest is None:
            return None
        config, now = self.config, self._environment.clock()
        segments = (*manifest.segments[:-1], active_facts(manifest, marks))
        known = self._known_time(manifest, marks, now)
        clock, is_trusted = self._judged_clock(manifest, marks, now)
        if clock.trusted == now:
            segments = policy.settled_times(segments, now=now)
        if not is_trusted and clock.doubted != manifest.clock.doubted:
            logger.warning(
                "%s: the clock says %d ms, far ahead of the %d ms that were known: nothing is too"
                " old for an hour", self._directory.path, now, clock.trusted,
            )  # fmt: skip
        # Without timestamps an append cannot tell that the segment is old (Kafka: by its creation).
        created = manifest.segments[-1].append_time
        age = now - created if created >= 0 and marks.first_timestamp < 0 < marks.position else 0
        is_old = age > policy.rolling_ms(config, f"{self.topic}-{self.number}")
        is_on = "delete" in config.cleanup_policy.split(",")
        count = policy.segments_to_delete(
            segments,
            high_watermark=marks.high_watermark,
            now=now if is_trusted else None,
            retention_ms=config.retention_ms if is_on else UNLIMITED,
            retention_bytes=config.retention_bytes if is_on else UNLIMITED,
        )
        plan = Plan(clock, segments, count, is_old, marks.log_start_offset)
        return plan if plan.says_more_than(manifest, marks, known) else None

    def _known_time(self, manifest: Manifest, marks: Marks, now: int) -> int:
        """Return a time that has passed by what is written down."""
        known = manifest.clock.trusted
        return known if known >= 0 else min(max(marks.append_time, 0), now)

    def _judged_clock(self, manifest: Manifest, marks: Marks, now: int) -> tuple[Clock, bool]:
        """Return what is known of the clock that says `now`, and whether that is believed."""
        known = self._known_time(manifest, marks, now)
        clock = dataclasses.replace(manifest.clock, trusted=max(known, self._clock_passed))
        clock, is_trusted = policy.judged_clock(clock, now=now)
        self._clock_passed = clock.trusted
        return clock, is_trusted

    def _carry_out_locked(self, attachment: Attachment, plan: Plan) -> list[int]:
        """Do what was planned; return base offsets of the segments that are gone."""
        try:
            if plan.count == len(plan.segments) or plan.rolls:
                attachment.roll_locked(attachment.page.marks())
        except OSError as error:
            if full_error(error, self._directory.path) is None:
                raise
            # Three files more are too much on a full disk: the active segment goes another time.
            plan = dataclasses.replace(plan, count=min(plan.count, len(plan.segments) - 1))
        return self._commit_with_space(
            attachment, lambda: self._commit_locked(attachment, plan), plan.count
        )

    def _commit_locked(self, attachment: Attachment, plan: Plan) -> list[int]:
        """Replace the manifest by what the plan says.  Raises OSError."""
        marks, segments = attachment.ready_locked(attachment.page.marks())
        assert segments.manifest is not None, "there is something to delete"
        times = {facts.base_offset: facts.append_time for facts in plan.segments}
        manifest = dataclasses.replace(
            segments.manifest,
            clock=plan.clock,
            segments=tuple(
                dataclasses.replace(
                    facts, append_time=times.get(facts.base_offset, facts.append_time)
                )
                for facts in segments.manifest.segments
            ),
        )
        start = marks.log_start_offset
        if plan.count:
            # The next one's base: compaction may have left a gap before it.  By what was planned: a
            # first try may have been committed before it failed.
            follows = (*plan.segments, manifest.segments[-1])[plan.count]
            start = max(start, follows.base_offset)
        gone = attachment.advance_start_locked(manifest, start)
        if plan.segments[-1].append_time < marks.append_time:
            attachment.page.publish(append_time=plan.segments[-1].append_time)
        return gone

    # ------------------------------------------------------------------ files

    def _remove_later(self, attachment: Attachment) -> None:
        """Rename the files of segments that no longer count, and have them removed in time."""
        try:
            segments = attachment.segments(attachment.page.marks())
            for base_offset in unlisted_bases(self._directory, segments.bases):
                # A topic that was deleted and made anew has files of these names.
                with attachment.page:
                    if attachment.page.marks().flags & IS_DELETED:
                        return
                    mark_deleted(self._directory, base_offset)
        except OSError as error:
            # The next one to open the partition alone finds them.
            logger.warning("%s: not marked as deleted: %s", self._directory.path, error)
        self.remove_deleted()

    def remove_deleted(self) -> None:
        """Remove the files of deleted segments that have waited for `file_delete_delay_ms`.

        Whoever renamed them may have died, so all that are there count; the time runs since this
        process first saw them.  Raises OSError.
        """
        with self._lock:
            if self._is_closed or not self._directory.exists():
                return
            # Without space nobody waits: who reads such a segment on holds its file.
            delay = 0 if self.state == "full" else self.config.file_delete_delay_ms / 1000
            now = self._environment.monotonic()
            try:
                names = deleted_names(self._directory)
            except FileNotFoundError:
                return  # the topic was deleted meanwhile
            seen = {name: self._deleted_since.get(name, now) for name in names}
            self._deleted_since = seen
            for name in [name for name, since in seen.items() if now - since >= delay]:
                with contextlib.suppress(FileNotFoundError):
                    self._directory.unlink(name)
                del seen[name]
            if seen:
                self._environment.on_deleted_files(self)


def _whole_before(before: SupportsIndex) -> int:
    if isinstance(before, bool) or not isinstance(before, SupportsIndex):
        raise TypeError(f"before must be an int, not {type(before).__name__}")
    return operator.index(before)


def _check_before(before: int, start: int, end: int) -> None:
    if before != HIGH_WATERMARK and not 0 <= before <= end:
        raise OffsetOutOfRangeError(before, start, end)
