"""Compact a partition: keep the newest record of each key, while everybody goes on using it.

Knows the order of it: plan a round, go over the dirty part, make sure that what it holds is on
disk, then clean the log group by group, each of which counts from its commit on.  What may be
compacted is decided in policy.py, records are read and written in compaction.py, and how files take
the place of others is in cleaned_files.py.  Must not know topics, nor who asks.

    log start ... first dirty ----------------- pass 1 --------------- end of the map
    [     group     ] [     group     ] pass 2 [     group     ] [ segments not seen ] [ active ]

What a group leaves out has a newer record below the end of the map.  That end is synced before the
first group is committed, or a power cut could take the newer one after the older one was given up.
How far compaction came is written down when all groups are committed, and never in between: a
tombstone goes on the promise that what it deletes went before it.

A group is committed only if its sources still count: others may delete records, by retention or
by hand, while it is written.  Then it is thrown away, and what is left of it is cleaned anew.

Locks: the cleaner's, which one thread of all processes holds for one compaction; then the
partition's own and the page lock for the moments of planning, making files and committing.
Nobody cleans who does not hold the first, so files called .cleaned that no manifest names are
leftovers to whoever holds it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pylog._native import BatchFilter, KeyMap, Reader, SharedPage
from pylog.arguments import check_callable
from pylog.errors import ClosedError, InvalidConfigurationError, PylogError
from pylog.records import CompactionProgress, CompactionReport
from pylog.storage import policy
from pylog.storage.attachment import Attachment
from pylog.storage.cleaned_files import put_in_place, settle
from pylog.storage.compaction import (
    CleanedSegment,
    OutgrownError,
    Run,
    Source,
    map_keys,
    with_cleaned,
)
from pylog.storage.dirty import IN_DOUBT, DirtyPartition, Plan
from pylog.storage.encoding import compress_again
from pylog.storage.lifecycle import IS_DELETED, IS_NEW
from pylog.storage.manifest import Cleaned, Manifest, SegmentFacts
from pylog.storage.producer_files import load_state
from pylog.storage.producer_state import EXPIRATION_MS
from pylog.storage.segment import ReplacedError
from pylog.storage.shared_page import lock_cleaner
from pylog.storage.tail import full_error

logger = logging.getLogger("pylog")

_SECRET_BYTES: Final = 16


class CompactedPartition(DirtyPartition):
    """What of a partition is kept by key."""

    _searcher: Reader

    def compact(
        self,
        *,
        include_active: bool = True,
        progress: Callable[[CompactionProgress], object] | None = None,
    ) -> CompactionReport:
        """Compact now, whatever the dirty ratio; return what was done.

        include_active: seal the active segment first, so that all records are compacted that the
        high watermark and `min_compaction_lag_ms` allow; otherwise those of sealed segments.
        progress: called now and then from this thread, with no lock held but the cleaner's; what it
        raises ends the compaction, and groups that were committed stay so.
        Retention is applied first.  Then of each key the newest record stays, and a tombstone until
        a compaction `delete_retention_ms` after it was first compacted; where nothing is new, a
        compaction so long after the last one is for them.  Records without a key go.  Offsets stay
        as they are, with gaps.  Readers and appenders go on, here and in other processes.
        If another thread or process compacts the partition, waits for it and goes on from there.
        Raises InvalidConfigurationError for a topic whose cleanup policy has no "compact": its
        records without keys would be lost; CorruptRangeError, InvalidRecordError and
        MissingExtraError for batches that cannot be read (nothing is deleted for it),
        PartitionFullError, PartitionFailedError, DurabilityUnknownError, RuntimeError when
        `progress` calls it, TypeError when it cannot be called, ClosedError, OSError, and what
        opening raises.
        O(bytes of the sealed segments) for each round; memory: `dedupe_buffer_bytes` and an eighth
        at most, and a few times the largest batch.  For each group of segments appenders wait for
        two syncs.
        Source: Kafka LogCleaner, Cleaner.
        """
        check_callable("progress", progress)
        policies = self.config.cleanup_policy
        if not self.is_compacted:
            raise InvalidConfigurationError("cleanup_policy", policies, '"compact" among them')
        with self._keeping_error():
            if self._attached() is None:
                return CompactionReport(topic=self.topic, partition=self.number, start=0, end=0)
            with self._cleaner(blocking=True):
                self.apply_retention()
                if include_active:
                    self._seal_active()
                plan = self._plan_round()
                return self._compacted(plan and self._or_again(plan), None, progress)

    def compact_if_due(self) -> CompactionReport | None:
        """Compact if the topic asks for it by now; return what was done, None when nothing was.

        Nothing is done either while another thread or process compacts the partition.  Seals no
        segment.  For the background: reads and writes at the pace that the environment sets.
        Raises what `compact` raises.
        """
        with self._keeping_error():
            if not self.is_compaction_due():
                return None
            with self._cleaner(blocking=False) as is_taken:
                # Whoever held the lock until now may have done it.
                if not is_taken or not self.is_compaction_due():
                    return None
                return self._compacted(self._plan_round(), self._environment.pace, None)

    # ------------------------------------------------------------------ the cleaner's lock

    @contextlib.contextmanager
    def _cleaner(self, *, blocking: bool) -> Iterator[bool]:
        """Hold the cleaner's lock; yields whether it was taken."""
        if self._cleaner_thread == threading.get_ident():
            raise RuntimeError(f"{self!r} is being compacted by this thread")
        try:
            file = lock_cleaner(self._directory, blocking=blocking)
        except FileNotFoundError:
            self._newest_settings()  # raises when it was the topic that went
            raise
        if file is None:
            yield False
            return
        try:
            self._cleaner_file, self._cleaner_thread = file, threading.get_ident()
            yield True
        finally:
            self._cleaner_file, self._cleaner_thread = None, None
            file.close()

    @contextlib.contextmanager
    def _keeping_error(self) -> Iterator[None]:
        """Note an error for who asks later, and say what a full disk means."""
        try:
            yield
        except OSError as error:
            full = full_error(error, self._directory.path)
            self._keep(full or error)
            if full is None:
                raise
            raise full from error
        except PylogError as error:
            self._keep(error)
            raise

    def _keep(self, error: Exception) -> None:
        # A copy without the frames, whose variables are the map and the buffers.
        self.compaction_error = copy.copy(error)

    def _page_of(self, attachment: Attachment) -> SharedPage:
        """Return the page, whose lock to take; raises ClosedError.  The caller holds `_lock`.

        The caller's own `with` takes it, and no generator: where an interrupt ends that before it
        goes on, it is left to whoever keeps the traceback, and with it a lock of all processes.
        """
        if self._attachment is not attachment:
            raise ClosedError(f"{self!r} was closed while it was compacted")
        return attachment.page

    def _seal_active(self) -> None:
        """Roll if the active segment holds anything that may be compacted.  Raises OSError."""
        plan = self._plan_round()
        if plan is None:
            return
        attachment = plan.attachment
        with self._lock, self._page_of(attachment):
            attachment.check_writable(attachment.page.marks())
            marks, _ = attachment.ready_locked(attachment.page.marks())
            lag = self.config.min_compaction_lag_ms
            is_young = lag > 0 and marks.append_time > plan.now - lag
            if marks.position > 0 and not is_young:
                attachment.roll_locked(marks)
        attachment.after_write()

    # ------------------------------------------------------------------ rounds

    def _compacted(
        self,
        plan: Plan | None,
        pace: Callable[[int], object] | None,
        progress: Callable[[CompactionProgress], object] | None,
    ) -> CompactionReport:
        """Compact what is planned; the cleaner's lock is held."""
        if plan is None:
            return CompactionReport(topic=self.topic, partition=self.number, start=0, end=0)

        def step(size: int) -> None:
            if self._is_closed:
                raise ClosedError(f"{self!r} was closed while it was compacted")
            if pace is not None:
                pace(size)

        run = Run(
            CompactionProgress(self.topic, self.number, 0, "map", 0, 0),
            io_bytes=self._environment.cleaner.cleaner_io_buffer_bytes,
            step=step,
            tell=progress,
        )
        report = self._all_rounds(plan, run)
        self.compaction_error = None
        return report

    def _all_rounds(self, first: Plan, run: Run) -> CompactionReport:
        """Go round after round until all is clean that is dirty at the beginning."""
        self._settle(first.attachment)
        plan: Plan | None = first
        end = start = first.dirty.start
        # Settings may be changed meanwhile: less may be compacted than was planned, or nothing.
        # The policy is asked for when the range is known: records above it may have no key.
        while plan and self.is_compacted:
            dirty = plan.dirty.until(first.dirty.end)
            if dirty.start >= dirty.end:
                break
            plan = plan._replace(dirty=dirty)
            # Deleted meanwhile: what is left is planned anew.
            with contextlib.suppress(ReplacedError):
                end = self._round(plan, run)
                assert end > plan.dirty.start, "every round comes on"
            plan = self._plan_round()
        before, after = (
            [facts for facts in one.manifest.segments if facts.base_offset < end]
            for one in (first, plan or first)
        )
        return CompactionReport(
            topic=self.topic,
            partition=self.number,
            start=start,
            end=end,
            rounds=run.progress.round,
            records_read=run.records_kept + run.records_dropped,
            records_kept=run.records_kept,
            bytes_before=sum(facts.size for facts in before),
            bytes_after=sum(facts.size for facts in after),
            segments_before=len(before),
            segments_after=len(after),
        )

    def _round(self, plan: Plan, run: Run) -> int:
        """Go over the dirty part and clean all below; return the offset that it came to.

        Raises ReplacedError when what is dirty was deleted meanwhile.
        """
        attachment, dirty, environment = plan.attachment, plan.dirty, self._environment
        key_map = KeyMap(
            environment.random_bytes(_SECRET_BYTES),
            environment.cleaner.dedupe_buffer_bytes,
            environment.decompress,
        )
        run.begin("map", dirty.dirty_bytes)
        sources = self._sources(attachment, dirty.start, dirty.end)
        if not sources:
            raise ReplacedError(f"{self!r} from {dirty.start} on")
        end = map_keys(key_map, sources, first_offset=dirty.start, run=run)
        self._wait_durable(dirty.start, end)
        new_filter = functools.partial(
            BatchFilter,
            key_map,
            delete_retention_ms=self.config.delete_retention_ms,
            round_end=dirty.end,
            # Once a round, and only if there are batches of producers: it may read much of the log.
            kept_offsets=functools.cache(functools.partial(self._kept_offsets, plan)),
            decompress=environment.decompress,
            compress=compress_again(self.config),
        )
        groups = collections.deque(self._groups(plan.manifest, end))
        run.begin("filter", sum(facts.size for group in groups for facts in group))
        while groups:
            group = groups.popleft()
            batch_filter = new_filter(now=plan.now)
            try:
                is_clean = self._clean(attachment, group, batch_filter, run)
            except OutgrownError:
                # Times of tombstones make batches larger; without them nothing grows.
                batch_filter = new_filter(now=IN_DOUBT)
                is_clean = self._clean(attachment, group, batch_filter, run)
            if not is_clean:
                # Deleted meanwhile: what is left of it is put together anew.
                manifest = self._manifest(attachment)
                left = self._groups(manifest, end)
                groups = collections.deque(
                    one for one in left if one[0].base_offset >= group[0].base_offset
                )
                continue
            run.records_kept += batch_filter.records_kept
            run.records_dropped += batch_filter.records_read - batch_filter.records_kept
        self._set_cleaned(attachment, Cleaned(end, plan.time))
        return end

    def _groups(self, manifest: Manifest, end_offset: int) -> list[tuple[SegmentFacts, ...]]:
        return policy.compaction_groups(
            manifest.segments,
            end_offset=end_offset,
            segment_bytes=self.config.segment_bytes,
            segment_index_bytes=self.config.segment_index_bytes,
        )

    def _manifest(self, attachment: Attachment) -> Manifest:
        manifest = attachment.segments(attachment.page.marks()).manifest
        assert manifest is not None, "there are segments"
        return manifest

    def _sources(self, attachment: Attachment, start: int, end_offset: int) -> list[Source]:
        """Return the sealed segments that hold offsets in [start, end_offset)."""
        known = attachment.segments(attachment.page.marks())
        return [
            Source(known.segments[place], known.bases[place + 1])
            for place in range(known.floor(start), len(known.bases) - 1)
            if known.bases[place] < end_offset
        ]

    def _kept_offsets(self, plan: Plan) -> list[int]:
        """Return the last offsets of the latest batches of the producers that are remembered.

        Their headers stay, or a producer that goes on after everybody forgot it would be refused.
        """
        # A clock that is in doubt lets nobody be forgotten, and neither does one that was set back.
        now = min(plan.time, self._environment.clock())
        while True:
            marks = plan.attachment.page.marks()
            segments = plan.attachment.segments(marks)
            try:
                state = load_state(self._directory, self._searcher, segments, marks, now=now)
            except ReplacedError:
                continue
            return sorted(
                entry.batches[-1].offsets[-1]
                for entry in state.entries.values()
                if entry.batches and now - entry.timestamp < EXPIRATION_MS
            )

    # ------------------------------------------------------------------ one group

    def _clean(
        self,
        attachment: Attachment,
        group: Sequence[SegmentFacts],
        batch_filter: BatchFilter,
        run: Run,
    ) -> bool:
        """Write a group anew and let it count; return False if parts of it are gone by then."""
        sources = self._sources(attachment, group[0].base_offset, group[-1].base_offset + 1)
        if [source.segment.facts.identity for source in sources] != [one.identity for one in group]:
            return False
        with self._lock, self._page_of(attachment):
            attachment.check_writable(attachment.page.marks())
            # A revision that was never used, also not by a commit in question.
            _, segments = attachment.ready_locked(attachment.page.marks())
        cleaned = CleanedSegment(
            self._directory,
            sources,
            revision=segments.generation + 1,
            index_interval_bytes=self.config.index_interval_bytes,
        )
        is_committed = False
        try:
            # A topic that was deleted meanwhile is refused here, before it has a new file.
            with self._lock, self._page_of(attachment):
                attachment.check_writable(attachment.page.marks())
                cleaned.create()
            cleaned.fill(batch_filter, run)
            is_committed = cleaned.is_changed and self._commit(attachment, group, cleaned)
            return is_committed or not cleaned.is_changed
        except ReplacedError:
            return False
        finally:
            cleaned.close()
            if not is_committed:
                self._settle(attachment)

    def _commit(
        self, attachment: Attachment, group: Sequence[SegmentFacts], cleaned: CleanedSegment
    ) -> bool:
        """Let a cleaned segment take the place of its sources, if they are still there."""
        facts = cleaned.finish()
        with self._lock, self._page_of(attachment):
            attachment.check_writable(attachment.page.marks())
            marks, segments = attachment.ready_locked(attachment.page.marks())
            assert segments.manifest is not None, "there are segments"
            dropped_end = cleaned.dropped_tombstones_end
            manifest = with_cleaned(segments.manifest, group, facts, dropped_end)
            if manifest is None:
                return False
            cleaned.check_names()
            # What was cleaned is on disk, and so is all for which it left something out.
            durable_offset = min(marks.durable_offset, marks.base_offset)
            durable_offset = max(manifest.durable_offset, durable_offset)
            attachment.commit_locked(dataclasses.replace(manifest, durable_offset=durable_offset))
            try:
                put_in_place(self._directory, facts)
            except OSError as error:
                # Readers find them under the other name.
                logger.warning("%s: cleaned files are left: %s", self._directory.path, error)
        if len(group) > 1:
            with self._lock:
                self._remove_later(attachment)
        return True

    def _set_cleaned(self, attachment: Attachment, cleaned: Cleaned) -> None:
        with self._lock, self._page_of(attachment):
            attachment.check_writable(attachment.page.marks())
            _, segments = attachment.ready_locked(attachment.page.marks())
            assert segments.manifest is not None, "there are segments"
            attachment.commit_locked(dataclasses.replace(segments.manifest, cleaned=cleaned))

    def _settle(self, attachment: Attachment) -> None:
        """Remove what a cleaning left that came to nothing.  Errors are only reported."""
        try:
            with self._lock:
                if self._attachment is not attachment:
                    return  # whoever opens the partition next does it
                with attachment.page:
                    marks = attachment.page.marks()
                    # A topic that was made anew has files of these names.
                    if marks.flags & (IS_DELETED | IS_NEW):
                        return
                    # Whether the last commit came to pass has to be known first.
                    _, segments = attachment.ready_locked(marks)
                    assert segments.manifest is not None, "there are segments"
                    settle(self._directory, segments.manifest.segments)
        except OSError as error:
            logger.warning("%s: cleaned files are left: %s", self._directory.path, error)
