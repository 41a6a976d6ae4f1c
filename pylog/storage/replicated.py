"""A partition of a log that is one of several replicas: what a leader asks of it, and a follower.

Knows how batches are handed over unchanged, where leader epochs begin, how the end of the log gives
way to the leader's, and who moves the high watermark.  Must not know who leads, nor who is in sync.

Locks: the partition's `_lock`, and within it the page lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pylog._native import Events, Marks, Reader
from pylog.errors import (
    ClosedError,
    DivergedReplicaError,
    FencedLeaderEpochError,
    OffsetMismatchError,
    OffsetOutOfRangeError,
)
from pylog.storage.attachment import Attachment
from pylog.storage.encoding import chunk_bytes
from pylog.storage.epoch_checkpoint import load_epochs
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.readable import DEFAULT_READ_BYTES, ReadablePartition
from pylog.storage.replica_batches import (
    Batch,
    StoredBatches,
    has_gaps,
    replica_batches,
    runs_of,
)
from pylog.storage.segment import ReplacedError
from pylog.storage.segments import SegmentSet
from pylog.storage.truncation import Cut, plan_cut


class ReplicatedPartition(ReadablePartition):
    """What replicas do with a partition, and no client."""

    _searcher: Reader

    # ------------------------------------------------------------------ epochs

    @property
    def leader_epochs(self) -> LeaderEpochs:
        """Which leader epoch began where, as it is on disk; empty before the first record.

        Raises ClosedError, OSError, and what opening raises.  Reads one small file.
        """
        if self._attached() is None:
            return LeaderEpochs()
        return load_epochs(self._directory)

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int] | None:
        """Return the greatest epoch <= `epoch` that is known, and where it ended (exclusive).

        None when `epoch` is later than the latest; see `LeaderEpochs.end_offset_for`.
        Raises what `leader_epochs` raises.  Source: KIP-101, KIP-320.
        """
        with self._lock:
            attachment = self._attached()
            if attachment is None:
                return None
            # Both of one moment: nothing is truncated and no epoch begins meanwhile.
            with attachment.page:
                end_offset = attachment.page.marks().log_end_offset
                return load_epochs(self._directory).end_offset_for(epoch, end_offset)

    def begin_epoch(self, epoch: int) -> int:
        """Let new batches carry a leader epoch; return the offset at which it began.

        The same epoch again changes nothing.  It is on disk when this returns, before a batch
        carries it.  Raises FencedLeaderEpochError for one before the latest, and what `append`
        raises when nothing can be written.  Two syncs.  Source: KIP-101.
        """
        with self._changing() as (attachment, marks, _):
            epochs = load_epochs(self._directory)
            if epoch < max(epochs.latest_epoch, marks.leader_epoch):
                raise FencedLeaderEpochError(epoch, max(epochs.latest_epoch, marks.leader_epoch))
            if epoch != epochs.latest_epoch:
                attachment.begin_epoch_locked(epoch)
                epochs = load_epochs(self._directory)
            return epochs.entries[-1][1]

    # ------------------------------------------------------------------ the high watermark

    @property
    def marks_events(self) -> Events | None:
        """The counter of changes of the marks, by any process; None while there are no files.

        Counted before that of the log.  Goes on to count when this process lets go of the files.
        Raises what `marks` raises.
        """
        attachment = self._attachment or self._attached()
        try:
            return None if attachment is None else attachment.page.events
        except ClosedError:
            assert attachment is not None
            return self._again(attachment).marks_events

    def advance_high_watermark(self, offset: int) -> int:
        """Let readers see the records below an offset; return the high watermark then.

        offset: what all in-sync replicas have; above the log end it counts as that, below the high
        watermark nothing changes.  Where the log has no role, neither: durability tells there.
        Wakes who waits for it, in all processes.  Raises ClosedError, OSError, and what opening
        raises.  Takes the page lock for an instant.
        """
        with self._lock:
            attachment = self._attach_for_writing()
            self._follow_settings(attachment)
            with attachment.page:
                marks = attachment.page.marks()
                offset = min(offset, marks.log_end_offset)
                if not marks.is_held or offset <= marks.high_watermark:
                    return marks.high_watermark
                attachment.page.publish(high_watermark=offset)
            attachment.tell_readers()
            return offset

    def keep_high_watermark(self) -> None:
        """Let the high watermark of now survive a power cut; without files there is none to keep.

        Otherwise it falls back to what it was at the last roll, or the last close of all processes.
        Raises PartitionFailedError, NotAppendedError, ClosedError, OSError, and what opening
        raises.  Blocks appenders for two syncs.
        """
        if self._attached() is None:
            return
        with self._changing() as (attachment, _, segments):
            assert segments.manifest is not None, "it is ready"
            attachment.commit_locked(segments.manifest)

    # ------------------------------------------------------------------ batches

    def read_batches(self, offset: int, max_bytes: int = DEFAULT_READ_BYTES) -> StoredBatches:
        """Return whole batches as stored, from the one that holds `offset` on, up to the log end.

        offset: in [log_start_offset, log_end_offset]; at the end there is no data.  max_bytes: at
        least one batch is returned, however large.  Above a gap there is no data either, but an
        `end` that says where it ends.
        Raises OffsetOutOfRangeError, CorruptRangeError, ClosedError, OSError, and what opening
        raises.  The data is this call's own.  O(log n), one pread, no lock; CRCs are checked.
        """
        attachment = self._attachment or self._attached()
        if attachment is None:
            if offset != 0:
                raise OffsetOutOfRangeError(offset, 0, 0)
            return StoredBatches(memoryview(b""), 0, 0)
        try:
            marks = attachment.page.marks()
        except ClosedError:
            return self._again(attachment).read_batches(offset, max_bytes)
        limit = marks.log_end_offset
        if not marks.log_start_offset <= offset <= limit:
            raise OffsetOutOfRangeError(offset, marks.log_start_offset, limit)
        try:
            found = offset < limit and self._find(attachment, marks, offset, limit, max_bytes)
        except ReplacedError:
            return self.read_batches(offset, max_bytes)
        if not found:
            return StoredBatches(memoryview(b""), offset, limit)
        data = found[1].batches
        return StoredBatches(data, int.from_bytes(data[:8], "big"), found[1].next_offset)

    def append_replica(
        self,
        data: bytes | bytearray | memoryview,
        *,
        expected_offset: int | None = None,
        end_offset: int | None = None,
    ) -> tuple[int, int]:
        """Append whole batches as another replica has them; return the log end before and after.

        data: bytes-like, one or more batches as `read_batches` returns them, or none; copied.  They
        keep their offsets, which lie at or above the log end, also with gaps as compaction leaves
        them, and their leader epochs, which do not fall.  expected_offset: append only if the log
        ends there.  end_offset: where the log is to end if the data ends before, since the other
        one has a gap there.
        Returns when it is as durable as the topic asks; where the log has a role, nothing is
        visible by it.  A part may be there after an error, which `log_end_offset` tells.
        Raises InvalidRecordError for what is no whole batch; OffsetMismatchError for a base offset
        below the log end, or another end than expected; FencedLeaderEpochError for an epoch before
        the latest; PartitionFullError, PartitionFailedError, NotAppendedError;
        DurabilityUnknownError; TypeError, ClosedError, and what opening raises.
        One pwrite for about each segment, and two syncs where an epoch or gaps begin.
        Source: Kafka UnifiedLog.appendAsFollower.
        """
        view = memoryview(data).cast("B")
        batches = replica_batches(view)
        with self._changing() as (attachment, marks, _):
            start = marks.log_end_offset
            if expected_offset not in (None, start):
                raise OffsetMismatchError(expected_offset, start)
            _check_order(batches, marks)
            self._note_epochs_locked(attachment, marks, batches)
            self._place_locked(attachment, view, batches)
            end = attachment.page.marks().log_end_offset
            if end_offset is not None and end < end_offset:
                end = self._leave_gap_locked(attachment, end_offset)
        attachment.after_write()
        if end > start and self._waits_for_sync:
            self._wait_durable(start, end)
        return start, end

    def _note_epochs_locked(
        self, attachment: Attachment, marks: Marks, batches: Sequence[Batch]
    ) -> None:
        """Write down which epochs begin in what is to be appended."""
        epochs = [(one.leader_epoch, one.base_offset) for one in batches if one.leader_epoch >= 0]
        if not epochs:
            return
        is_empty = marks.log_start_offset == marks.log_end_offset
        if is_empty:
            epochs[0] = epochs[0][0], marks.log_start_offset
        if is_empty or epochs[-1][0] > marks.leader_epoch:
            attachment.note_epochs_locked(epochs, is_empty=is_empty)

    def _place_locked(
        self, attachment: Attachment, view: memoryview, batches: Sequence[Batch]
    ) -> None:
        for run in runs_of(batches, chunk_bytes(self.config)):
            first, last = run[0], run[-1]
            log_end_offset = attachment.page.marks().log_end_offset
            attachment.replicate_locked(
                bytearray(view[first.position : last.position + last.size]),
                span=last.end_offset - log_end_offset,
                timestamp=max(batch.max_timestamp for batch in run),
                has_gaps=has_gaps(run, log_end_offset),
            )

    def _leave_gap_locked(self, attachment: Attachment, end_offset: int) -> int:
        """Let the log end at an offset above its end."""
        marks = attachment.page.marks()
        segments = attachment.segments(marks)
        cut = self._plan_cut(segments, marks, end_offset)
        attachment.truncate_locked(segments, cut, log_start_offset=marks.log_start_offset)
        return cut.end_offset

    # ------------------------------------------------------------------ truncation

    @property
    def truncations(self) -> int:
        """A number that grows when the log is truncated, or begins anew.

        Who keeps a view of what is placed, and not only of what is visible, builds that again then.
        """
        marks = self.marks()
        return 0 if marks is None else marks.truncated_at

    def truncate(self, end_offset: int, *, force: bool = False) -> int:
        """Remove every batch that reaches beyond an offset; return the log end offset then.

        end_offset: at least the log start offset.  A batch that reaches over it goes whole, so the
        log may end before it.  Leader epochs that begin there or later go, too, also where no
        record does.  force: also below the high watermark.
        Durable when it returns, and seen by every process: reading what is gone raises
        OffsetOutOfRangeError.
        Raises DivergedReplicaError below the high watermark, OffsetOutOfRangeError below the log
        start, CorruptRangeError when the offset lies in damaged bytes, PartitionFullError,
        PartitionFailedError, NotAppendedError, ClosedError, and what opening raises.
        Reads the segment up to there; blocks for some syncs.
        Source: Kafka UnifiedLog.truncateTo; KIP-101.
        """
        if self._attached() is None and end_offset >= 0:
            return 0
        with self._changing() as (attachment, marks, segments):
            start, end = marks.log_start_offset, marks.log_end_offset
            if end_offset < start:
                raise OffsetOutOfRangeError(end_offset, start, end)
            if end_offset >= end:
                attachment.end_epochs_locked(end)
                return end
            cut = self._plan_cut(segments, marks, end_offset)
            if cut.end_offset < marks.high_watermark and not force:
                name = f"{self.topic}-{self.number}"
                raise DivergedReplicaError(name, end_offset, marks.high_watermark)
            attachment.truncate_locked(segments, cut, log_start_offset=start)
            end = attachment.page.marks().log_end_offset
        self._remove_later(attachment)
        return end

    def start_anew(self, offset: int) -> None:
        """Remove all records, and go on at an offset: the log begins and ends there.

        For a follower whose end lies before the leader's start.  Raises ValueError for an offset
        below 0, and what `truncate` raises but for the place of the offset.
        Source: Kafka UnifiedLog.truncateFullyAndStartAt.
        """
        if offset < 0:
            raise ValueError(f"offset={offset}: expected at least 0")
        with self._changing() as (attachment, _, segments):
            attachment.truncate_locked(segments, Cut((), offset), log_start_offset=offset)
        self._remove_later(attachment)

    def _plan_cut(self, segments: SegmentSet, marks: Marks, end_offset: int) -> Cut:
        interval = self.config.index_interval_bytes
        return plan_cut(
            segments, marks, end_offset, reader=self._searcher, index_interval_bytes=interval
        )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[Attachment, Marks, SegmentSet]]:
        """Hold all locks with nothing left to do before a write; yields what is open, as it is."""
        with self._lock:
            attachment = self._attach_for_writing()
            self._follow_settings(attachment)
            with attachment.changing() as (marks, segments):
                yield attachment, marks, segments


def _check_order(batches: Sequence[Batch], marks: Marks) -> None:
    """Raise what `append_replica` raises for batches that do not follow what is there."""
    end_offset, epoch = marks.log_end_offset, marks.leader_epoch
    for batch in batches:
        if batch.base_offset < end_offset:
            raise OffsetMismatchError(batch.base_offset, end_offset)
        if 0 <= batch.leader_epoch < epoch:
            raise FencedLeaderEpochError(batch.leader_epoch, epoch)
        end_offset, epoch = batch.end_offset, max(epoch, batch.leader_epoch)
