"""Group commit: threads that wait for durability share one fdatasync.

Knows the durable offset and how to advance it; must not know what is in the files it syncs.

Who is alone never waits: the sync in flight is the window in which others gather, and only a leader
that had company last time gives it an instant to append.  Whoever finds no sync in flight becomes
the leader and syncs for all that was appended by then.  Processes do not share a leader: each syncs
through its own descriptors, opened before the bytes were written, because an error is reported once
per descriptor (RELIABILITY A3).

Locks: `_turn`, held by this process's leader during the sync.  It is released *before* the result
is published, so a follower that still finds it taken has read an event count that the publication
of that leader or of a later one will change; no wake-up can be missed.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from typing import Final

from pylog import _native
from pylog._native import Events, SharedPage
from pylog.errors import DurabilityUnknownError
from pylog.storage.policy import LOOK_AGAIN_SECONDS

# Less than a sync takes.  Source: PostgreSQL's commit_delay, which also asks for commit_siblings.
_GATHER_SECONDS: Final = 20e-6


class GroupCommit:
    """Advances the durable offset of one partition.

    sync: makes everything durable that was appended before the call, and returns the offset up to
    which that is; raises OSError.
    """

    def __init__(
        self,
        page: SharedPage,
        sync: Callable[[], int],
        *,
        moves_high_watermark: bool,
        log_events: Events | None,
        path: str,
    ) -> None:
        self._page = page
        self._events = page.events
        self._sync = sync
        self._moves_high_watermark = moves_high_watermark
        self._log_events = log_events
        self._path = path
        # Reentrant, because such a lock knows its owner: see _give_up_turn.
        self._turn = threading.RLock()
        self._is_ended = False
        self._has_company = False  # whether somebody waited for a leader since the last one led

    def wait(self, end_offset: int, start: int | None = None) -> bool:
        """Return True when every record below `end_offset` is on disk.

        start: the first offset that the caller cares for, named in the error.
        Returns False after `end`: the partition's next attachment has to be asked.

        Raises DurabilityUnknownError when a sync failed, here or in another process.  Blocks for
        one or two fdatasyncs; releases the GIL; takes the page lock for an instant.
        """
        page, events = self._page, self._events
        while True:
            seen = events.value
            marks = page.marks()
            if marks.durable_offset >= end_offset:
                return True
            if marks.state == _native.FAILED:
                raise self._unknown("an earlier sync failed", errno.EIO, start, end_offset)
            if self._is_ended:
                return False
            try:
                is_leader = self._turn.acquire(blocking=False)
                if is_leader and self._lead(start, end_offset) >= end_offset:
                    return True
            except BaseException:
                # An interrupt may come after any call, also between the taking of the turn and its
                # result.  Nothing is known then, so the next waiter syncs again.
                self._give_up_turn()
                raise
            if not is_leader:
                self._has_company = True
                # Not for ever: a leader in another process may be killed before it tells.
                events.wait(seen, LOOK_AGAIN_SECONDS)

    def _give_up_turn(self) -> None:
        """Release the turn if this thread has it, and let the others look for it."""
        with contextlib.suppress(RuntimeError):
            self._turn.release()
        self._events.notify()

    def _unknown(
        self, reason: str | None, number: int | None, start: int | None, end: int
    ) -> DurabilityUnknownError:
        message = f"{self._path}: {reason}"
        return DurabilityUnknownError(message, number or errno.EIO, start, end)

    def _lead(self, start: int | None, end_offset: int) -> int:
        """Sync for all that was appended; return the durable offset after it."""
        if self._has_company:
            # They wake with this thread, and append again at once: one sync serves them all.
            self._has_company = False
            self._events.wait(self._events.value, _GATHER_SECONDS)
        try:
            durable_offset = self._sync()
        except OSError as error:
            self._turn.release()
            self._fail()
            raise self._unknown(error.strerror, error.errno, start, end_offset) from error
        self._turn.release()
        return self._publish(durable_offset)

    def _publish(self, durable_offset: int) -> int:
        with self._page:
            durable_offset = advance_durable_locked(
                self._page, durable_offset, moves_high_watermark=self._moves_high_watermark
            )
        if self._moves_high_watermark and self._log_events is not None:
            self._log_events.notify()
        return durable_offset

    @contextlib.contextmanager
    def turn(self) -> Iterator[bool]:
        """Take the turn unless somebody leads or it is over; yields whether it was taken.

        For other work that must not go on while the partition is closed or opened anew.
        """
        is_taken = False
        try:
            is_taken = not self._is_ended and self._turn.acquire(blocking=False)
            yield is_taken
        finally:
            if is_taken:
                self._give_up_turn()

    def pause(self, *, blocking: bool = False) -> bool:
        """Keep anybody from leading again through this object, for good; False if one leads now.

        blocking: wait for who leads now.  `end` has to follow.
        """
        try:
            return self._turn.acquire(blocking=blocking)
        except BaseException:
            self._give_up_turn()
            raise

    def end(self) -> None:
        """Send away who still waits: nobody will sync for them here."""
        self._is_ended = True
        self._sync = _nothing  # and with it the partition, whose maps go with its last reference
        self._events.notify()

    def _fail(self) -> None:
        """Make the partition read-only in all processes: a failed sync is never retried (A1)."""
        with self._page:
            self._page.publish(state=_native.FAILED)


def _nothing() -> int:
    return 0


def advance_durable_locked(
    page: SharedPage, durable_offset: int, *, moves_high_watermark: bool
) -> int:
    """Publish a durable offset; return the one that holds now.

    That is another when somebody was further already, and when the partition failed meanwhile: then
    this sync proves nothing, because an error may have been reported to another descriptor only.
    """
    marks = page.marks()
    if marks.state == _native.FAILED or marks.durable_offset >= durable_offset:
        return marks.durable_offset
    if moves_high_watermark:
        high_watermark = max(marks.high_watermark, durable_offset)
        page.publish(durable_offset=durable_offset, high_watermark=high_watermark)
    else:
        page.publish(durable_offset=durable_offset)
    return durable_offset
