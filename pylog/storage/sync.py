"""Group commit: threads that wait for durability share one fdatasync.

Knows the durable offset and how to advance it; must not know what is in the files it syncs.

Who finds nobody leading leads: it syncs for all that was appended by then, and who comes meanwhile
waits for the next.  So nobody waits for company, and company gathers by itself while a sync runs.
Processes do not share a leader: each syncs through its own descriptors, opened before the bytes
were written, because an error is reported once per descriptor (RELIABILITY A3).

Locks: the turn, held by this process's leader from before the sync until its result is published.
It is the lead of a CommitQueue, which says there why no wake-up can be missed.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

from pylog import _native
from pylog._native import CommitQueue, Events, Marks, SharedPage
from pylog.errors import DurabilityUnknownError


class GroupCommit:
    """Advances the durable offset of one partition.

    sync: makes everything durable that was appended before the call, and returns the marks of when
    it began; raises OSError.
    """

    def __init__(
        self,
        page: SharedPage,
        sync: Callable[[], Marks | None],
        *,
        log_events: Events | None,
        path: str,
    ) -> None:
        self._page = page
        self._events = page.events
        self._sync: Callable[[], Marks | None] = sync
        self._log_events = log_events
        self._path = path
        self._queue = CommitQueue()
        self._truncated_at = page.marks().truncated_at

    def wait(self, end_offset: int, start: int | None = None) -> bool:
        """Return True when every record below `end_offset` is on disk.

        start: the first offset that the caller cares for, named in the error.
        Returns False after `end`: the partition's next attachment has to be asked.

        Raises DurabilityUnknownError when a sync failed, here or in another process.  Blocks for
        one or two fdatasyncs; releases the GIL; takes the page lock for an instant.
        Source: MySQL's binary log group commit, whose leader is who finds the queue empty.
        """
        queue = self._queue
        marks = self._page.marks()
        if marks.truncated_at != self._truncated_at:
            queue.restart(marks.durable_offset)
            self._truncated_at = marks.truncated_at
        while True:
            try:
                answer = queue.wait(end_offset)
                if answer != _native.LEADS:
                    return answer == _native.COVERED
                if self._lead(start, end_offset) >= end_offset:
                    return True
            except BaseException:
                # An interrupt may come after any call, also between the taking of the turn and its
                # result.  Nothing is known then, so the next leader looks for itself.
                queue.give_up()
                raise

    def _unknown(
        self, reason: str | None, number: int | None, start: int | None, end: int
    ) -> DurabilityUnknownError:
        message = f"{self._path}: {reason}"
        return DurabilityUnknownError(message, number or errno.EIO, start, end)

    def _lead(self, start: int | None, end_offset: int) -> int:
        """Sync for all that was appended, and give up the turn; return the durable offset then."""
        marks = self._page.marks()
        if marks.state == _native.FAILED and marks.durable_offset < end_offset:
            raise self._unknown("an earlier sync failed", errno.EIO, start, end_offset)
        if marks.log_end_offset < end_offset:
            raise self._unknown("the log was truncated meanwhile", None, start, end_offset)
        durable_offset = marks.durable_offset
        if durable_offset < end_offset:  # else somebody else has synced
            try:
                synced = self._sync()
            except OSError as error:
                self._fail()
                raise self._unknown(error.strerror, error.errno, start, end_offset) from error
            durable_offset = durable_offset if synced is None else self._publish(synced)
        self._queue.finish(durable_offset)
        return durable_offset

    def _publish(self, synced: Marks) -> int:
        with self._page:
            before = self._page.marks()
            durable_offset = advance_durable_locked(self._page, synced, synced.log_end_offset)
            # Held, it is for who tells the other replicas how far this one is.
            is_news = before.is_held or self._page.marks().high_watermark > before.high_watermark
        if is_news and self._log_events is not None:
            self._log_events.notify()
        return durable_offset

    @contextlib.contextmanager
    def turn(self) -> Iterator[bool]:
        """Take the turn unless somebody leads or it is over; yields whether it was taken.

        For other work that must not go on while the partition is closed or opened anew.
        """
        try:
            yield self._queue.take()
        finally:
            self._queue.give_up()  # which does nothing when somebody else leads

    def pause(self, *, blocking: bool = False) -> bool:
        """Keep anybody from leading again through this object, for good; False if one leads now.

        blocking: wait for who leads now.  `end` has to follow.
        """
        try:
            return self._queue.take(blocking=blocking)
        except BaseException:
            self._queue.give_up()
            raise

    def end(self) -> None:
        """Send away who still waits: nobody will sync for them here."""
        self._queue.end()
        self._sync = _nothing  # and with it the partition, whose maps go with its last reference
        self._events.notify()

    def abandon(self) -> None:
        """In a forked child: the threads that lead and wait are the parent's."""
        self._queue.abandon()

    def _fail(self) -> None:
        """Make the partition read-only in all processes: a failed sync is never retried (A1)."""
        with self._page:
            self._page.publish(state=_native.FAILED)


def _nothing() -> None:
    """Sync nothing."""


def advance_durable_locked(page: SharedPage, synced: Marks, durable_offset: int) -> int:
    """Publish a durable offset, and with it what readers may see; return the one that holds now.

    synced: the marks of when the sync began.  A high watermark that is held stays where it is: the
    other replicas tell what readers may see.
    The offset that holds is another when somebody was further already, and when the partition
    failed meanwhile: then this sync proves nothing, because an error may have been reported to
    another descriptor only.  After a truncation, too: other records have these offsets now.
    """
    marks = page.marks()
    is_void = marks.state == _native.FAILED or marks.truncated_at != synced.truncated_at
    if is_void or marks.durable_offset >= durable_offset:
        return marks.durable_offset
    high_watermark = visible_end(marks, durable_offset)
    page.publish(durable_offset=durable_offset, high_watermark=high_watermark)
    return durable_offset


def visible_end(marks: Marks, durable_offset: int) -> int:
    """Return up to where readers see when everything below `durable_offset` is on disk."""
    if marks.is_held:
        return marks.high_watermark
    return max(marks.high_watermark, durable_offset)
