"""What of a partition compaction has not seen, and whether it is time to compact it.

Knows the facts that the rules in policy.py judge.  Must not know how it is done.  Writes nothing.

Locks: the partition's own, where it may have to be opened.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Final, NamedTuple

from pylog._native import Marks
from pylog.config import NEVER
from pylog.storage import policy
from pylog.storage.attachment import Attachment
from pylog.storage.lifecycle import active_facts
from pylog.storage.manifest import Manifest
from pylog.storage.retention import RetainingPartition
from pylog.storage.segment import ReplacedError

IN_DOUBT: Final = -1  # to the C core: a time that neither sets nor passes a horizon


class Plan(NamedTuple):
    """What a round goes over.

    time: what the clock is known to have passed.  now: the same, by which tombstones grow old, or
    `IN_DOUBT`.
    """

    attachment: Attachment
    manifest: Manifest
    dirty: policy.DirtyRange
    time: int
    now: int


class DirtyPartition(RetainingPartition):
    """What of a partition may be compacted."""

    @property
    def is_compacted(self) -> bool:
        """Whether the topic's cleanup policy has "compact" in it."""
        return policy.is_compacted(self.config)

    def is_compaction_due(self) -> bool:
        """Return whether the topic's settings ask for compaction now.

        Raises what opening raises, ClosedError, OSError.  Reads no more than a batch's header.
        """
        config = self.config
        if not self.is_compacted:
            return False
        plan = self._plan_round()
        if plan is None or plan.now == IN_DOUBT:
            return False
        oldest = -1
        if config.max_compaction_lag_ms != NEVER and plan.dirty.dirty_bytes:
            oldest = self._oldest_dirty(plan)
        return policy.is_compaction_due(
            plan.dirty,
            min_cleanable_dirty_ratio=config.min_cleanable_dirty_ratio,
            oldest=oldest,
            now=plan.now,
            max_compaction_lag_ms=config.max_compaction_lag_ms,
        )

    def _oldest_dirty(self, plan: Plan) -> int:
        """Return when the first dirty record was appended, -1 when that is not known."""
        segments = plan.attachment.known_segments()
        place = segments.floor(plan.dirty.start)
        with contextlib.suppress(ReplacedError):
            first = segments.segments[place].first_timestamp()
            return policy.oldest_append(plan.manifest.segments, place, first)
        return -1

    def dirty_range(self) -> policy.DirtyRange | None:
        """Return what could be compacted, as far as this process knows; None while nothing is open.

        Takes no lock and makes no system call.  Raises ClosedError.
        """
        attachment = self._attachment
        if attachment is None:
            return None
        marks, manifest = attachment.page.marks(), attachment.known_segments().manifest
        if manifest is None:
            return None
        return self._dirty_range(manifest, marks, manifest.clock.trusted)

    def _dirty_range(self, manifest: Manifest, marks: Marks, now: int) -> policy.DirtyRange:
        return policy.dirty_range(
            (*manifest.segments[:-1], active_facts(manifest, marks)),
            cleaned_offset=manifest.cleaned.offset,
            log_start_offset=marks.log_start_offset,
            high_watermark=marks.high_watermark,
            now=now,
            min_compaction_lag_ms=self.config.min_compaction_lag_ms,
        )

    def _or_again(self, plan: Plan) -> Plan:
        """Return a plan, or, where nothing is dirty, one by which tombstones go whose time is over.

        It takes the last clean segment for dirty: a round has to begin somewhere.
        """
        manifest, end = plan.manifest, plan.dirty.start
        last = manifest.cleaned.time
        is_over = plan.now != IN_DOUBT and 0 <= last <= plan.now - self.config.delete_retention_ms
        # A round that ended inside a segment was not the last: what follows is not dirty yet.
        is_whole = end in (facts.base_offset for facts in manifest.segments)
        if end < plan.dirty.end or not (is_over and is_whole):
            return plan
        for facts in reversed(manifest.segments[:-1]):
            if facts.size > 0 and facts.base_offset < end:
                start = max(facts.base_offset, manifest.log_start_offset)
                return plan._replace(
                    dirty=dataclasses.replace(plan.dirty, start=start, dirty_bytes=facts.size)
                )
        return plan

    def _plan_round(self) -> Plan | None:
        """Return what a round would go over now; None without records.  Writes nothing."""
        with self._lock:
            attachment = self._attached()
            if attachment is None:
                return None
            marks = attachment.page.marks()
            attachment.check_writable(marks)
            manifest = attachment.segments(marks).manifest
            if manifest is None:
                return None
            clock, is_trusted = self._judged_clock(manifest, marks, self._environment.clock())
            # In doubt nothing is old; a time that has passed for sure is what it was last known.
            dirty = self._dirty_range(manifest, marks, clock.trusted)
            now = clock.trusted if is_trusted else IN_DOUBT
            return Plan(attachment, manifest, dirty, clock.trusted, now)
